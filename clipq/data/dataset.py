"""What a data set is to the rest of the package: three splits that give batches of (images, labels)."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional

from clipq.distributed import own_samples

Split = Literal["train", "val", "test"]

#: A batch that is only evaluated holds at most so many images, and so many numbers; its activations many times more.
EVALUATION_IMAGES, EVALUATION_NUMBERS = 1000, 10_000_000


class TensorPair(NamedTuple):
    """Images x, float32 [n, channels, height, width], and their classes y, int64 [n]."""

    x: torch.Tensor
    y: torch.Tensor


class Batches(Protocol):
    """The batches of one pass over a split; ``len`` is their number."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[TensorPair]: ...
    def shares(self, rank: int, world_size: int, first: int) -> Iterator[tuple[TensorPair, float]]:
        """One process's part of each batch, and its weight, as ``clipq.distributed.share`` cuts them.

        From the batch number ``first`` on; what is not given is not read.
        """


class Dataset(ABC):
    """A data set.

    name: as in a report.
    n_classes: labels are 0 .. n_classes - 1.
    sha256: of the content and the split, to tell whether a data set changed between two runs.
    input_shape: (channels, height, width) of an image.

    The split ``val`` is held out of the training images, so that no choice is made on the test images.
    """

    name: str
    n_classes: int
    sha256: str

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def evaluation_batch(self) -> int:
        """How many images are evaluated at a time: as many as memory surely has room for."""
        return max(1, min(EVALUATION_IMAGES, EVALUATION_NUMBERS // math.prod(self.input_shape)))

    @abstractmethod
    def size(self, split: Split) -> int:
        """The number of images of a split."""

    def left_out(self, split: Split) -> int:
        """How many of a split's images could not be read so far, and were left out."""
        return 0

    def measured(self, split: Split) -> int:
        """How many images of a split an error is that of, which has been measured on all of it."""
        return self.size(split) - self.left_out(split)

    @abstractmethod
    def check(self, workers: int = 0) -> None:
        """Reads all images of ``val`` and ``test`` once: a run meets a damaged one of them late, or at its very end.

        Raises:
            DataError: one cannot be read; names it.
        """

    @abstractmethod
    def loader(
        self, split: Split, batch_size: int, *, train: bool = False, seed: int = 0, epoch: int = 0, workers: int = 0
    ) -> Batches:
        """One pass over a split, the last batch as small as it comes.

        Args:
            split: which images.
            batch_size: images a batch.
            train: a shuffled pass with the data set's augmentation, all of it determined by (seed, epoch), so that a
                resumed run sees what the killed one would have; otherwise the split's own order, nothing random.
            workers: processes that read and prepare images ahead; of no use to a data set in memory.
        """

    @abstractmethod
    def subset(self, n: int, seed: int = 0, workers: int = 0) -> TensorPair:
        """``n`` training images (all, where there are fewer) in memory, drawn without replacement by ``seed``, in their
        order, without augmentation."""


@dataclass(frozen=True)
class TensorBatches:
    """Batches of a split in memory.

    order: the images' positions in order; None for the split's own order.
    shifts: int64 [n, 2], rows down and columns to the right by which each image of that order is moved; None for none.
    """

    pair: TensorPair
    batch_size: int
    order: torch.Tensor | None = None
    shifts: torch.Tensor | None = None

    def __len__(self) -> int:
        return -(-len(self.pair.y) // self.batch_size)

    def __iter__(self) -> Iterator[TensorPair]:
        for start in range(0, len(self.pair.y), self.batch_size):
            yield self._images(slice(start, start + self.batch_size))

    def shares(self, rank: int, world_size: int, first: int) -> Iterator[tuple[TensorPair, float]]:
        n = len(self.pair.y)
        for start in range(first * self.batch_size, n, self.batch_size):
            own, weight = own_samples(min(self.batch_size, n - start), rank, world_size)
            yield self._images(slice(start + own.start, start + own.stop)), weight

    def _images(self, at: slice) -> TensorPair:
        where = at if self.order is None else self.order[at]
        x = self.pair.x[where]
        return TensorPair(x if self.shifts is None else shifted(x, self.shifts[at]), self.pair.y[where])


@dataclass(frozen=True, eq=False)
class TensorDataset(Dataset):
    """A data set in memory.

    shift: pixels by which its training images are moved at most, at random, in each direction.
    """

    name: str
    train: TensorPair
    val: TensorPair
    test: TensorPair
    n_classes: int
    sha256: str
    shift: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def size(self, split: Split) -> int:
        return len(getattr(self, split).y)

    def check(self, workers: int = 0) -> None:
        """All of them are in memory."""

    def loader(
        self, split: Split, batch_size: int, *, train: bool = False, seed: int = 0, epoch: int = 0, workers: int = 0
    ) -> TensorBatches:
        pair: TensorPair = getattr(self, split)
        if not train:
            return TensorBatches(pair, batch_size)
        shifts = random_shifts(len(pair.y), self.shift, seed, epoch) if self.shift else None
        return TensorBatches(pair, batch_size, shuffled(len(pair.y), seed, epoch), shifts)

    def subset(self, n: int, seed: int = 0, workers: int = 0) -> TensorPair:
        chosen = subset_indices(self.size("train"), n, seed)
        return TensorPair(self.train.x[chosen], self.train.y[chosen])


def shuffled(n: int, seed: int, epoch: int) -> torch.Tensor:
    """A permutation of 0 .. n-1 that (seed, epoch) determines; epochs differ in theirs."""
    return torch.randperm(n, generator=_generator(seed, epoch))


def random_shifts(n: int, most: int, seed: int, epoch: int) -> torch.Tensor:
    """int64 [n, 2] in -most .. most, which (seed, epoch) determines."""
    return torch.randint(-most, most + 1, (n, 2), generator=_generator(seed, epoch, 1))


def _generator(*words: int) -> torch.Generator:
    mixed = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]) << 32 | int(mixed[1]))


def shifted(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Each image [channels, height, width] of x moved by its rows (down) and columns (to the right), [n, 2]; zeros come
    in at the other side."""
    n, channels, height, width = x.shape
    most = int(by.abs().max()) if len(by) else 0
    padded = functional.pad(x, (most,) * 4)
    rows = (most - by[:, 0, None] + torch.arange(height))[:, None, :, None]
    columns = (most - by[:, 1, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]


def subset_indices(n: int, size: int, seed: int) -> torch.Tensor:
    """``size`` of 0 .. n-1 (all, where there are fewer), ascending; fixed by ``seed``."""
    return shuffled(n, seed, 0)[:size].sort().values


def every_nth(labels: np.ndarray, n: int, offset: int = 0) -> np.ndarray:
    """A stratified choice without chance: of each class, in the order of the images, every n-th one.

    Returns:
        bool, of labels' shape: True for a class's image number ``i`` (from 0) with ``i % n == n - 1 - offset``.
    """
    return _by_class(labels, lambda members: members[n - 1 - offset :: n])


def held_out(labels: np.ndarray, n: int) -> np.ndarray:
    """As ``every_nth``, but one image at least of each class that has two."""
    return _by_class(
        labels, lambda members: members[min(n, len(members)) - 1 :: n] if len(members) > 1 else members[:0]
    )


def _by_class(labels: np.ndarray, choose: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    chosen = np.zeros(labels.shape, bool)
    for members in np.split(order, starts):
        chosen[choose(members)] = True
    return chosen


def fingerprint(*arrays: np.ndarray) -> str:
    """sha256 of the arrays' types, shapes and content."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def folders_to_search(data_dir: str | Path | None, environment: str | None, names: tuple[str, ...]) -> list[Path]:
    """Where a data set may be: the folder that the user names, else ``environment``'s (the value of ``$CLIPQ_DATA``),
    itself or one of its subfolders ``names``."""
    root = data_dir or environment
    return [Path(root), *(Path(root, name) for name in names)] if root else []
