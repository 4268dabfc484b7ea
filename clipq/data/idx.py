"""Reads IDX files, the format of MNIST and of data sets made in its image; plain or gzip."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from clipq.errors import DataError

#: Third byte of the magic number -> element type, big endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file: magic (two zero bytes, type, number of dimensions), big-endian sizes, elements.

    Raises:
        DataError: the file is missing, not IDX, truncated, longer than it says, or of sizes that no array has.
    """
    data = _bytes(Path(path))
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or data[3] == 0:
        raise DataError(f"{path}: expected IDX's magic number, 00 00 (08|09|0b|0c|0d|0e) nn, got {data[:4].hex(' ')!r}")
    dtype, start = np.dtype(IDX_TYPES[data[2]]), 4 + 4 * data[3]
    if len(data) < start:
        raise DataError(f"{path}: truncated: expected a header of {start} bytes, got {len(data)}")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        problem = "truncated" if len(data) < expected else "too long"
        raise DataError(f"{path}: {problem}: expected {expected} bytes for shape {shape}, got {len(data)}")
    try:
        return np.frombuffer(data, dtype, offset=start).reshape(shape)
    except ValueError as error:  # more dimensions than NumPy's, or sizes beyond its range beside one of 0
        sizes = f"{len(shape)} sizes from {min(shape)} to {max(shape)}"
        raise DataError(f"{path}: expected sizes of an array, got {sizes}: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
