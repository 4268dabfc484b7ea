"""Data sets of pictures that are read, prepared and augmented as they are needed, by worker processes if asked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipq.caffemodel import read_mean
from clipq.data.dataset import Dataset, Split, TensorPair, shuffled, subset_indices
from clipq.data.image_options import Preprocessing
from clipq.data.preprocessing import prepare
from clipq.distributed import own_samples
from clipq.errors import DataError, PictureError


class Pictures(Protocol):
    """The pictures of one split.  labels: int64 [n]."""

    @property
    def labels(self) -> np.ndarray: ...

    def image(self, index: int) -> Image.Image:
        """RGB; any exception means that it cannot be read."""

    def where(self, index: int) -> str:
        """How an error names the picture."""


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of the pictures of another source, ascending ``indices``."""

    pictures: Pictures
    indices: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        return self.pictures.labels[self.indices]

    def image(self, index: int) -> Image.Image:
        return self.pictures.image(int(self.indices[index]))

    def where(self, index: int) -> str:
        return self.pictures.where(int(self.indices[index]))


class _Unreadable(NamedTuple):
    """A picture's number, and the reason why it cannot be read."""

    number: int
    reason: str


@dataclass(frozen=True)
class _Prepared:
    """What the workers hold: picture number -> (input, label), or the reason why there is none.

    seed, epoch: of the augmentation; None for none.
    """

    pictures: Pictures
    options: Preprocessing
    mean: np.ndarray
    augmentation: tuple[int, int] | None

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | _Unreadable:
        rng = None if self.augmentation is None else np.random.default_rng([*self.augmentation, index])
        try:
            image = self.pictures.image(index)
            return prepare(image, self.options, self.mean, rng), int(self.pictures.labels[index])
        except Exception as error:  # a decoder may raise anything on a damaged file
            return _Unreadable(index, f"{self.pictures.where(index)}: {type(error).__name__}: {error}")


def _collate(items: Sequence[tuple[torch.Tensor, int] | _Unreadable]) -> tuple[TensorPair | None, list[_Unreadable]]:
    good = [item for item in items if not isinstance(item, _Unreadable)]
    pair = TensorPair(torch.stack([x for x, _ in good]), torch.tensor([y for _, y in good])) if good else None
    return pair, [item for item in items if isinstance(item, _Unreadable)]


class ImageBatches:
    """Batches of prepared pictures.

    left_out: the numbers of those that could not be read are added to it.

    Raises:
        PictureError: while iterating, a picture that cannot be read, unless ``Preprocessing.skip_corrupt``.
    """

    def __init__(
        self, prepared: _Prepared, order: np.ndarray, batch_size: int, workers: int, left_out: set[int]
    ) -> None:
        self._skip, self._left_out = prepared.options.skip_corrupt, left_out
        self._prepared, self._workers = prepared, workers
        self._batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[TensorPair]:
        return self._read(self._batches)

    def shares(self, rank: int, world_size: int, first: int) -> Iterator[tuple[TensorPair, float]]:
        """As ``Batches``; with ``skip_corrupt`` all is read, as what is left of a batch is shared."""
        if self._skip:
            for pair in islice(self, first, None):
                own, weight = own_samples(len(pair.y), rank, world_size)
                yield TensorPair(pair.x[own], pair.y[own]), weight
            return
        batches = self._batches[first:]
        cuts = [own_samples(len(batch), rank, world_size) for batch in batches]
        parts = self._read([batch[own] for batch, (own, _) in zip(batches, cuts, strict=True)])
        yield from zip(parts, (weight for _, weight in cuts), strict=True)

    def _read(self, batches: list[list[int]]) -> Iterator[TensorPair]:
        loader: DataLoader = DataLoader(
            self._prepared,  # type: ignore[arg-type]
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )
        for pair, failures in loader:
            if failures and not self._skip:
                raise PictureError(f"{failures[0].reason} (data.images.skip_corrupt=true leaves such images out)")
            for failure in failures:
                warnings.warn(f"left out: {failure.reason}", stacklevel=2)
                self._left_out.add(failure.number)
            if pair is not None:
                yield TensorPair(*pair)


class ImageDataset(Dataset):
    """A data set of pictures.

    Args:
        name, n_classes, sha256: see ``Dataset``.
        splits: the pictures of train, val and test.
        options: how they are prepared.

    Raises:
        DataError: the mean image cannot be read, or is not of the pictures' size.
    """

    def __init__(
        self, name: str, n_classes: int, sha256: str, splits: Mapping[Split, Pictures], options: Preprocessing
    ) -> None:
        self.name, self.n_classes, self.sha256 = name, n_classes, sha256
        self.splits, self.options = splits, options
        self._left_out: dict[Split, set[int]] = {split: set() for split in splits}
        self.mean = np.asarray(options.mean, np.float32)
        if options.mean_file:
            self.mean = np.ascontiguousarray(read_mean(options.mean_file).transpose(1, 2, 0), dtype=np.float32)
            expected = (options.size, options.size, 3)
            if self.mean.shape != expected:
                raise DataError(f"{options.mean_file}: expected a mean of shape {expected}, got {self.mean.shape}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return 3, self.options.crop, self.options.crop

    def size(self, split: Split) -> int:
        return len(self.splits[split].labels)

    def left_out(self, split: Split) -> int:
        return len(self._left_out[split])

    def check(self, workers: int = 0) -> None:
        if self.options.skip_corrupt:
            return
        for split in ("val", "test"):
            for _ in self.loader(split, self.evaluation_batch, workers=workers):
                pass

    def loader(
        self, split: Split, batch_size: int, *, train: bool = False, seed: int = 0, epoch: int = 0, workers: int = 0
    ) -> ImageBatches:
        prepared = _Prepared(self.splits[split], self.options, self.mean, (seed, epoch) if train else None)
        n = self.size(split)
        order = shuffled(n, seed, epoch).numpy() if train else np.arange(n)
        return ImageBatches(prepared, order, batch_size, workers, self._left_out[split])

    def subset(self, n: int, seed: int = 0, workers: int = 0) -> TensorPair:
        indices = subset_indices(self.size("train"), n, seed).numpy()
        prepared = _Prepared(self.splits["train"], self.options, self.mean, None)
        batches = list(ImageBatches(prepared, indices, 256, workers, self._left_out["train"]))
        if not batches:
            raise DataError(f"{self.name}: none of {len(indices)} images could be read")
        return TensorPair(torch.cat([pair.x for pair in batches]), torch.cat([pair.y for pair in batches]))
