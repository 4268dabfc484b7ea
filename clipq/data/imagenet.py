"""ImageNet, and any other data set of pictures in its folders:

<root>/train/<class>/<picture>          a folder for each class, numbered in the order of their names
<root>/val/<class>/<picture>            the test images, in folders of the same names; or
<root>/val/<picture> and <root>/val.txt   flat, with lines "<picture> <class>", all by number or all by name

Hidden files play no part; of what else is no picture in its place, a warning says that it is left out.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipq.data.dataset import Dataset, Split, folders_to_search, held_out
from clipq.data.image_dataset import ImageDataset, Pictures, Subset
from clipq.data.image_options import Preprocessing
from clipq.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
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
        DataError: no such folders, a class without training pictures, a broken link, or a list that does not fit the
            pictures; names the file.
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
    if empty := _without_pictures(classes, train):
        raise DataError(f"{root / 'train'}: expected pictures of every class, got none of {', '.join(empty[:5])}")
    test, digest_of_test = _test_pictures(root, classes)
    if untested := _without_pictures(classes, test):
        warnings.warn(
            f"{root / 'val'}: no pictures of {len(untested)} of {len(classes)} classes, such as {untested[0]}",
            stacklevel=2,
        )
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


def _without_pictures(classes: dict[str, int], pictures: PictureFiles) -> list[str]:
    """The names of the classes of which there are none."""
    present = set(pictures.labels.tolist())
    return [name for name, number in classes.items() if number not in present]


def _class_folders(folder: Path, classes: dict[str, int] | None = None) -> tuple[PictureFiles, dict[str, int], str]:
    """The pictures in a folder's subfolders; its classes, name -> number (those given, if any); a fingerprint."""
    top = _content(folder)
    found = [name for name in top.others if (folder / name).is_dir()]
    classes = classes or {name: i for i, name in enumerate(found)}
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise DataError(f"{folder}: classes that train/ has not: {', '.join(unknown[:5])}")
    digest, names, labels = hashlib.sha256(), [], []
    left_out = sorted({*top.pictures, *top.others} - set(found))
    for name in found:
        content = _content(folder / name)
        left_out += [f"{name}/{other}" for other in content.others]
        for picture, size in content.pictures.items():
            digest.update(f"{name}/{picture} {size}\n".encode("utf-8", "surrogateescape"))
            names.append(os.fsencode(f"{name}/{picture}"))
            labels.append(classes[name])
    if not names:
        raise DataError(f"{folder}: expected <class>/<picture> ({' '.join(SUFFIXES)}), got no picture")
    _tell_left_out(folder, left_out)
    return PictureFiles(str(folder), np.array(names), np.array(labels)), classes, digest.hexdigest()


class _Content(NamedTuple):
    """What is in a folder, in the order of the names.

    pictures: name -> size in bytes.
    others: names of files and folders.
    """

    pictures: dict[str, int]
    others: list[str]


def _content(folder: Path) -> _Content:
    content = _Content({}, [])
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):  # such as macOS's ._<picture>
            continue
        if entry.is_symlink() and not os.path.exists(entry):
            raise DataError(f"{entry.path}: expected a file or folder, got a broken link to {os.readlink(entry)}")
        if entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            content.pictures[entry.name] = entry.stat().st_size
        else:
            content.others.append(entry.name)
    return content


def _tell_left_out(folder: Path, names: list[str]) -> None:
    if names:
        warnings.warn(
            f"{folder}: left out {len(names)} files or folders that are no pictures in their place "
            f"({' '.join(SUFFIXES)}), such as {names[0]}",
            stacklevel=2,
        )


def _test_pictures(root: Path, classes: dict[str, int]) -> tuple[PictureFiles, str]:
    folder = root / "val"
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the test images, got no such folder")
    flat, others = _content(folder)
    if not flat:
        pictures, _, digest = _class_folders(folder, classes)
        return pictures, digest
    path = next((path for path in (root / "val.txt", folder / "val.txt") if path.is_file()), None)
    if path is None:
        raise DataError(f"{folder}: pictures without classes: expected a list {root / 'val.txt'}, '<picture> <class>'")
    labels = _read_list(path, flat, classes)
    _tell_left_out(folder, [name for name in others if folder / name != path])
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
        name, label = _entry(line.strip(), pictures, classes)
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


def _entry(line: str, pictures: Container[str], classes: Container[str]) -> tuple[str, str]:
    """Picture and class; spaces may be in both, as long as one place to divide them gives a picture and a class."""
    divided = [(line[:i], line[i + 1 :]) for i, character in enumerate(line) if character == " "]
    fitting = [(name, label) for name, label in divided if name in pictures and label in classes]
    return fitting[0] if len(fitting) == 1 else line.rpartition(" ")[::2]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, got byte {error.object[error.start]:#x} at {error.start}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
