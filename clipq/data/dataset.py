"""What a data set is to the rest of the package: three splits that give batches of (images, labels)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

Split = Literal["train", "val", "test"]


class TensorPair(NamedTuple):
    """Images x, float32 [n, channels, height, width], and their classes y, int64 [n]."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class Batches:
    """The batches of one pass over a split held in memory; ``len`` is their number.

    order: the images' positions in order; None for the split's own order.
    """

    pair: TensorPair
    batch_size: int
    order: torch.Tensor | None = None

    def __len__(self) -> int:
        return -(-len(self.pair.y) // self.batch_size)

    def __iter__(self) -> Iterator[TensorPair]:
        for start in range(0, len(self.pair.y), self.batch_size):
            where: slice | torch.Tensor = slice(start, start + self.batch_size)
            if self.order is not None:
                where = self.order[where]
            yield TensorPair(self.pair.x[where], self.pair.y[where])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    name: as in a report.
    train, val, test: val is held out of the training images, so that no choice is made on the test images.
    n_classes: labels are 0 .. n_classes - 1.
    sha256: of the content (pixels, labels and split), to tell whether a data set changed between two runs.
    """

    name: str
    train: TensorPair
    val: TensorPair
    test: TensorPair
    n_classes: int
    sha256: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def size(self, split: Split) -> int:
        return len(getattr(self, split).y)

    def loader(
        self, split: Split, batch_size: int, *, train: bool = False, seed: int = 0, epoch: int = 0, workers: int = 0
    ) -> Batches:
        """One pass over a split, the last batch as small as it comes.

        Args:
            split: which images.
            batch_size: images a batch.
            train: a shuffled pass, its order determined by (seed, epoch), so that a resumed run sees what the killed
                one would have; otherwise the split's own order.
            workers: processes that read images; of no use to a data set in memory.
        """
        pair: TensorPair = getattr(self, split)
        order = shuffled(len(pair.y), seed, epoch) if train else None
        return Batches(pair, batch_size, order)

    def subset(self, n: int, seed: int = 0) -> TensorPair:
        """``n`` training images (all, where there are fewer), drawn without replacement by ``seed``, in order."""
        chosen = subset_indices(self.size("train"), n, seed)
        return TensorPair(self.train.x[chosen], self.train.y[chosen])


def shuffled(n: int, seed: int, epoch: int) -> torch.Tensor:
    """A permutation of 0 .. n-1 that (seed, epoch) determines; epochs differ in theirs."""
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))
    return torch.randperm(n, generator=generator)


def subset_indices(n: int, size: int, seed: int) -> torch.Tensor:
    """``size`` of 0 .. n-1 (all, where there are fewer), ascending; fixed by ``seed``."""
    return shuffled(n, seed, 0)[:size].sort().values


def every_nth(labels: np.ndarray, n: int, offset: int = 0) -> np.ndarray:
    """A stratified choice without chance: of each class, in the order of the images, every n-th one.

    Returns:
        bool, of labels' shape: True for a class's image number ``i`` (from 0) with ``i % n == n - 1 - offset``.
    """
    chosen = np.zeros(labels.shape, bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[members[n - 1 - offset :: n]] = True
    return chosen


def fingerprint(*arrays: np.ndarray) -> str:
    """sha256 of the arrays' types, shapes and content."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
