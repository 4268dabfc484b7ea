"""Made images in the shape of a data set that need not be here: what a dry run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from clipq.data import cifar, load_dataset
from clipq.data.dataset import TensorDataset, TensorPair
from clipq.data.image_options import Preprocessing
from clipq.errors import DataError

MADE = "made, no images read"


@dataclass(frozen=True)
class DataShape:
    """What can be said of a data set without its images.

    input_shape: (channels, height, width) of an input.  n_classes: labels are 0 .. n_classes - 1.
    n_train: training images, without those held out (about, where images of a class are not equally many).
    """

    input_shape: tuple[int, int, int]
    n_classes: int
    n_train: int


def data_shape(name: str, data_dir: str | Path | None = None, images: Preprocessing | None = None) -> DataShape:
    """The shape of the data set ``name``: of the one in ``data_dir``, if that is given, else as it is published.

    Raises:
        DataError: as ``load_dataset`` of ``data_dir``, or a data set that has no published form.
    """
    if data_dir:
        dataset = load_dataset(name, data_dir, images)
        return DataShape(dataset.input_shape, dataset.n_classes, dataset.size("train"))
    crop = (images or (Preprocessing() if name == "imagenet" else cifar.DEFAULT)).crop
    known = {
        "digits": DataShape((1, 8, 8), 10, 1_266),
        "mnist": DataShape((1, 28, 28), 10, 55_006),
        "cifar10": DataShape((3, crop, crop), 10, 45_000),
        "cifar100": DataShape((3, crop, crop), 100, 45_000),
        "imagenet": DataShape((3, crop, crop), 1000, 1_281_167 * 49 // 50),
    }
    if name not in known:
        raise DataError(f"data set {name}: its shape is not known without it; expected its folder (--data-dir)")
    return known[name]


def made_dataset(shape: DataShape, n: int, images: Preprocessing | None = None, seed: int = 0) -> TensorDataset:
    """``n`` images of pixels drawn uniformly, prepared as ``images`` says (without: in [0, 1)), with labels drawn
    likewise; all splits are the same."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape.input_shape, generator=generator)
    if images is not None:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.mean, images.std))
        x.mul_(255).sub_(mean).div_(std)
    pair = TensorPair(x, torch.randint(shape.n_classes, (n,), generator=generator))
    return TensorDataset(MADE, pair, pair, pair, shape.n_classes, MADE)
