"""CIFAR-10 and CIFAR-100 from their binary versions: records of the label bytes and 3,072 pixels, colour planes of
32 x 32."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipq.data.dataset import Dataset, Split, fingerprint, folders_to_search, held_out
from clipq.data.image_dataset import ImageDataset, Pictures
from clipq.data.image_options import Preprocessing
from clipq.errors import DataError

HELD_OUT = 10  # one training image of so many is val: 5,000
#: The usual preparation: normalized with CIFAR-10's mean and deviation, random crops of the padded image, mirrored.
DEFAULT = Preprocessing(
    resize="none", pad=4, crop=32, channels="RGB", mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7)
)


@dataclass(frozen=True)
class Version:
    """One of the two data sets.

    folders: names of the folder that the archive holds, and of one that a user may make.
    label_bytes: before the pixels of a record; the last one is the class.
    """

    n_classes: int
    label_bytes: int
    folders: tuple[str, ...]
    train: tuple[str, ...]
    test: str


VERSIONS = {
    "cifar10": Version(
        10, 1, ("cifar10", "cifar-10-batches-bin"), tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
    ),
    "cifar100": Version(100, 2, ("cifar100", "cifar-100-binary"), ("train.bin",), "test.bin"),
}


@dataclass(frozen=True, eq=False)
class PictureArray:
    """Pictures in memory: uint8 [n, height, width, 3], RGB.  labels: int64 [n]."""

    pixels: np.ndarray
    labels: np.ndarray
    name: str

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def where(self, index: int) -> str:
        return f"{self.name}, image {index}"


def load_cifar(name: str, data_dir: str | Path | None = None, images: Preprocessing | None = None) -> Dataset:
    """CIFAR-10 or CIFAR-100 (fine labels) from ``data_dir``, or ``$CLIPQ_DATA``, or the archive's folder in it.  Of
    each class every tenth training image is held out.

    Raises:
        DataError: a file is missing (says which ones to put where), truncated, or not of this format; or no class has
            two training images.
    """
    version = VERSIONS[name]
    wanted = (*version.train, version.test)
    folders = folders_to_search(data_dir, os.environ.get("CLIPQ_DATA"), version.folders)
    folder = next((folder for folder in folders if any((folder / file).is_file() for file in wanted)), None)
    if folder is None:
        looked = ", ".join(map(str, folders)) or "no folder (name one with --data-dir or CLIPQ_DATA)"
        raise DataError(
            f"{name}: expected the binary version's {', '.join(wanted)} (from www.cs.toronto.edu/~kriz/cifar.html) in "
            f"{looked}"
        )
    parts = [_read(folder / file, version) for file in version.train]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    test_pixels, test_labels = _read(folder / version.test, version)
    val = held_out(labels, HELD_OUT)
    if not val.any():
        raise DataError(f"{folder}: expected two training images of a class or more, got one of each")
    splits: dict[Split, Pictures] = {
        "train": PictureArray(pixels[~val], labels[~val], f"{name} train"),
        "val": PictureArray(pixels[val], labels[val], f"{name} val"),
        "test": PictureArray(test_pixels, test_labels, f"{name} test"),
    }
    sha256 = fingerprint(pixels, labels, val, test_pixels, test_labels)
    return ImageDataset(name, version.n_classes, sha256, splits, images or DEFAULT)


def _read(path: Path, version: Version) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [n, 32, 32, 3], and labels, int64 [n]."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    record = version.label_bytes + 3 * 32 * 32
    if not len(data) or len(data) % record:
        raise DataError(f"{path}: truncated or of another format: expected records of {record}, got {len(data)} bytes")
    records = data.reshape(-1, record)
    labels = records[:, version.label_bytes - 1].astype(np.int64)
    if labels.max() >= version.n_classes:
        raise DataError(f"{path}: expected labels below {version.n_classes}, got {labels.max()}")
    pixels = records[:, version.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), labels
