"""Writes Caffe's protobuf messages by hand: the wire format spelled out, sharing nothing with the reader."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    return varint(field * 8) + varint(value)


def message(field: int, payload: bytes) -> bytes:
    return varint(field * 8 + 2) + varint(len(payload)) + payload


def text(field: int, value: str) -> bytes:
    return message(field, value.encode())


def floats(values: Sequence[float], packed: bool = True, field: int = 5) -> bytes:
    if packed:
        return message(field, np.asarray(values, "<f4").tobytes())
    return b"".join(varint(field * 8 + 5) + struct.pack("<f", value) for value in values)


def doubles(values: Sequence[float], packed: bool = True) -> bytes:
    if packed:
        return message(8, struct.pack(f"<{len(values)}d", *values))
    return b"".join(varint(8 * 8 + 1) + struct.pack("<d", value) for value in values)


def shape(sizes: Sequence[int], packed: bool = True) -> bytes:
    if packed:
        return message(7, message(1, b"".join(varint(size) for size in sizes)))
    return message(7, b"".join(integer(1, size) for size in sizes))


def legacy_shape(num: int, channels: int, height: int, width: int) -> bytes:
    return integer(1, num) + integer(2, channels) + integer(3, height) + integer(4, width)


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    return message(100, text(1, name) + text(2, kind) + b"".join(message(7, blob) for blob in blobs))


def v1_layer(name: str, kind: int, *blobs: bytes) -> bytes:
    return message(
        2, text(2, "below") + text(4, name) + integer(5, kind) + b"".join(message(6, blob) for blob in blobs)
    )
