"""Every corruption is a named error with section and offset, raised before anything large is allocated."""

import tracemalloc

import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encode_decode import EXAMPLE

from clipq.bit_stream import varint
from clipq.byte_reader import (
    AbsurdSizeError,
    ChecksumError,
    InvalidValueError,
    MagicError,
    TrailingBytesError,
    TruncatedError,
    VersionError,
)
from clipq.clipq_file import crc
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2, inspect
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import ClipqFormatError
from clipq.quantized_net import QuantizedLayer, QuantizedNet

LAYER = "00 00 01 77"  # the name w


def _file(entries: str, *sections: bytes) -> bytes:
    """A file with right lengths and CRCs around the given entries (hexadecimal) and sections."""
    body = bytes.fromhex(entries)
    head = b"CLIPQ\x01" + varint(len(body)) + body
    return head + crc(head) + b"".join(section + crc(section) for section in sections)


def _one_layer(section: str) -> bytes:
    """Of eight weights, b = 2, coder ``fixed``."""
    data = bytes.fromhex(section)
    return _file(f"01 {LAYER} 02 01 08 {varint(len(data)).hex()} 00 00", data)


LEVELS = "00000000 " * 3


def test_a_hand_made_file_is_read() -> None:
    layer = decode_sparse_quantized_net_v2(_one_layer(f"03 02 {LEVELS} 0A 07")).layers[0]
    assert layer.codes.tolist() == [0, 0, 3, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("data", "error", "section", "offset"),
    [
        (b"", TruncatedError, "directory", 0),
        (b"CLI", TruncatedError, "directory", 0),
        (b"PK\x03\x04" + bytes(40), MagicError, "directory", 0),
        (EXAMPLE[:5] + b"\x02" + EXAMPLE[6:], VersionError, "directory", 5),
        (EXAMPLE[:5] + b"\x00" + EXAMPLE[6:], VersionError, "directory", 5),
        (EXAMPLE[:20], TruncatedError, "directory", 7),
        (EXAMPLE[:10] + b"\x55" + EXAMPLE[11:], ChecksumError, "directory", 32),
        (EXAMPLE[:42], TruncatedError, "layer fc.weight", 36),
        (EXAMPLE[:-1], TruncatedError, "tensors", 56),
        (EXAMPLE + b"\x00", TrailingBytesError, "end of the file", 68),
        (EXAMPLE[:50] + b"\x6f" + EXAMPLE[51:], ChecksumError, "layer fc.weight", 52),
        (EXAMPLE[:-1] + b"\x00", ChecksumError, "tensors", 64),
        (b"CLIPQ\x01" + b"\xff" * 12, AbsurdSizeError, "directory", 15),
        (b"CLIPQ\x01\x80\x00" + bytes(12), InvalidValueError, "directory", 8),
    ],
)  # fmt: skip
def test_damage_to_the_example(data: bytes, error: type, section: str, offset: int) -> None:
    for read in (decode_sparse_quantized_net_v2, inspect):
        with pytest.raises(error, match=f"^{section}, byte {offset}: ") as caught:
            read(data)
        assert (caught.value.section, caught.value.offset) == (section, offset)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (_file("01"), TruncatedError, "directory, byte 8: name: prefix"),
        (_file("00 00 00 00"), TrailingBytesError, "directory, byte 10: 1 bytes that nothing accounts for"),
        (_file("FF FF FF FF 0F"), TruncatedError, "directory"),
        (_file(f"01 {LAYER} 01 00 00 00 00", b""), InvalidValueError, "layer w: expected b from 2 to 8, got 1"),
        (_file(f"01 {LAYER} 09 00 00 00 00", b""), InvalidValueError, "layer w: expected b from 2 to 8, got 9"),
        (_file(f"01 {LAYER} 82 00 00 00 00", b""), InvalidValueError, "layer w: coder: expected a code below 2"),
        (_file(f"01 {LAYER} 02 21 00 00 00", b""), AbsurdSizeError, "layer w: shape: .* 32 dimensions, got 33"),
        (_file(f"01 {LAYER} 02 02 FFFFFFFF7F FFFFFFFF7F 00 00 00", b""), AbsurdSizeError, "at most 2.48 elements"),
        (_file(f"01 {LAYER} 02 02 00 FFFFFFFFFFFF7F 00 00 00", b""), AbsurdSizeError, "at most 2.48 elements"),
        (_file(f"01 {LAYER} 02 01 8180808004 10 00 00", bytes(16)), AbsurdSizeError, "layer w, .* elements in 16 b"),
        (_file(f"02 {LAYER} 02 0100 00 01 00 00 02 0100 00 00 00", b"", b""), InvalidValueError, "got 'w' again"),
        (_file("01 00 00 01 FF 02 00 00 00 00 00", b""), InvalidValueError, "name: expected UTF-8"),
        (_file("01 08 00 01 77 02 00 00 00 00 00", b""), InvalidValueError, "name: .* within the 7 bytes"),
        (_file("00 01 00 00 01 77 11 00 00 00 00", b""), InvalidValueError, "tensor w: type: .* below 17, got 17"),
        (_file("00 01 00 00 01 77 09 01 01 01 00 00", b"\x02"), InvalidValueError, "tensor w: expected a bool"),
        (_file("00 01 00 00 01 77 00 01 01 03 00 00", bytes(3)), TruncatedError, "tensor w: expected 4 bytes, 3 are"),
        (_file("00 01 00 00 01 77 00 01 01 05 00 00", bytes(5)), TrailingBytesError, "tensors, byte .*: 1 bytes"),
        (_file("00 01 00 00 01 77 00 01 01 04 02 00", bytes(4)), InvalidValueError, "tensors: coder"),
        (_file("00 00 01 00 00 01 77 00"), InvalidValueError, "alias w: expected a code below 0"),
        (_one_layer(f"19 00 {LEVELS}"), InvalidValueError, "index_bits: expected at most 24, got 25"),
        (_one_layer(f"03 FFFFFFFFFFFFFFFF7F {LEVELS}"), TruncatedError, "layer w, byte .*: gaps"),
        (_one_layer("03 00 00"), TruncatedError, "levels: expected 12 bytes, 1 are left"),
        (_one_layer(f"03 02 {LEVELS} 0A 07 00"), TrailingBytesError, "1 bytes that nothing accounts for"),
        (_one_layer(f"03 02 {LEVELS} 4A 07"), InvalidValueError, "2 unused bits"),
        (_one_layer(f"03 02 {LEVELS} 2F 07"), InvalidValueError, "within the layer's 8 weights, got the position 13"),
        (_one_layer(f"03 02 {LEVELS} 08 04"), InvalidValueError, "fillers to have gap 7"),
    ],
)  # fmt: skip
def test_hand_made_files_with_right_checksums(data: bytes, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        decode_sparse_quantized_net_v2(data)


def _rich_file() -> bytes:
    rng = np.random.default_rng(1)
    codes = (rng.integers(1, 8, (20, 30)) * (rng.random((20, 30)) < 0.2)).astype(np.uint8)
    layer = QuantizedLayer("block.conv.weight", 3, codes, np.linspace(-1, 1, 7, dtype=np.float32))
    tensors = {"block.conv.bias": torch.ones(20), "block.norm.num_batches_tracked": torch.tensor(7)}
    return encode_sparse_quantized_net_v2(QuantizedNet((layer,), tensors, {"tied": "block.conv.weight"})).to_bytes()


RICH = _rich_file()


def test_every_flipped_byte_and_every_truncation_is_found() -> None:
    for i in range(len(RICH)):
        with pytest.raises(ClipqFormatError):
            decode_sparse_quantized_net_v2(RICH[:i] + bytes([RICH[i] ^ 0x10]) + RICH[i + 1 :])
        with pytest.raises(ClipqFormatError):
            decode_sparse_quantized_net_v2(RICH[:i])


@settings(max_examples=300)
@given(st.data())
def test_damage_behind_right_checksums_is_an_error_or_another_network(data: st.DataObject) -> None:
    """The decoder never fails otherwise than by ClipqFormatError, and what it accepts is a valid network."""
    directory, tensors = 7 + RICH[6], 20 * 4 + 8
    pieces = [bytearray(p) for p in (RICH[:directory], RICH[directory + 4 : -4 - tensors - 4], RICH[-4 - tensors : -4])]
    assert b"".join(piece + crc(piece) for piece in pieces) == RICH
    body = data.draw(st.sampled_from(pieces))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    mutated = b"".join(piece + crc(piece) for piece in pieces)
    try:
        net = decode_sparse_quantized_net_v2(mutated)
    except ClipqFormatError:
        return
    again = encode_sparse_quantized_net_v2(net).to_bytes()
    nets.assert_same_net(decode_sparse_quantized_net_v2(again), net)


@pytest.mark.parametrize(
    "entries",
    [
        f"01 {LAYER} 02 02 FFFFFF7F FFFFFF07 10 00 00",
        "00 01 00 00 01 77 01 01 80808080808010 10 00 00",
        "FFFFFFFFFFFFFFFF7F",
        "00 FFFFFFFFFFFFFFFF7F",
    ],
)
def test_absurd_sizes_allocate_nothing_of_that_size(entries: str) -> None:
    data = _file(entries, bytes(16))
    tracemalloc.start()
    try:
        with pytest.raises(ClipqFormatError):
            decode_sparse_quantized_net_v2(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
