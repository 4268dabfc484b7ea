"""A data set in MNIST's four IDX files, from any folder: images of any size, any number of classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from clipq.data.dataset import TensorDataset, TensorPair, fingerprint, held_out
from clipq.data.idx import read_idx
from clipq.errors import DataError

#: What the files are for, and the usual names; a prefix (``emnist-letters-``), ``test`` for ``t10k``, a dot before
#: ``idx`` and ``.gz`` are accepted.
IDX_FILES = {
    "train images": "train-images-idx3-ubyte",
    "train labels": "train-labels-idx1-ubyte",
    "test images": "t10k-images-idx3-ubyte",
    "test labels": "t10k-labels-idx1-ubyte",
}
_NAME = re.compile(r"(?:.*[-_.])?(train|t10k|test)-(images|labels)[-.]idx\d-ubyte(?:\.gz)?")
_KINDS = {"u": "bytes", "f": "floats"}
HELD_OUT = 12  # one training image of so many is val: 5,000 of MNIST's 60,000


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Those of the four files that are in ``folder``, by their key in ``IDX_FILES``; a plain file is taken before its
    ``.gz``.

    Raises:
        DataError: two files could be the same one.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        key = f"{'train' if match[1] == 'train' else 'test'} {match[2]}"
        known = found.setdefault(key, path)
        if path.name.removesuffix(".gz") != known.name.removesuffix(".gz"):
            raise DataError(f"{folder}: {key}: expected one file, got {known.name} and {path.name}")
    return found


def load_idx_folder(folder: str | Path, name: str | None = None) -> TensorDataset:
    """The data set in ``folder``.  Bytes become pixels x/256, as with Caffe's scale of 0.00390625; pixels in floating
    point stay as they are.  Of each class every twelfth training image (of a smaller one, one) is held out as ``val``.

    Args:
        folder: holds the four files of ``IDX_FILES``.
        name: the data set's, for a report; the folder's name if it is not given.

    Raises:
        DataError: files are missing, damaged, or do not belong together, a pixel is not finite in float32, or a label
            is below 0 or above the number of training images; names them.
    """
    folder = Path(folder)
    files = find_idx_files(folder)
    missing = [usual for key, usual in IDX_FILES.items() if key not in files]
    if missing:
        raise DataError(f"{folder}: expected (plain or .gz) {', '.join(missing)}, got no such file")
    images, labels = _images_and_labels(files["train images"], files["train labels"])
    test_images, test_labels = _images_and_labels(files["test images"], files["test labels"])
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{files['test images']}: expected images of {_size(images)} as in {files['train images'].name}, "
            f"got {_size(test_images)}"
        )
    if images.dtype.kind != test_images.dtype.kind:  # bytes are scaled, floats are not
        raise DataError(
            f"{files['test images']}: expected {_KINDS[images.dtype.kind]} as in {files['train images'].name}, "
            f"got {_KINDS[test_images.dtype.kind]}"
        )
    for key, given in (("train labels", labels), ("test labels", test_labels)):
        if given.max() > len(images):
            raise DataError(
                f"{files[key]}: expected labels of at most the number of training images, {len(images)}, "
                f"got {given.max()}"
            )
    val = held_out(labels, HELD_OUT)
    if not val.any():
        raise DataError(f"{files['train labels']}: expected two images of a class or more, got one of each")
    return TensorDataset(
        name=name or folder.resolve().name,
        train=_pair(images[~val], labels[~val]),
        val=_pair(images[val], labels[val]),
        test=_pair(test_images, test_labels),
        n_classes=int(max(labels.max(), test_labels.max())) + 1,
        sha256=fingerprint(images, labels, test_images, test_labels, val),
    )


def _images_and_labels(image_file: Path, label_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, channels, height, width] and labels [n] of one pair of files."""
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim not in (3, 4) or images.dtype.str not in ("|u1", ">f4", ">f8"):
        raise DataError(
            f"{image_file}: expected bytes or floats [n, height, width] or [n, channels, height, width], "
            f"got {images.dtype} of shape {list(images.shape)}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataError(f"{label_file}: expected whole numbers [n], got {labels.dtype} of shape {list(labels.shape)}")
    if len(images) != len(labels):
        raise DataError(f"{label_file}: {len(labels)} labels for the {len(images)} images of {image_file.name}")
    if images.size == 0:
        raise DataError(f"{image_file}: expected images, got none")
    if labels.min() < 0:
        raise DataError(f"{label_file}: expected labels from 0, got {labels.min()}")
    _check_finite(image_file, images)
    return images if images.ndim == 4 else images[:, None], labels


def _check_finite(file: Path, images: np.ndarray) -> None:
    """Refuses pixels that are not finite, or too large for float32."""
    if images.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(images.astype(np.float32))
    if not finite.all():
        first = np.argmin(finite)
        number = np.unravel_index(first, images.shape)[0]
        raise DataError(f"{file}: image {number}, counted from 0: expected finite float32, got {images.flat[first]}")


def _pair(images: np.ndarray, labels: np.ndarray) -> TensorPair:
    scale = 1 / 256 if images.dtype == np.uint8 else 1.0
    return TensorPair(
        torch.from_numpy(images.astype(np.float32) * np.float32(scale)), torch.from_numpy(labels.astype(np.int64))
    )


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))
