import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.bit_stream import varint, varint_size
from clipq.byte_reader import ByteReader
from clipq.clipq_file import (
    Directory,
    LayerEntry,
    TensorEntry,
    crc,
    open_container,
    pack_directory,
)
from clipq.errors import SettingError


@pytest.mark.parametrize(
    ("value", "packed"),
    [(0, "00"), (127, "7f"), (128, "80 01"), (300, "ac 02"), (2**63 - 1, "ff ff ff ff ff ff ff ff 7f")],
)
def test_known_varints(value: int, packed: str) -> None:
    data = bytes.fromhex(packed)
    assert varint(value) == data
    assert varint_size(value) == len(data)
    assert ByteReader(memoryview(data), "test", 0, len(data)).varint("value") == value


def test_the_crc_is_the_one_of_zlib_and_png() -> None:
    assert crc(b"123456789") == (0xCBF43926).to_bytes(4, "little")  # the check value of CRC-32/ISO-HDLC


def _directory(layer_names: list[str], tensor_names: list[str], aliases: dict[str, str]) -> Directory:
    layers = tuple(LayerEntry(name, "bfloat16", 5, (300, 0, 2), "entropy", i) for i, name in enumerate(layer_names))
    tensors = tuple(TensorEntry(name, "complex128", (i, 200)) for i, name in enumerate(tensor_names))
    length = sum(i * 200 for i in range(len(tensors)))
    return Directory(layers, tensors, length, "entropy" if tensors else "raw", aliases)


def _with_empty_sections(directory: Directory) -> bytes:
    data = pack_directory(directory)
    lengths = [entry.length for entry in directory.layers]
    lengths += [directory.tensors_length] if directory.tensors else []
    for length in lengths:
        data += bytes(length) + crc(bytes(length))
    return data


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), unique=True, max_size=9))
def test_directories_come_back(names: list[str]) -> None:
    layers, tensors, rest = names[:3], names[3:6], names[6:]
    directory = _directory(layers, tensors, {alias: names[i] for i, alias in enumerate(rest)})
    assert open_container(_with_empty_sections(directory)).directory == directory


def test_names_may_take_1024_bytes() -> None:
    names = ["n" * 1024, "é" * 512]
    directory = _directory(names[:1], names[1:], {})
    assert open_container(_with_empty_sections(directory)).directory.names() == names
    with pytest.raises(SettingError, match="at most 1024 bytes, got 1026"):
        pack_directory(_directory(["é" * 513], [], {}))


def test_names_are_stored_as_differences() -> None:
    data = pack_directory(_directory(["features.0.weight", "features.10.weight", "features.11.weight"], [], {}))
    assert b"\x00\x07\x0afeatures.0" in data  # the first one's difference is from .weight
    assert b"\x09\x08\x011" in data  # features. | 1 | 0.weight: the longest prefix, then the longest suffix
    assert b"\x0a\x07\x011" in data  # features.1 | 1 | .weight
