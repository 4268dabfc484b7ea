"""Reads the variables of a ``.mat`` file of level 5 (``save -v6``, ``-v7``) with SciPy, once its elements were walked.

SciPy's reader is compiled and believes the file: a type that is none, an array without dimensions or indices outside a
sparse array end the process, and memory for a struct array is taken before its first element is read.  So every element
is looked at first, in the order in which SciPy will come to it: its type, its bytes within those of its parent, and
no more elements than its bytes can hold.  Values are passed over but for a sparse array's indices, and what is
compressed is inflated piece by piece, so that the walk needs little memory, and SciPy's in proportion to the file.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np
import scipy.io

from clipq.errors import ClipqFormatError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEADER_SIZE = 128
MATRIX, COMPRESSED = 14, 15
INT8, INT32, UINT32, UTF8, UTF16, UTF32 = 1, 5, 6, 16, 17, 18
#: The NumPy types of elements that hold numbers.
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17
NUMERIC = range(6, 16)
LOGICAL_BIT, COMPLEX_BIT = 9, 11
MIN_DIMENSIONS, MAX_DIMENSIONS, MAX_ELEMENTS = 2, 32, 2**48
#: Cells and structs within each other.
MAX_DEPTH = 100
#: SciPy compares every field's name with all before it.
MAX_FIELDS = 4096
#: Elements for which the file may hold nothing: structs without fields, blanks of a text without bytes.
MAX_UNBACKED = 1024
#: No stream of zlib's inflates to more bytes for each of its own; its header adds some.
MAX_INFLATION = 1032
_PIECE = 1 << 16
_LONG_PIECE = 1 << 20


class MatElementError(ClipqFormatError):
    """A ``.mat`` file that is not of level 5, or damaged, or with sizes beyond its own; names the byte."""


def read_variables(file: BinaryIO, **options: Any) -> dict[str, Any]:
    """What ``scipy.io.loadmat`` gives of a seekable ``file`` of level 5, with its ``options``.

    Raises:
        MatElementError: the file is not one, or damaged.
        Exception: of any type, where SciPy finds fault with an element's contents.
    """
    check_elements(file)
    variables: dict[str, Any] = scipy.io.loadmat(file, **options)
    return variables


def check_elements(file: BinaryIO) -> None:
    """Walks all elements of a seekable ``file``.

    Raises:
        MatElementError: the file is not of level 5, or SciPy's reader could not read on safely.
    """
    size, order = file.seek(0, io.SEEK_END), _byte_order(file)
    at = HEADER_SIZE
    while at < size:
        file.seek(at)
        kind, n = struct.unpack(f"{order}II", _Elements(file, order, "", at).take(8, size))
        if kind == COMPRESSED:
            n_deflated = min(n, size - at - 8)
            inflated = io.BufferedReader(_Inflated(file, n_deflated), _PIECE)
            try:
                _Elements(inflated, order, f"compressed element at byte {at}, ", 0).matrix(MAX_INFLATION * n_deflated)
            except zlib.error as error:
                raise MatElementError(f"compressed element at byte {at}: {error}") from error
        else:
            file.seek(at)
            _Elements(file, order, "", at).matrix(size)
        at += 8 + n


def _byte_order(file: BinaryIO) -> str:
    """The byte order that the header shows, as ``struct`` writes it; leaves the file after the header."""
    file.seek(0)
    header = file.read(HEADER_SIZE)
    orders = {b"\1IM": "<", b"\1MI": ">"}
    mark = header[125:] if header.endswith(b"IM") else header[124:125] + header[126:]
    if len(header) < HEADER_SIZE or mark not in orders or 0 in header[:4]:
        raise MatElementError(f"byte 0: expected the header of a .mat file of level 5, got {header[:19]!r}")
    return orders[mark]


class _Inflated(io.RawIOBase):
    """The bytes that the next ``n`` of a file inflate to, piece by piece."""

    def __init__(self, file: BinaryIO, n: int) -> None:
        self._file, self._left, self._zlib = file, n, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._zlib.eof:
            piece = self._zlib.unconsumed_tail or self._file.read(min(_PIECE, self._left))
            self._left -= 0 if self._zlib.unconsumed_tail else len(piece)
            inflated = self._zlib.decompress(piece, len(view))
            view[: len(inflated)] = inflated
            if inflated or not piece:
                return len(inflated)
        return 0


class _Elements:
    """A cursor over a stream of elements; ``end``, in its methods, is where the bytes of the parent do."""

    def __init__(self, stream: BinaryIO | io.BufferedReader, order: str, where: str, at: int) -> None:
        self._stream, self._order, self._where, self._at = stream, order, where, at

    def matrix(self, end: int, depth: int = 0) -> None:
        """Goes past the next array, and all that are in it; Octave may add 4 bytes to what it says of its size."""
        kind, size = self._integers(self.take(8, end))
        if kind != MATRIX:
            self._fail(f"expected an array (type {MATRIX}), got type {kind}")
        if depth > MAX_DEPTH:
            self._fail(f"expected at most {MAX_DEPTH} arrays within each other")
        if size or depth == 0:  # an empty array within another has no bytes at all
            self._contents(min(self._at + size, end), depth)

    def take(self, n: int, end: int) -> bytes:
        """The next n bytes."""
        if n > end - self._at:
            self._fail(f"expected {n} bytes, {end - self._at} are left")
        data = self._stream.read(n)
        if len(data) < n:
            self._fail(f"expected {n} bytes, the file ends after {len(data)}")
        self._at += n
        return data

    def _contents(self, end: int, depth: int) -> None:
        kind, size, flags, _ = self._integers(self.take(16, end))
        if (kind, size) != (UINT32, 8):
            self._fail(f"expected an array's flags (type {UINT32}, 8 bytes), got type {kind}, {size} bytes")
        array_class, logical, parts = flags & 0xFF, bool(flags >> LOGICAL_BIT & 1), 1 + (flags >> COMPLEX_BIT & 1)
        if array_class == OPAQUE:
            for _ in range(3):
                self._text(end)
            self.matrix(end, depth + 1)
            return
        dims = self._dims(end)
        n = math.prod(dims)
        self._text(end)
        if array_class in NUMERIC:
            for _ in range(parts):
                self._numbers(n, end)
        elif array_class == CHAR:
            self._characters(dims, end)
        elif array_class == SPARSE:
            self._sparse(dims, logical and parts == 1, parts, end)
        elif array_class == CELL:
            self._matrices(n, end, depth)
        elif array_class in (STRUCT, OBJECT):
            if array_class == OBJECT:
                self._text(end)
            self._struct(n, end, depth)
        elif array_class == FUNCTION:
            self.matrix(end, depth + 1)
        else:
            self._fail(f"expected an array of a class that is known, got class {array_class}")

    def _dims(self, end: int) -> list[int]:
        kind, size, data = self._element(end, keep=MAX_DIMENSIONS * 4)
        if kind not in (INT32, UINT32) or size % 4 or not MIN_DIMENSIONS <= size // 4 <= MAX_DIMENSIONS:
            self._fail(f"expected {MIN_DIMENSIONS} to {MAX_DIMENSIONS} dimensions, got {size} bytes of type {kind}")
        dims = list(self._integers(data))
        if max(dims) >= 2**31 or math.prod(max(n, 1) for n in dims) > MAX_ELEMENTS:
            self._fail(f"expected the sizes of an array, got {dims}")
        return dims

    def _text(self, end: int) -> None:
        """A name of a variable or a class."""
        kind, _, _ = self._element(end)
        if kind not in (INT8, UTF8):
            self._fail(f"expected a name (type {INT8}), got type {kind}")

    def _numbers(self, n: int, end: int) -> None:
        kind, size, _ = self._element(end)
        if size // self._number_size(kind) != n:
            self._fail(f"expected {n} numbers of type {kind}, got {size} bytes")

    def _characters(self, dims: list[int], end: int) -> None:
        kind, size, _ = self._element(end)
        if kind not in (1, 2, 4, UTF8, UTF16, UTF32):
            self._fail(f"expected characters, got type {kind}")
        if math.prod(max(n, 1) for n in dims) > max(size, MAX_UNBACKED):
            self._fail(f"expected {dims} characters, got {size} bytes")

    def _sparse(self, dims: list[int], logical: bool, parts: int, end: int) -> None:
        """Row indices, where each column starts, and the values; of logical ones, bytes of another type's name."""
        if len(dims) != 2:
            self._fail(f"expected a sparse array of 2 dimensions, got {dims}")
        rows, starts = self._indices(end), self._indices(end)[: dims[1] + 1]
        if len(starts) != dims[1] + 1 or starts[0] != 0 or (starts[1:] < starts[:-1]).any():
            self._fail(f"expected a sparse array's {dims[1]} columns in order")
        n = int(starts[-1])
        if n > len(rows) or (rows[:n] < 0).any() or (rows[:n] >= dims[0]).any():
            self._fail(f"expected {n} row indices below {dims[0]} of a sparse array")
        for _ in range(parts):
            kind, size, _ = self._element(end)
            if size // self._number_size(kind) < n and not (logical and size == n):
                self._fail(f"expected {n} numbers of type {kind}, got {size} bytes")

    def _indices(self, end: int) -> np.ndarray:
        kind, _, data = self._element(end, keep=end)
        n = len(data) // self._number_size(kind)
        if NUMBERS[kind].startswith("f"):
            self._fail(f"expected whole numbers, got type {kind}")
        return np.frombuffer(data, f"{self._order}{NUMBERS[kind]}", n)

    def _struct(self, n: int, end: int, depth: int) -> None:
        kind, size, data = self._element(end, keep=4)
        (length,) = self._integers(data) if kind in (INT32, UINT32) and size == 4 else (0,)
        if not 0 < length < 2**31:
            self._fail(f"expected the length of fields' names, got {size} bytes of type {kind}")
        kind, size, names = self._element(end, keep=end)
        n_fields = size // length
        if kind not in (INT8, UTF8) or n_fields > MAX_FIELDS:
            self._fail(f"expected at most {MAX_FIELDS} names of fields, got {n_fields} of type {kind}")
        table = np.frombuffer(names, np.uint8, n_fields * length).reshape(n_fields, length)
        if table.all(axis=1).any():
            self._fail(f"expected names of fields that end within {length} bytes")
        if n_fields == 0 and n > MAX_UNBACKED:
            self._fail(f"expected at most {MAX_UNBACKED} structs without fields, got {n}")
        self._matrices(n * n_fields, end, depth)

    def _matrices(self, n: int, end: int, depth: int) -> None:
        if n > (end - self._at) // 8:
            self._fail(f"expected {n} arrays, {end - self._at} bytes are left")
        for _ in range(n):
            self.matrix(end, depth + 1)

    def _element(self, end: int, keep: int = 0) -> tuple[int, int, bytes]:
        """The next element's type, its size and, of one of at most ``keep`` bytes, its bytes; goes past its padding."""
        tag = self.take(8, end)
        kind, size = self._integers(tag)
        if kind >> 16:  # a small one, with its bytes in the tag
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                self._fail(f"expected a small element of at most 4 bytes, got {size}")
            return kind, size, tag[4 : 4 + size]
        if size > end - self._at:
            self._fail(f"expected {size} bytes of type {kind}, {end - self._at} are left")
        data = self.take(size, end) if size <= keep else self._skip(size, end)
        self._stream.read(-size % 8)  # the last of a file may lack it
        self._at += -size % 8
        return kind, size, data

    def _skip(self, n: int, end: int) -> bytes:
        while n > _LONG_PIECE:
            self.take(_LONG_PIECE, end)
            n -= _LONG_PIECE
        self.take(n, end)
        return b""

    def _integers(self, data: bytes) -> tuple[int, ...]:
        return struct.unpack(f"{self._order}{len(data) // 4}I", data)

    def _number_size(self, kind: int) -> int:
        if kind not in NUMBERS:
            self._fail(f"expected numbers, got type {kind}")
        return int(NUMBERS[kind][1])

    def _fail(self, message: str) -> NoReturn:
        raise MatElementError(f"{self._where}byte {self._at}: {message}")
