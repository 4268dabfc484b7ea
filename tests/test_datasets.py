"""Data sets: IDX files written here byte by byte, folders, a mirror on this machine, splits and batches."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipq.data import TensorDataset, TensorPair, load_dataset, mnist
from clipq.data.dataset import every_nth, held_out, shifted
from clipq.data.idx import read_idx
from clipq.data.idx_folder import load_idx_folder
from clipq.distributed import own_samples
from clipq.errors import DataError

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.tobytes()


def write_set(folder: Path, n: int = 60, size: tuple[int, ...] = (5, 7), classes: int = 3) -> dict[str, np.ndarray]:
    """A data set of n training and n/2 test images; returns its arrays by file name."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, count in (("train", n), ("t10k", n // 2)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, *size), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = np.sort(np.arange(count) % classes).astype(np.uint8)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
    return arrays


@pytest.fixture(autouse=True)
def no_data_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("CLIPQ_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(mnist, "MIRRORS", ())
        monkeypatch.setattr(mnist.load_mnist, "__defaults__", (None, ()))


@pytest.fixture
def real_data() -> Path:
    if not os.environ.get("CLIPQ_DATA"):
        pytest.skip("CLIPQ_DATA names no folder with mnist/")
    return Path(os.environ["CLIPQ_DATA"])


def test_another_data_set_in_mnists_files(tmp_path: Path):
    arrays = write_set(tmp_path / "shoes")
    dataset = load_dataset("mnist", tmp_path / "shoes")
    assert (dataset.name, dataset.n_classes, dataset.input_shape) == ("shoes", 3, (1, 5, 7))
    assert (dataset.size("train"), dataset.size("val"), dataset.size("test")) == (57, 3, 30)
    x = arrays["t10k-images-idx3-ubyte"]
    assert dataset.test.x.dtype == torch.float32 and dataset.test.y.dtype == torch.int64
    assert np.array_equal(dataset.test.x[:, 0].numpy() * 256, x)
    assert sorted(dataset.val.y.tolist()) == [0, 1, 2], "sorted labels, and yet one of each class is held out"
    val_images = {image.numpy().tobytes() for image in dataset.val.x}
    assert not val_images & {image.numpy().tobytes() for image in dataset.train.x}


@pytest.mark.parametrize("rename", ["{}.gz", "emnist-letters-{}", "digits.{}.gz"])
def test_names_and_gzip(tmp_path: Path, rename: str):
    write_set(tmp_path)
    plain = load_dataset("idx", tmp_path)
    for name in NAMES:
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        target = rename.format(name.replace("t10k", "test").replace("-idx", ".idx"))
        (tmp_path / target).write_bytes(gzip.compress(data) if target.endswith(".gz") else data)
    assert load_dataset("idx", tmp_path).sha256 == plain.sha256


def test_two_data_sets_in_one_folder_are_refused(tmp_path: Path):
    write_set(tmp_path)
    (tmp_path / "emnist-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=r"train images: expected one file, got emnist-train-.* and train-images"):
        load_dataset("idx", tmp_path)


def test_colour_images_and_floats(tmp_path: Path):
    arrays = write_set(tmp_path, size=(3, 4, 4))
    dataset = load_idx_folder(tmp_path)
    assert dataset.input_shape == (3, 4, 4)
    for part in ("train", "t10k"):
        pixels = arrays[f"{part}-images-idx3-ubyte"].astype(">f4") / 100
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels.astype(">f4"), 0x0D))
    floats = load_idx_folder(tmp_path)
    torch.testing.assert_close(floats.test.x, dataset.test.x * 2.56)


@pytest.mark.parametrize(("code", "dtype"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")])  # fmt: skip  # noqa: E501
def test_element_types(tmp_path: Path, code: int, dtype: str):
    array = np.arange(12).reshape(3, 2, 2).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array, code))
    assert np.array_equal(read_idx(tmp_path / "a"), array)


GOOD = idx(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "magic number"),
        (b"\x01" + GOOD[1:], "magic number.*got '01 00 08 02'"),
        (GOOD[:2] + b"\x07" + GOOD[3:], "magic number"),
        (GOOD[:7], "truncated: expected a header of 12 bytes, got 7"),
        (GOOD[:-1], "truncated: expected 24 bytes for shape \\[3, 4\\], got 23"),
        (GOOD + b"\0", "too long: expected 24 bytes"),
        (b"\0\0\x08\x64" + b"\0\0\0\1" * 100 + b"a", "sizes of an array, got 100 sizes"),
        (b"\0\0\x08\5" + b"\0" * 4 + b"\xff" * 16, "sizes of an array, got 5 sizes from 0 to 4294967295"),
        (idx(np.zeros((0,), np.uint8)).replace(b"\0\0\0\0", b"\xff" * 4), "truncated"),
        (gzip.compress(GOOD, mtime=0)[:-9], "damaged or truncated gzip"),
        (gzip.compress(GOOD, mtime=0)[:-6] + b"123456", "damaged or truncated gzip"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "damaged or truncated gzip|magic"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, data: bytes, expected: str):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataError, match=expected) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_of_a_long_gzip_file_no_more_is_inflated_than_its_header_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(GOOD + bytes(10_000_000)))
    read, inflated = gzip.GzipFile.read, []
    monkeypatch.setattr(gzip, "decompress", lambda data: pytest.fail("inflated whole"))
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, n: inflated.append(n) or read(file, n))
    with pytest.raises(DataError, match="too long: expected 24 bytes"):
        read_idx(path)
    assert sum(inflated) == 25


def test_a_header_that_announces_more_than_there_is_takes_no_memory(tmp_path: Path):
    (tmp_path / "a").write_bytes(GOOD[:4] + b"\xff" * 8 + bytes(100))
    with pytest.raises(DataError, match=f"truncated: expected {12 + (2**32 - 1) ** 2} bytes .*, got 112"):
        read_idx(tmp_path / "a")


@given(st.binary(max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_array_or_a_named_error(tmp_path: Path, data: bytes):
    (tmp_path / "a").write_bytes(data)
    try:
        assert read_idx(tmp_path / "a").nbytes <= len(data)
    except DataError as error:
        assert str(tmp_path) in str(error)


def replaced(folder: Path, name: str, data: bytes) -> Path:
    write_set(folder)
    (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (NAMES[1], idx(np.zeros(59, np.uint8)), "train-labels.*59 labels for the 60 images"),
        (NAMES[3], idx(np.zeros((30, 1), np.uint8)), r"t10k-labels.*expected whole numbers \[n\]"),
        (NAMES[3], idx(np.full(30, 255, np.uint8), 0x09), "t10k-labels.*labels from 0, got -1"),
        (NAMES[2], idx(np.zeros((30, 5, 8), np.uint8)), "t10k-images.*expected images of 1x5x7.*got 1x5x8"),
        (NAMES[2], idx(np.zeros((30, 5, 7), ">i2"), 0x0B), "t10k-images.*expected bytes or floats"),
        (NAMES[0], idx(np.zeros(60, np.uint8)), "train-images.*expected bytes or floats"),
        (NAMES[1], idx(np.arange(60, dtype=np.uint8)), "train-labels.*two images of a class"),
        (NAMES[1], idx(np.full(60, 10**9, ">i4"), 0x0C), "train-labels.*number of training images, 60, got 1000000000"),
        (NAMES[3], idx(np.full(30, 61, np.uint8)), "t10k-labels.*number of training images, 60, got 61"),
        (NAMES[2], idx(np.zeros((30, 5, 7), ">f4"), 0x0D), "t10k-images.*bytes as in train-images.*, got floats"),
        (NAMES[0], idx(np.zeros((60, 5, 7), ">f8"), 0x0E), "t10k-images.*floats as in train-images.*, got bytes"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, name: str, data: bytes, expected: str):
    with pytest.raises(DataError, match=expected):
        load_idx_folder(replaced(tmp_path, name, data))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "n"), [(NAMES[0], 60), (NAMES[2], 30)])
@pytest.mark.parametrize(
    ("pixel", "dtype", "code"), [("nan", ">f4", 0x0D), ("-inf", ">f4", 0x0D), ("1e+300", ">f8", 0x0E)]
)
def test_pixels_that_are_not_finite_are_named(tmp_path: Path, name: str, n: int, pixel: str, dtype: str, code: int):
    images = np.zeros((n, 5, 7), dtype)
    images[17, 2, 3] = images[20, 1, 1] = float(pixel)
    replaced(tmp_path, name, idx(images, code))
    with pytest.raises(DataError, match=rf"{name}: image 17, .*finite float32, got {re.escape(pixel)}$"):
        load_idx_folder(tmp_path)


def test_incomplete_folder(tmp_path: Path):
    write_set(tmp_path)
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(DataError, match=r"expected \(plain or .gz\) t10k-labels-idx1-ubyte, got no such file"):
        load_dataset("mnist", tmp_path)


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_set(tmp_path / "named" / "mnist", n=48)
    write_set(tmp_path / "env", n=60)
    write_set(tmp_path / "cache" / "clipq" / "mnist", n=72)
    assert load_dataset("mnist").size("test") == 36
    monkeypatch.setenv("CLIPQ_DATA", str(tmp_path / "env"))
    assert load_dataset("mnist").size("test") == 30
    monkeypatch.setenv("CLIPQ_DATA", str(tmp_path / "named"))
    assert load_dataset("mnist").size("test") == 24
    monkeypatch.setenv("CLIPQ_DATA", str(tmp_path / "nothing here"))
    assert load_dataset("mnist").size("test") == 36
    assert load_dataset("mnist", tmp_path / "env").size("test") == 30
    with pytest.raises(DataError, match=r"elsewhere.*train-images-idx3-ubyte.*t10k-labels-idx1-ubyte"):
        load_dataset("mnist", tmp_path / "elsewhere")


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mirror = tmp_path / "mirror"
    write_set(mirror)
    for name in NAMES:
        (mirror / f"{name}.gz").write_bytes(gzip.compress((mirror / name).read_bytes()))
    md5 = {f"{name}.gz": hashlib.md5((mirror / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(mnist, "MD5", md5)
    dead, good = (tmp_path / "dead").as_uri() + "/", mirror.as_uri() + "/"
    dataset = mnist.load_mnist(mirrors=[dead, good])
    assert dataset.sha256 == load_idx_folder(mirror).sha256
    assert sorted(os.listdir(tmp_path / "cache" / "clipq" / "mnist")) == sorted(md5)
    assert mnist.load_mnist(mirrors=[dead]).sha256 == dataset.sha256, "the cache is enough"


def test_a_download_of_something_else_leaves_nothing(tmp_path: Path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / f"{NAMES[0]}.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(DataError, match=r"expected md5 f68b3c2d.*26 bytes.*Expected in a folder.*CLIPQ_DATA"):
        mnist.load_mnist(mirrors=[mirror.as_uri() + "/"])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_without_network_the_message_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        mnist.load_mnist(mirrors=["http://127.0.0.1:9/"])
    for part in (*NAMES, "--data-dir", "CLIPQ_DATA", str(tmp_path / "cache"), "http://127.0.0.1:9/"):
        assert part in str(caught.value)


def test_unknown_names():
    with pytest.raises(DataError, match=r"expected one of digits, mnist, idx, .*got 'minst'"):
        load_dataset("minst")
    with pytest.raises(DataError, match="data set idx: expected a folder"):
        load_dataset("idx")


def test_digits():
    dataset = load_dataset("digits")
    sizes = [dataset.size(split) for split in ("train", "val", "test")]
    assert sum(sizes) == 1797 and sizes == [1266, 178, 353]
    for pair in (dataset.train, dataset.val, dataset.test):
        assert pair.x.shape[1:] == (1, 8, 8) and pair.x.min() == 0 and pair.x.max() == 1
        assert torch.bincount(pair.y).min() > 0.09 * len(pair.y)
    assert dataset.sha256 == load_dataset("digits").sha256


def test_the_fingerprint_sees_one_pixel_and_one_label(tmp_path: Path):
    write_set(tmp_path)
    first = load_idx_folder(tmp_path).sha256
    for name in NAMES:
        data = bytearray((tmp_path / name).read_bytes())
        data[-1] ^= 1
        (tmp_path / name).write_bytes(data)
        changed = load_idx_folder(tmp_path).sha256
        assert changed != first, name
        first = changed


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(2, 12))
def test_every_nth_is_stratified(labels: list[int], n: int):
    y = np.array(labels)
    parts = np.array([every_nth(y, n, offset) for offset in range(n)])
    for label in set(labels):
        assert every_nth(y, n)[y == label].sum() == (y == label).sum() // n
    assert (parts.sum(0) == 1).all(), "the n offsets share all images between them"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(2, 12))
def test_one_image_of_each_class_is_held_out_where_there_are_two(labels: list[int], n: int):
    y = np.array(labels)
    chosen = held_out(y, n)
    for label in set(labels):
        size = (y == label).sum()
        assert chosen[y == label].sum() == (size // n or int(size > 1))


@pytest.mark.parametrize("batch_size", [1, 64, 178, 500])
def test_batches_cover_a_split_once(batch_size: int):
    dataset = load_dataset("digits")
    batches = dataset.loader("val", batch_size)
    assert len(list(batches)) == len(batches)
    assert torch.equal(torch.cat([x for x, _ in batches]), dataset.val.x)
    shuffled = dataset.loader("val", batch_size, train=True, seed=1)
    y = torch.cat([y for _, y in shuffled])
    assert torch.equal(y.sort().values, dataset.val.y.sort().values) and not torch.equal(y, dataset.val.y)
    assert (
        sum((x[i] == dataset.val.x).flatten(1).all(1).any().item() for x, _ in shuffled for i in range(len(x))) == 178
    )


def test_seed_and_epoch_determine_the_order():
    dataset = load_dataset("digits")

    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat([y for _, y in dataset.loader("train", 100, train=True, seed=seed, epoch=epoch)]).tolist()

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(*key)) for key in [(1, 2), (2, 1), (1, 3), (2, 2)]}) == 4


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Pixel by pixel."""
    out = np.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                out[:, row + down, column + right] = image[:, row, column]
    return out


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5)),
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=5),
)
def test_images_are_moved_and_zeros_come_in(shape: tuple[int, int, int], by: list[tuple[int, int]]):
    x = np.random.default_rng(0).random((len(by), *shape), np.float32)
    result = shifted(torch.from_numpy(x), torch.tensor(by, dtype=torch.int64).reshape(-1, 2))
    assert result.shape == x.shape
    for image, (down, right), own in zip(x, by, result.numpy(), strict=True):
        assert np.array_equal(own, moved(image, down, right))


def test_training_images_are_moved_at_random():
    """Every image by its own of the nine ways, other ones in another epoch; nothing else of the data set moves."""
    plain, dataset = load_dataset("digits"), load_dataset("digits", shift=1)
    order = torch.cat([y for _, y in plain.loader("train", 100, train=True, seed=1, epoch=2)])

    def pass_over(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        batches = list(dataset.loader("train", 100, train=True, seed=1, epoch=epoch))
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    x, y = pass_over(2)
    assert torch.equal(y, order), "the order does not depend on the shifts"
    originals = torch.cat([x for x, _ in plain.loader("train", 100, train=True, seed=1, epoch=2)])
    ways = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    same = torch.stack([(x == shifted(originals, torch.tensor([way] * len(x)))).flatten(1).all(1) for way in ways])
    assert same.any(0).all() and (same.sum(1) > len(x) / 15).all()
    assert torch.equal(x, pass_over(2)[0]) and not torch.equal(x, pass_over(3)[0])
    assert all(torch.equal(*pair) for pair in zip(dataset.subset(50, 1), plain.subset(50, 1), strict=True))
    for split in ("train", "val", "test"):
        for own, other in zip(dataset.loader(split, 64), plain.loader(split, 64), strict=True):
            assert torch.equal(own.x, other.x) and torch.equal(own.y, other.y)


def test_subset():
    dataset = load_dataset("digits")
    subset = dataset.subset(100, seed=5)
    assert len(subset.y) == 100 and torch.equal(subset.x, dataset.subset(100, seed=5).x)
    assert not torch.equal(subset.x, dataset.subset(100, seed=6).x)
    assert torch.equal(dataset.subset(10**6).x, dataset.train.x)


def test_mnist_itself(real_data: Path):
    dataset = load_dataset("mnist")
    assert (dataset.name, dataset.n_classes, dataset.input_shape) == ("mnist", 10, (1, 28, 28))
    assert (dataset.size("train"), dataset.size("val"), dataset.size("test")) == (55006, 4994, 10000)
    assert dataset.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert dataset.train.x.max() == 255 / 256
    for name, md5 in mnist.MD5.items():
        assert hashlib.md5((real_data / "mnist" / name).read_bytes()).hexdigest() == md5


@given(st.integers(1, 4), st.integers(1, 2000), st.integers(1, 2000))
def test_a_batch_that_is_evaluated_is_bounded(channels: int, height: int, width: int):
    x = torch.zeros(1, 1, 1, 1).expand(1, channels, height, width)
    pair = TensorPair(x, torch.zeros(1, dtype=torch.int64))
    n = TensorDataset("made", pair, pair, pair, 1, "").evaluation_batch
    assert 1 <= n <= 1000 and (n == 1 or n * channels * height * width <= 10_000_000)
    assert n == 1000 or (n + 1) * channels * height * width > 10_000_000, "no smaller than it has to be"


@pytest.mark.parametrize("train", [True, False])
def test_shares_of_batches_in_memory(train: bool):
    loader = load_dataset("digits", shift=2).loader("val", 64, train=train, seed=1)
    for world_size, first in ((1, 0), (3, 1)):
        for rank in range(world_size):
            for (own, weight), batch in zip(loader.shares(rank, world_size, first), list(loader)[first:], strict=True):
                samples, expected = own_samples(len(batch.y), rank, world_size)
                assert torch.equal(own.x, batch.x[samples]) and torch.equal(own.y, batch.y[samples])
                assert weight == expected
