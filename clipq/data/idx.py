"""Reads IDX files, the format of MNIST and of data sets made in its image; plain or gzip."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from clipq.errors import DataError

#: Third byte of the magic number -> element type, big endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
#: Bytes that are read, or inflated, at once.
PIECE = 1 << 24


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file: magic (two zero bytes, type, number of dimensions), big-endian sizes, elements.

    Raises:
        DataError: the file is missing, not IDX, truncated, longer than it says, or of sizes that no array has.
    """
    try:
        with _opened(Path(path)) as file:
            return _array(path, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _opened(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")


def _array(path: str | Path, file: io.BufferedIOBase) -> np.ndarray:
    """The array that the file holds, of which no more is read than its header announces, and whether there is more."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or head[3] == 0:
        raise DataError(f"{path}: expected IDX's magic number, 00 00 (08|09|0b|0c|0d|0e) nn, got {head.hex(' ')!r}")
    dtype, start = np.dtype(IDX_TYPES[head[2]]), 4 + 4 * head[3]
    head += file.read(start - 4)
    if len(head) < start:
        raise DataError(f"{path}: truncated: expected a header of {start} bytes, got {len(head)}")
    shape = [int.from_bytes(head[at : at + 4], "big") for at in range(4, start, 4)]
    n_bytes = math.prod(shape) * dtype.itemsize
    data, expected = _at_most(file, n_bytes), f"expected {start + n_bytes} bytes for shape {shape}"
    if len(data) < n_bytes:
        raise DataError(f"{path}: truncated: {expected}, got {start + len(data)}")
    if file.read(1):
        raise DataError(f"{path}: too long: {expected}, got more")
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # more dimensions than NumPy's, or sizes beyond its range beside one of 0
        sizes = f"{len(shape)} sizes from {min(shape)} to {max(shape)}"
        raise DataError(f"{path}: expected sizes of an array, got {sizes}: {error}") from error


def _at_most(file: io.BufferedIOBase, n: int) -> bytes:
    """The next n bytes, or as many as there are: memory is taken for those alone."""
    pieces = []
    while n and (piece := file.read(min(n, PIECE))):
        pieces.append(piece)
        n -= len(piece)
    return b"".join(pieces)
