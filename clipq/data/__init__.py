"""The data sets of the experiments, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clipq.data.dataset import Batches, Dataset, Split, TensorDataset, TensorPair
from clipq.data.image_options import Preprocessing
from clipq.errors import DataError

__all__ = [
    "DATASETS", "Batches", "Dataset", "Preprocessing", "Split", "TensorDataset", "TensorPair", "load_dataset",
    "usual_preparation",
]  # fmt: skip

Loader = Callable[[Path | None, Preprocessing | None], Dataset]


def _digits(data_dir: Path | None, images: Preprocessing | None) -> Dataset:
    from clipq.data.digits import load_digits

    _refuse("digits", images)
    if data_dir is not None:
        raise DataError(f"data set digits: comes with scikit-learn; expected no folder (--data-dir), got {data_dir}")
    return load_digits()


def _mnist(data_dir: Path | None, images: Preprocessing | None) -> Dataset:
    from clipq.data.mnist import load_mnist

    _refuse("mnist", images)
    return load_mnist(data_dir)


def _idx(data_dir: Path | None, images: Preprocessing | None) -> Dataset:
    from clipq.data.idx_folder import load_idx_folder

    _refuse("idx", images)
    if data_dir is None:
        raise DataError("data set idx: expected a folder of IDX files (--data-dir), got none")
    return load_idx_folder(data_dir)


def _cifar(name: str) -> Loader:
    def load(data_dir: Path | None, images: Preprocessing | None) -> Dataset:
        from clipq.data.cifar import load_cifar

        return load_cifar(name, data_dir, images)

    return load


def _imagenet(data_dir: Path | None, images: Preprocessing | None) -> Dataset:
    from clipq.data.imagenet import load_imagenet

    return load_imagenet(data_dir, images)


def _refuse(name: str, images: Preprocessing | None) -> None:
    if images is not None:
        raise DataError(f"data set {name}: its pixels are fixed; expected no options for images, got {images}")


#: name -> what loads it from the folder that the user names, if any.
DATASETS: dict[str, Loader] = {
    "digits": _digits,
    "mnist": _mnist,
    "idx": _idx,
    "cifar10": _cifar("cifar10"),
    "cifar100": _cifar("cifar100"),
    "imagenet": _imagenet,
}


def usual_preparation(name: str) -> Preprocessing | None:
    """How the pictures of the data set ``name`` are usually prepared; None of one whose pixels are fixed."""
    if name == "imagenet":
        return Preprocessing()
    if name in ("cifar10", "cifar100"):
        from clipq.data.cifar import DEFAULT

        return DEFAULT
    return None


def load_dataset(
    name: str, data_dir: str | Path | None = None, images: Preprocessing | None = None, shift: int = 0
) -> Dataset:
    """The data set ``name``, a key of ``DATASETS``.

    ``digits`` comes with scikit-learn.  ``mnist`` is looked for in ``data_dir``, ``$CLIPQ_DATA`` and the cache, and
    downloaded otherwise.  ``idx`` is any data set in MNIST's format in ``data_dir``.  ``cifar10`` and ``cifar100``
    (binary versions) and ``imagenet`` (any folders of pictures) are in ``data_dir`` or ``$CLIPQ_DATA``.

    Args:
        images: how pictures are prepared, for CIFAR and ImageNet; None: the usual way.
        shift: pixels by which training images are moved at random; of data sets in memory (the others have ``images``).

    Raises:
        DataError: no such name, or the data are missing or damaged; says which file.
    """
    if name not in DATASETS:
        raise DataError(f"data set: expected one of {', '.join(DATASETS)}, got {name!r}")
    dataset = DATASETS[name](Path(data_dir) if data_dir else None, images)
    if not shift:
        return dataset
    if not isinstance(dataset, TensorDataset):
        raise DataError(f"data set {name}: expected no shift (its [data.images] has pad and augmentation), got {shift}")
    return replace(dataset, shift=shift)
