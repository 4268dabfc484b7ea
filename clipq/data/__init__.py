"""The data sets of the experiments, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from clipq.data.dataset import Dataset, Split, TensorPair
from clipq.data.digits import load_digits
from clipq.data.idx_folder import load_idx_folder
from clipq.data.mnist import load_mnist
from clipq.errors import DataError

__all__ = ["DATASETS", "Dataset", "Split", "TensorPair", "load_dataset"]


def _digits(data_dir: Path | None) -> Dataset:
    return load_digits()


def _idx(data_dir: Path | None) -> Dataset:
    if data_dir is None:
        raise DataError("data set idx: expected a folder of IDX files (--data-dir), got none")
    return load_idx_folder(data_dir)


#: name -> what loads it from the folder that the user names, if any.
DATASETS: dict[str, Callable[[Path | None], Dataset]] = {"digits": _digits, "mnist": load_mnist, "idx": _idx}


def load_dataset(name: str, data_dir: str | Path | None = None) -> Dataset:
    """The data set ``name``, a key of ``DATASETS``: ``digits`` comes with scikit-learn; ``mnist`` is looked for in
    ``data_dir``, ``$CLIPQ_DATA`` and the cache, and downloaded otherwise; ``idx`` is any data set in MNIST's format in
    ``data_dir``.

    Raises:
        DataError: no such name, or the data are missing or damaged; says which file.
    """
    if name not in DATASETS:
        raise DataError(f"data set: expected one of {', '.join(DATASETS)}, got {name!r}")
    return DATASETS[name](Path(data_dir) if data_dir else None)
