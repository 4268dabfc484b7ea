"""Integers as bits and bytes: ``varint`` and ``bits(w)[k]`` of docs/format.md."""

from __future__ import annotations

import numpy as np

MAX_WIDTH = 32
#: So many values at a time stay in the processor's cache; a multiple of 8.
_AT_ONCE = 1 << 15


def varint(value: int) -> bytes:
    """An unsigned integer below 2^63 in LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_size(value: int) -> int:
    """Bytes of ``value`` as a varint."""
    return max(1, (value.bit_length() + 6) // 7)


def packed_size(count: int, width: int) -> int:
    """Bytes that ``count`` integers of ``width`` bits take."""
    return (count * width + 7) // 8


def pack_bits(values: np.ndarray, width: int) -> bytes:
    """Packs unsigned integers of ``width`` bits (0..32), the first in the lowest bits of the first byte.

    Eight values fill ``width`` whole bytes, so the j-th of every eight always goes to the same bytes of its group:
    the loop below runs over these few places, not over the values.

    Raises:
        ValueError: a value needs more than ``width`` bits.
    """
    if values.size and int(values.max()) >> width:
        raise ValueError(f"expected values below 2^{width}, got {int(values.max())}")
    if width == 0:
        return b""
    parts = (values[i : i + _AT_ONCE] for i in range(0, values.size, _AT_ONCE))
    return b"".join(_packed(part, width) for part in parts)


def _packed(values: np.ndarray, width: int) -> bytes:
    groups = np.zeros((-(-values.size // 8), 8), np.uint64)
    groups.reshape(-1)[: values.size] = values
    out = np.zeros((len(groups), width), np.uint8)
    for j, first, shift, n_bytes in _places(width):
        shifted = groups[:, j] << np.uint64(shift)
        for k in range(n_bytes):
            out[:, first + k] |= (shifted >> np.uint64(8 * k)).astype(np.uint8)
    return out.tobytes()[: packed_size(values.size, width)]


def unpack_bits(data: bytes | memoryview, width: int, count: int) -> np.ndarray:
    """The ``count`` integers of ``width`` bits (0..32) packed in ``data``: uint8 [count] up to 8 bits, else uint32.

    Raises:
        ValueError: ``data`` has not exactly the bytes of ``count`` integers, or an unused bit at its end is set.
    """
    dtype = np.uint8 if width <= 8 else np.uint32
    size = packed_size(count, width)
    if len(data) != size:
        raise ValueError(f"expected {size} bytes for {count} integers of {width} bits, got {len(data)}")
    if width == 0:
        return np.zeros(count, dtype)
    unused = 8 * size - count * width
    if unused and data[-1] >> (8 - unused):
        raise ValueError(f"expected {unused} unused bits of 0 at the end, got the byte {data[-1]:#04x}")
    packed, out = np.frombuffer(data, np.uint8), np.empty(count, dtype)
    for i in range(0, count, _AT_ONCE):
        part = out[i : i + _AT_ONCE]
        _unpack(packed[i * width // 8 :][: packed_size(part.size, width)], width, part)
    return out


def _unpack(data: np.ndarray, width: int, into: np.ndarray) -> None:
    packed = np.zeros((-(-into.size // 8), width), np.uint8)
    packed.reshape(-1)[: data.size] = data
    out = np.empty((len(packed), 8), into.dtype)
    for j, first, shift, n_bytes in _places(width):
        value = packed[:, first].astype(np.uint64)
        for k in range(1, n_bytes):
            value |= packed[:, first + k].astype(np.uint64) << np.uint64(8 * k)
        out[:, j] = (value >> np.uint64(shift)) & np.uint64(2**width - 1)
    into[:] = out.reshape(-1)[: into.size]


def _places(width: int) -> list[tuple[int, int, int, int]]:
    """For each of eight values: its number, first byte, shift within that byte, and how many bytes it touches."""
    places = []
    for j in range(8):
        first, shift = divmod(j * width, 8)
        places.append((j, first, shift, (shift + width + 7) // 8))
    return places
