"""Pictures: real JPEG and PNG files in folders, the preparation against the formulas, CIFAR's records, workers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import caffe_bytes as pb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipq.data import Preprocessing, load_dataset
from clipq.data.preprocessing import prepare, random_resized_crop, resized
from clipq.distributed import own_samples
from clipq.errors import DataError, ExperimentError, SettingError
from clipq.experiment import load_experiment

CAFFE = Preprocessing(size=16, crop=12, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
TORCH = replace(CAFFE, resize="shorter_side", channels="RGB", augmentation="resized_crop")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth, so that JPEG keeps it, and different everywhere."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def make_folders(root: Path, per_class: int = 4, flat: bool = False, by_name: bool = False) -> Path:
    """Three classes, JPEG and PNG by turns, sizes by turns; a flat list's by number or name; returns root."""
    seed = 0
    for part, n in (("train", per_class), ("val", 2)):
        for label, name in enumerate(("n01", "n02", "n10")):
            folder = root / part / ("" if flat and part == "val" else name)
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                seed += 1
                file = folder / f"{name}_{i}.{'JPEG' if seed % 2 else 'png'}"
                picture(20 + seed % 7, 18 + seed % 5, seed).save(file)
                if flat and part == "val":
                    with open(root / "val.txt", "a") as lines:
                        lines.write(f"{file.name} {name if by_name else label}\n")
    return root


def naive_warp(pixels: np.ndarray, size: int) -> np.ndarray:
    """OpenCV's bilinear resize: the centre of a pixel keeps its place, the edge is repeated."""
    height, width = pixels.shape[:2]
    out = np.zeros((size, size, 3))
    for i in range(size):
        for j in range(size):
            y = min(max((i + 0.5) * height / size - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = y - top, x - left
            upper = (1 - b) * pixels[top, left] + b * pixels[top, right]
            lower = (1 - b) * pixels[bottom, left] + b * pixels[bottom, right]
            out[i, j] = (1 - a) * upper + a * lower
    return out


@pytest.mark.parametrize("size", [(25, 31), (16, 16), (7, 40), (64, 64), (1, 3)])
def test_warp_is_bilinear_without_antialiasing(size: tuple[int, int]):
    image = picture(*size)
    expected = naive_warp(np.asarray(image).astype(float), 16)
    assert np.abs(resized(image, CAFFE) - expected).max() <= 0.5 + 1e-3


def test_caffes_test_preparation():
    image = picture(16, 16)
    pixels = np.asarray(image).astype(np.float64)
    x = prepare(image, CAFFE, np.float32(CAFFE.mean))
    assert x.dtype == torch.float32 and x.shape == (3, 12, 12)
    for channel, (rgb, mean, std) in enumerate(((2, 10, 1), (1, 20, 2), (0, 30, 4))):
        np.testing.assert_allclose(x[channel], (pixels[2:14, 2:14, rgb] - mean) / std, rtol=1e-6)


def test_the_mean_image_is_cropped_and_mirrored_with_the_picture():
    mean = np.random.default_rng(0).uniform(0, 255, (16, 16, 3)).astype(np.float32)
    image = picture(16, 16)
    difference = np.asarray(image).astype(np.float32)[..., ::-1] - mean
    options = replace(CAFFE, std=(1.0, 1.0, 1.0))
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(60):
        x = prepare(image, options, mean, rng).numpy().transpose(1, 2, 0)
        places = [
            (top, left, mirrored)
            for top in range(5) for left in range(5) for mirrored in (False, True)
            if np.allclose(difference[top : top + 12, left : left + 12][:, :: -1 if mirrored else 1], x, atol=1e-4)
        ]  # fmt: skip
        assert len(places) == 1
        seen.add(places[0])
    assert {p[0] for p in seen} == {p[1] for p in seen} == set(range(5)) and {p[2] for p in seen} == {False, True}


@given(st.integers(12, 60), st.integers(12, 60))
@settings(max_examples=40)
def test_torchvisions_test_preparation(width: int, height: int):
    """Shorter side to 16, antialiased by Pillow; the middle of it."""
    image = picture(width, height)
    x = prepare(image, TORCH, np.float32(TORCH.mean))
    short = min(width, height)
    scaled = np.asarray(image.resize((16 * width // short, 16 * height // short), Image.Resampling.BILINEAR))
    assert min(scaled.shape[:2]) == 16
    top, left = (round((n - 12) / 2) for n in scaled.shape[:2])
    window = scaled[top : top + 12, left : left + 12].astype(float)
    np.testing.assert_allclose(x, ((window - [10, 20, 30]) / [1, 2, 4]).transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 10**6))
def test_random_resized_crops_lie_in_the_picture(width: int, height: int, seed: int):
    """The picture's pixels are its coordinates, so that the crop's corners tell where it was."""
    y, x = np.mgrid[0:height, 0:width]
    image = Image.fromarray(np.stack([x, y, np.full_like(x, 255)], 2).astype(np.uint8))
    crop = np.asarray(random_resized_crop(image, 8, np.random.default_rng(seed)))
    assert crop.shape == (8, 8, 3) and (crop[..., 2] == 255).all(), "nothing from outside"
    assert (np.diff(crop[..., 0].astype(int), axis=1) >= 0).all()


def test_padding_reaches_every_shift():
    image = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    options = Preprocessing(resize="none", pad=2, crop=8, mean=(0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    corners = {tuple((prepare(image, options, np.zeros(3, np.float32), rng)[0] > 0).any(d).sum().item() for d in (0, 1))
               for _ in range(200)}  # fmt: skip
    assert corners == {(a, b) for a in (6, 7, 8) for b in (6, 7, 8)}
    assert prepare(image, options, np.zeros(3, np.float32)).eq(200).all(), "no padding in a test"


def test_a_picture_that_is_too_small():
    with pytest.raises(DataError, match="12 pixels or more after resizing, got 10"):
        prepare(picture(10, 30), replace(CAFFE, resize="none"), np.zeros(3, np.float32))


def test_a_picture_that_is_too_thin_to_be_scaled():
    with pytest.raises(DataError, match="at most 100 times as long as wide, got 2 x 201 pixels"):
        resized(picture(2, 201), TORCH)
    assert resized(picture(200, 2), TORCH).shape == (16, 1600, 3)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"crop": 0}, "crop: expected >= 1"),
        ({"crop": 300}, "size: expected >= crop = 300, got 256"),
        ({"mean": (1.0,)}, "mean: expected three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "std: expected three numbers > 0"),
        ({"mean_file": "m", "channels": "RGB"}, "mean_file: expected none, or channels = BGR"),
        ({"mean_file": "m", "augmentation": "resized_crop"}, "mean_file: expected none"),
    ],
)
def test_options_that_do_not_go_together(option: dict[str, object], expected: str):
    with pytest.raises(SettingError, match=expected):
        Preprocessing(**option)


@pytest.mark.parametrize(("flat", "by_name"), [(False, False), (True, False), (True, True)])
def test_folders_of_pictures(tmp_path: Path, flat: bool, by_name: bool):
    dataset = load_dataset("imagenet", make_folders(tmp_path, flat=flat, by_name=by_name), CAFFE)
    assert (dataset.n_classes, dataset.input_shape) == (3, (3, 12, 12))
    assert [dataset.size(split) for split in ("train", "val", "test")] == [9, 3, 6]
    for split, labels in (("train", [0, 0, 0, 1, 1, 1, 2, 2, 2]), ("val", [0, 1, 2]), ("test", [0, 0, 1, 1, 2, 2])):
        batches = list(dataset.loader(split, 4))
        assert torch.cat([y for _, y in batches]).tolist() == labels
        assert [x.shape[1:] for x, _ in batches] == [(3, 12, 12)] * len(batches)
    x = next(iter(dataset.loader("test", 2))).x
    with Image.open(sorted((tmp_path / "val").rglob("n01_1.*"))[0]) as image:
        assert torch.equal(x[1], prepare(image.convert("RGB"), CAFFE, np.float32(CAFFE.mean)))


def test_flat_and_class_folders_hold_the_same(tmp_path: Path):
    folders = load_dataset("imagenet", make_folders(tmp_path / "a"), CAFFE)
    flat = load_dataset("imagenet", make_folders(tmp_path / "b", flat=True), CAFFE)
    (x, y), (x2, y2) = (next(iter(dataset.loader("test", 6))) for dataset in (folders, flat))
    assert torch.equal(x, x2) and torch.equal(y, y2)


@pytest.mark.parametrize("options", [CAFFE, TORCH])
def test_workers_seed_and_epoch(tmp_path: Path, options: Preprocessing):
    dataset = load_dataset("imagenet", make_folders(tmp_path), options)

    def epoch(number: int, workers: int, seed: int = 0) -> torch.Tensor:
        return torch.cat(
            [x for x, _ in dataset.loader("train", 4, train=True, epoch=number, seed=seed, workers=workers)]
        )

    first = epoch(0, 0)
    assert torch.equal(first, epoch(0, 2)), "as many workers as you like"
    assert not torch.equal(first, epoch(1, 0)) and not torch.equal(first, epoch(0, 0, seed=1))
    assert torch.equal(*(torch.cat([x for x, _ in dataset.loader("val", 2, workers=w)]) for w in (0, 2)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("world_size", "first"), [(1, 0), (1, 2), (2, 0), (3, 1), (5, 2)])
def test_processes_read_their_own_pictures_from_a_step_on(
    tmp_path: Path, workers: int, world_size: int, first: int, monkeypatch: pytest.MonkeyPatch
):
    """They are those of the whole batches, bit for bit, with the weights of ``distributed.share``."""
    loader = load_dataset("imagenet", make_folders(tmp_path), TORCH).loader("train", 4, train=True, workers=workers)
    whole, read = list(loader)[first:], []
    get = type(loader._prepared).__getitem__
    monkeypatch.setattr(type(loader._prepared), "__getitem__", lambda self, i: read.append(i) or get(self, i))
    taken = 0
    for rank in range(world_size):
        for (own, weight), batch in zip(loader.shares(rank, world_size, first), whole, strict=True):
            samples, expected = own_samples(len(batch.y), rank, world_size)
            assert torch.equal(own.x, batch.x[samples]) and torch.equal(own.y, batch.y[samples])
            assert weight == expected
            taken += len(own.y)
    assert len(read) == (0 if workers else taken)


def test_subset_is_of_training_pictures_without_augmentation(tmp_path: Path):
    dataset = load_dataset("imagenet", make_folders(tmp_path), CAFFE)
    x, y = dataset.subset(5, seed=3)
    every = torch.cat([x for x, _ in dataset.loader("train", 9)])
    where = [int((every == one).flatten(1).all(1).nonzero()) for one in x]
    assert where == sorted(where) and len(set(where)) == 5 and y.tolist() == [i // 3 for i in where]
    assert torch.equal(dataset.subset(100).x, every)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_kinds_of_pictures(tmp_path: Path, mode: str):
    make_folders(tmp_path)
    picture(20, 20).convert(mode).save(tmp_path / "val" / "n01" / f"n01_x.{'JPEG' if mode == 'CMYK' else 'png'}")
    assert len(torch.cat([y for _, y in load_dataset("imagenet", tmp_path, CAFFE).loader("test", 3)])) == 7


GREY16 = (np.arange(400, dtype=np.uint16) * 160).reshape(20, 20)


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_grey_of_16_bits_keeps_its_scale(tmp_path: Path, suffix: str):
    make_folders(tmp_path)
    grey = Image.fromarray(GREY16.astype(np.int32) if suffix == "ppm" else GREY16)
    grey.save(tmp_path / "val" / "n01" / f"a.{suffix}")
    raw = Preprocessing(resize="none", crop=12, mean=(0.0, 0.0, 0.0))
    x = next(iter(load_dataset("imagenet", tmp_path, raw).loader("test", 1))).x
    assert np.array_equal(x[0], np.broadcast_to(GREY16[4:16, 4:16] // 256, (3, 12, 12)))


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_pictures_of_an_unknown_range_are_named(tmp_path: Path, mode: str, dtype: type):
    make_folders(tmp_path)
    Image.fromarray(GREY16.astype(dtype)).save(tmp_path / "val" / "n01" / "a.tif")
    with pytest.raises(DataError, match=rf"n01/a\.tif: .*expected 8 or 16 bits a channel, got mode {mode}"):
        list(load_dataset("imagenet", tmp_path, CAFFE).loader("test", 1))


def damage(root: Path) -> list[str]:
    """A truncated JPEG, a truncated PNG and a text among the training pictures; their paths."""
    jpeg, png = root / "train" / "n10" / "n10_2.JPEG", root / "train" / "n02" / "n02_1.png"
    for path in (jpeg, png):
        path.write_bytes(path.read_bytes()[:-200])
    text = root / "train" / "n01" / "n01_0.JPEG"
    text.write_text("this is not a picture")
    return [str(path) for path in (jpeg, png, text)]


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_pictures_are_named_and_left_out_on_request(tmp_path: Path, workers: int):
    bad = damage(make_folders(tmp_path, per_class=4))
    dataset = load_dataset("imagenet", tmp_path, CAFFE)
    with pytest.raises(DataError) as caught:
        list(dataset.loader("train", 3, workers=workers))
    assert any(path in str(caught.value) for path in bad) and "skip_corrupt" in str(caught.value)
    tolerant = load_dataset("imagenet", tmp_path, replace(CAFFE, skip_corrupt=True))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        labels = torch.cat([y for _, y in tolerant.loader("train", 3, workers=workers)])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(sum(path in str(w.message) for w in seen) == 1 for path in bad)
    with pytest.raises(DataError, match="train"):
        dataset.subset(9, workers=workers)


def test_names_of_classes_and_pictures_may_have_spaces(tmp_path: Path):
    make_folders(tmp_path, flat=True, by_name=True)
    (tmp_path / "train" / "n02").rename(tmp_path / "train" / "golden retriever")
    (tmp_path / "train" / "n10").rename(tmp_path / "train" / "retriever")
    lines = (tmp_path / "val.txt").read_text().replace(" n02", " golden retriever").replace(" n10", " retriever")
    first = lines.splitlines()[2].partition(" ")[0]
    (tmp_path / "val" / first).rename(tmp_path / "val" / f"a {first}")
    write_list(tmp_path, lines.replace(first, f"a {first}"))
    dataset = load_dataset("imagenet", tmp_path, CAFFE)
    assert dataset.size("test") == 6
    assert sorted(y for _, ys in dataset.loader("test", 2) for y in ys.tolist()) == [0, 0, 1, 1, 2, 2]


def write_list(root: Path, text: str | bytes) -> None:
    (root / "val.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: write_list(root, "n01_0.JPEG"), r"val\.txt: line 1: expected '<picture> <class>' of 3 classes"),
        (lambda root: write_list(root, "n01_0.JPEG golden n01"), r"line 1: n01_0\.JPEG golden: no such picture"),
        (lambda root: write_list(root, "n01_0.JPEG 3"), r"val\.txt: line 1: expected"),
        (lambda root: write_list(root, "n01_0.JPEG -1"), r"val\.txt: line 1: expected"),
        (lambda root: write_list(root, "n01_0.JPEG " + "9" * 5000), r"val\.txt: line 1: expected"),
        (lambda root: write_list(root, b"n\xe9.JPEG 1"), r"val\.txt: expected UTF-8, got byte 0xe9 at 1"),
        (lambda root: write_list(root, (root / "val.txt").read_text().replace(" 2", " n10")),
         r"val\.txt: expected the numbers of all classes or the names of all, got some of each"),
        (lambda root: write_list(root, "missing.JPEG 1"), r"val\.txt: line 1: missing.JPEG: no such picture"),
        (lambda root: write_list(root, (root / "val.txt").read_text() * 2), r"val\.txt: line 7: .*: listed twice"),
        (lambda root: write_list(root, "\n".join((root / "val.txt").read_text().splitlines()[1:])),
         r"val\.txt: 1 pictures are not in it: n01_0"),
        (lambda root: (root / "val.txt").unlink(), r"val: pictures without classes: expected a list .*val\.txt"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit(tmp_path: Path, change: object, expected: str):
    make_folders(tmp_path, flat=True)
    change(tmp_path)
    with pytest.raises(DataError, match=expected):
        load_dataset("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("folders", "listed", "expected"),
    [
        (("1", "2"), "01", [0, 1]),
        (("1", "2"), "12", [0, 1]),
        (("1", "2"), ("000", "01"), [0, 1]),
        (("0", "1"), "01", [0, 1]),
        (("1", "2", "3"), "12", None),
    ],
)
def test_lists_of_folders_with_numbers_for_names(
    tmp_path: Path, folders: tuple[str, ...], listed: Sequence[str], expected: list[int] | None
):
    """All by name or all by number, whichever fits; the file begins with a byte order mark."""
    for folder in (*(f"train/{name}" for name in folders), "val"):
        (tmp_path / folder).mkdir(parents=True)
        for name in "xy":
            picture(20, 20).save(tmp_path / folder / f"{name}.png")
    write_list(tmp_path, "\ufeff" + "".join(f"{name}.png {label}\n" for name, label in zip("xy", listed, strict=True)))
    if expected is None:
        with pytest.raises(DataError, match=r"val\.txt: .*got classes that fit both and differ"):
            load_dataset("imagenet", tmp_path, CAFFE)
    else:
        assert next(iter(load_dataset("imagenet", tmp_path, CAFFE).loader("test", 2))).y.tolist() == expected


def test_folders_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CLIPQ_DATA", raising=False)
    with pytest.raises(DataError, match=r"expected train/<class>/<picture>.*CLIPQ_DATA"):
        load_dataset("imagenet")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"train: expected <class>/<picture> .*got no picture"):
        load_dataset("imagenet", tmp_path)
    make_folders(tmp_path)
    (tmp_path / "val" / "n99").mkdir()
    with pytest.raises(DataError, match="val: classes that train/ has not: n99"):
        load_dataset("imagenet", tmp_path)
    make_folders(tmp_path / "b" / "imagenet", per_class=1)
    with pytest.raises(DataError, match="two pictures of a class"):
        load_dataset("imagenet", tmp_path / "b")


def test_a_class_without_training_pictures_is_refused(tmp_path: Path):
    (make_folders(tmp_path) / "train" / "n05").mkdir()
    with pytest.raises(DataError, match=r"train: expected pictures of every class, got none of n05"):
        load_dataset("imagenet", tmp_path)


@pytest.mark.parametrize("place", ["train/n01/x.png", "train/n01/x.txt", "train/n05", "val/n01/x.png", "val/n02_link"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_broken_links_are_refused_by_name(tmp_path: Path, place: str, target: str):
    link = make_folders(tmp_path) / place
    link.symlink_to(link if target == "itself" else tmp_path / target)
    with pytest.raises(DataError, match=rf"{place}: expected a file or folder, got a broken link to .*"):
        load_dataset("imagenet", tmp_path)


@pytest.mark.filterwarnings("error")
def test_hidden_files_are_no_pictures_and_jfif_is_jpeg(tmp_path: Path):
    make_folders(tmp_path)
    for folder in ("train/n01", "val/n02", "train"):
        (tmp_path / folder / "._n01_0.png").write_bytes(b"macOS's")
    picture(20, 20).save(tmp_path / "val" / "n01" / "a.jfif", "JPEG")
    dataset = load_dataset("imagenet", tmp_path, CAFFE)
    assert [dataset.size(split) for split in ("train", "val", "test")] == [9, 3, 7]
    assert len(next(iter(dataset.loader("test", 7))).y) == 7


@pytest.mark.parametrize("flat", [False, True])
def test_what_is_left_out_is_said_in_a_line(tmp_path: Path, flat: bool):
    """Pictures of other kinds, deeper, or beside the folders of the classes; each split has one warning."""
    make_folders(tmp_path, flat=flat)
    if flat:
        (tmp_path / "val.txt").rename(tmp_path / "val" / "val.txt")
    (tmp_path / "train" / "n02" / "deeper").mkdir()
    picture(20, 20).save(tmp_path / "train" / "n02" / "deeper" / "x.png")
    for place in ("train/n10/x.gif", "train/x.png", *(["val/x.gif"] if flat else ["val/n01/x.gif", "val/y.gif"])):
        picture(20, 20).save(tmp_path / place)
    with pytest.warns(UserWarning, match="left out") as seen:
        dataset = load_dataset("imagenet", tmp_path, CAFFE)
    train, val = (str(w.message) for w in seen)
    assert "train: left out 3 files or folders" in train and train.endswith("such as x.png")
    assert f"val: left out {1 if flat else 2} files or folders" in val and val.endswith(f"such as {'xy'[not flat]}.gif")
    assert [dataset.size(split) for split in ("train", "val", "test")] == [9, 3, 6]


@pytest.mark.parametrize("flat", [False, True])
def test_a_class_without_test_pictures_is_told(tmp_path: Path, flat: bool):
    make_folders(tmp_path, flat=flat)
    for file in (tmp_path / "val").rglob("n10_*"):
        file.unlink()
    if flat:
        write_list(tmp_path, "\n".join((tmp_path / "val.txt").read_text().splitlines()[:4]))
    with pytest.warns(UserWarning, match=r"val: no pictures of 1 of 3 classes, such as n10$"):
        assert load_dataset("imagenet", tmp_path, CAFFE).size("test") == 4


def test_the_fingerprint_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_folders(tmp_path / "imagenet")
    monkeypatch.setenv("CLIPQ_DATA", str(tmp_path))
    first = load_dataset("imagenet").sha256
    assert load_dataset("imagenet", tmp_path / "imagenet").sha256 == first
    path = tmp_path / "imagenet" / "val" / "n01" / "n01_0.JPEG"
    picture(24, 24, 99).save(path)
    second = load_dataset("imagenet").sha256
    path.rename(path.with_name("n01_9.JPEG"))
    assert len({first, second, load_dataset("imagenet").sha256}) == 3


def test_the_mean_file(tmp_path: Path):
    mean = np.random.default_rng(0).uniform(0, 255, (3, 16, 16)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(pb.legacy_shape(1, 3, 16, 16) + pb.floats(mean.ravel()))
    options = replace(CAFFE, mean_file=str(tmp_path / "mean.binaryproto"))
    with_file = next(iter(load_dataset("imagenet", make_folders(tmp_path), options).loader("test", 6))).x
    plain = next(iter(load_dataset("imagenet", tmp_path, replace(CAFFE, mean=(0.0, 0.0, 0.0))).loader("test", 6))).x
    std = torch.tensor(CAFFE.std)[:, None, None]
    torch.testing.assert_close(with_file, plain - torch.from_numpy(mean)[:, 2:14, 2:14] / std, atol=1e-4, rtol=1e-5)
    with pytest.raises(DataError, match=r"expected a mean of shape \(20, 20, 3\), got \(16, 16, 3\)"):
        load_dataset("imagenet", tmp_path, replace(options, size=20))


def write_cifar(folder: Path, name: str, n: int = 40) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Records with planes [3, 32, 32]; CIFAR-100's coarse label is 19, to tell it from the fine one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    ten = name == "cifar10"
    files = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"] if ten else ["train.bin", "test.bin"]
    content = {}
    for file in files:
        planes = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(n) % 10
        records = [
            bytes(([] if ten else [19]) + [label]) + p.tobytes() for label, p in zip(labels, planes, strict=True)
        ]
        (folder / file).write_bytes(b"".join(records))
        content[file] = planes, labels
    return content


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-bin"), ("cifar100", "cifar-100-binary")])
def test_cifar(tmp_path: Path, name: str, folder: str):
    content = write_cifar(tmp_path / folder, name)
    dataset = load_dataset(name, tmp_path)
    assert (dataset.name, dataset.input_shape) == (name, (3, 32, 32))
    assert dataset.n_classes == (10 if name == "cifar10" else 100)
    sizes = [dataset.size(split) for split in ("train", "val", "test")]
    assert sizes == ([180, 20, 40] if name == "cifar10" else [30, 10, 40]), "one of a class with fewer than ten"
    raw = Preprocessing(resize="none", crop=32, channels="RGB", mean=(0.0, 0.0, 0.0))
    x, y = next(iter(load_dataset(name, tmp_path, raw).loader("test", 40)))
    planes, labels = next(both for file, both in content.items() if "test" in file)
    assert np.array_equal(x.numpy(), planes) and y.tolist() == labels.tolist()
    usual = next(iter(dataset.loader("test", 40))).x
    torch.testing.assert_close(usual[:, 2], (x[:, 2] - 113.9) / 66.7)
    with pytest.raises(DataError, match=rf"{name}: expected no shift.*, got 2"):
        load_dataset(name, tmp_path, shift=2)


def test_cifar_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CLIPQ_DATA", raising=False)
    with pytest.raises(DataError, match=r"cifar10: expected the binary version's data_batch_1.bin.*CLIPQ_DATA"):
        load_dataset("cifar10")
    write_cifar(tmp_path, "cifar10")
    batch = tmp_path / "data_batch_3.bin"
    good = batch.read_bytes()
    for data, expected in (
        (good[:-1], "truncated"),
        (b"", "truncated"),
        (b"\x0a" + good[1:], "labels below 10, got 10"),
    ):
        batch.write_bytes(data)
        with pytest.raises(DataError, match=rf"data_batch_3\.bin: .*{expected}"):
            load_dataset("cifar10", tmp_path)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(bytes([i]) + good[1:3073])
    with pytest.raises(DataError, match="two training images of a class or more, got one of each"):
        load_dataset("cifar10", tmp_path)
    batch.unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin: cannot be read"):
        load_dataset("cifar10", tmp_path)


def test_options_for_pictures_are_refused_where_the_pixels_are_fixed():
    with pytest.raises(DataError, match="data set digits: its pixels are fixed"):
        load_dataset("digits", images=CAFFE)


def test_options_for_pictures_in_an_experiment(tmp_path: Path):
    path = tmp_path / "x.toml"
    path.write_text('[data]\ndataset = "imagenet"\n[data.images]\ncrop = 227\nmean = [1, 2, 3]\n')
    experiment = load_experiment(path, {"data.images.std": "[2.0, 2.0, 2.0]", "data.images.skip_corrupt": "true"})
    expected = Preprocessing(crop=227, mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0), skip_corrupt=True)
    assert experiment.data.images == expected
    path.write_text(experiment.to_toml())
    assert load_experiment(path) == experiment
    assert load_experiment("digits").data.images is None
    assert load_experiment("digits", {"data.images.crop": "9"}).data.images == Preprocessing(crop=9)
    with pytest.raises(ExperimentError, match=r"\[data\.images\]: preprocessing option size: expected >= crop = 300"):
        load_experiment(path, {"data.images.crop": "300"})
    with pytest.raises(ExperimentError, match=r"unknown key data\.images\.colour; nearest known: "):
        load_experiment(path, {"data.images.colour": "RGB"})
