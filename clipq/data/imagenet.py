"""ImageNet, and any other data set of pictures in its folders:

<root>/train/<class>/<picture>          a folder for each class, numbered in the order of their names
<root>/val/<class>/<picture>            the test images, in folders of the same names; or
<root>/val/<picture> and <root>/val.txt   flat, with lines "<picture> <class>", all by number or all by name
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipq.data.dataset import Dataset, Split, folders_to_search, held_out
from clipq.data.image_dataset import ImageDataset, Pictures, Subset
from clipq.data.image_options import Preprocessing
from clipq.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
HELD_OUT = 50  # one training image of so many is val: 25,600 of ImageNet's


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """Pictures in files.

    folder: in which ``names`` are, bytes [n] (an array, as lists of strings are copied in every worker).
    labels: int64 [n].
    """

    folder: str
    names: np.ndarray
    labels: np.ndarray

    def where(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(self.names[index]))

    def image(self, index: int) -> Image.Image:
        with Image.open(self.where(index)) as image:
            return _in_8_bits(image).convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey by its upper byte, as Pillow reads 16-bit colours; pictures of 8 bits or fewer as they are."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise DataError(f"expected 8 or 16 bits a channel, got mode {image.mode}, whose range is not known")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def load_imagenet(data_dir: str | Path | None = None, images: Preprocessing | None = None) -> Dataset:
    """The pictures of ``data_dir`` (or its ``imagenet/``; or ``$CLIPQ_DATA``'s), none of them read yet.

    The pictures of ``val`` are the test images; of each class every fiftieth training image is held out.  The
    fingerprint is that of names, sizes in bytes and labels.

    Raises:
        DataError: no such folders, or a list that does not fit them; names the file.
    """
    folders = folders_to_search(data_dir, os.environ.get("CLIPQ_DATA"), ("imagenet",))
    root = next((folder for folder in folders if (folder / "train").is_dir()), None)
    if root is None:
        looked = " or ".join(map(str, folders)) or "no folder (name one with --data-dir or CLIPQ_DATA)"
        raise DataError(
            f"image folders: expected train/<class>/<picture> and val/<class>/<picture>, or val/<picture> with "
            f"val.txt, in {looked}"
        )
    train, classes, digest = _class_folders(root / "train")
    test, digest_of_test = _test_pictures(root, classes)
    val = held_out(train.labels, HELD_OUT)
    if not val.any():
        raise DataError(f"{root / 'train'}: expected two pictures of a class or more, got one of each")
    splits: dict[Split, Pictures] = {
        "train": Subset(train, np.flatnonzero(~val)),
        "val": Subset(train, np.flatnonzero(val)),
        "test": test,
    }
    sha256 = hashlib.sha256(f"{HELD_OUT} {digest} {digest_of_test}".encode()).hexdigest()
    return ImageDataset(root.resolve().name, len(classes), sha256, splits, images or Preprocessing())


def _class_folders(folder: Path, classes: dict[str, int] | None = None) -> tuple[PictureFiles, dict[str, int], str]:
    """The pictures in a folder's subfolders; its classes, name -> number (those given, if any); a fingerprint."""
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    classes = classes or {name: i for i, name in enumerate(found)}
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise DataError(f"{folder}: classes that train/ has not: {', '.join(unknown[:5])}")
    digest, names, labels = hashlib.sha256(), [], []
    for name in found:
        for picture, size in _pictures(folder / name):
            digest.update(f"{name}/{picture} {size}\n".encode("utf-8", "surrogateescape"))
            names.append(os.fsencode(f"{name}/{picture}"))
            labels.append(classes[name])
    if not names:
        raise DataError(f"{folder}: expected <class>/<picture> ({' '.join(SUFFIXES)}), got no picture")
    return PictureFiles(str(folder), np.array(names), np.array(labels)), classes, digest.hexdigest()


def _pictures(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes of the pictures in a folder, in the order of the names."""
    entries = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    for entry in sorted(entries, key=lambda entry: entry.name):
        yield entry.name, entry.stat().st_size


def _test_pictures(root: Path, classes: dict[str, int]) -> tuple[PictureFiles, str]:
    folder = root / "val"
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the test images, got no such folder")
    flat = dict(_pictures(folder))
    if not flat:
        pictures, _, digest = _class_folders(folder, classes)
        return pictures, digest
    path = next((path for path in (root / "val.txt", folder / "val.txt") if path.is_file()), None)
    if path is None:
        raise DataError(f"{folder}: pictures without classes: expected a list {root / 'val.txt'}, '<picture> <class>'")
    labels = _read_list(path, flat, classes)
    digest = hashlib.sha256("".join(f"{n} {flat[n]} {labels[n]}\n" for n in sorted(labels)).encode()).hexdigest()
    names = np.array([os.fsencode(name) for name in sorted(labels)])
    return PictureFiles(str(folder), names, np.array([labels[name] for name in sorted(labels)])), digest


def _read_list(path: Path, pictures: dict[str, int], classes: dict[str, int]) -> dict[str, int]:
    """Picture -> number of its class; every picture of the folder is in the list, and the other way round."""
    numbers = {str(number): number for number in classes.values()}
    labels: dict[str, tuple[int | None, int | None]] = {}  # of the class by its name, by its number
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        by_name, by_number = classes.get(label), numbers.get(label.lstrip("0") or "0")
        if not name or by_name is by_number is None:
            raise DataError(
                f"{path}: line {number}: expected '<picture> <class>' of {len(classes)} classes, got {line[:200]!r}"
            )
        if name in labels or name not in pictures:
            raise DataError(f"{path}: line {number}: {name}: {'listed twice' if name in labels else 'no such picture'}")
        labels[name] = by_name, by_number
    unlisted = sorted(pictures.keys() - labels.keys())
    if unlisted:
        raise DataError(f"{path}: {len(unlisted)} pictures are not in it: {', '.join(unlisted[:5])}")
    readings = [values for values in zip(*labels.values(), strict=True) if None not in values]
    if not readings or readings[0] != readings[-1]:
        got = "classes that fit both and differ" if readings else "some of each"
        raise DataError(f"{path}: expected the numbers of all classes or the names of all, got {got}")
    return dict(zip(labels, readings[0], strict=True))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, got byte {error.object[error.start]:#x} at {error.start}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
