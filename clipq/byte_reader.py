"""Reads a compressed file byte by byte, and names section and offset in every error."""

from __future__ import annotations

import math
from typing import NoReturn

from clipq.errors import ClipqFormatError

CRC_SIZE = 4
#: A section holds at most this many elements for each of its bytes, so that a small file cannot ask for much memory.
MAX_ELEMENTS_PER_BYTE = 4096
MAX_RANK = 32
MAX_ELEMENTS = 2**48
_VARINT_BYTES = 9


class _PlacedError(ClipqFormatError):
    """A fault in a compressed file at a byte ``offset`` of the file, in its ``section``."""

    def __init__(self, section: str, offset: int, message: str) -> None:
        super().__init__(f"{section}, byte {offset}: {message}")
        self.section, self.offset = section, offset


class MagicError(_PlacedError):
    """The file does not start as a ``.clipq`` file does."""


class VersionError(_PlacedError):
    """The file has a format version that this reader does not know."""


class TruncatedError(_PlacedError):
    """The file, or a section, ends before what it announces."""


class TrailingBytesError(_PlacedError):
    """There are bytes after the end of the file's or of a section's contents."""


class ChecksumError(_PlacedError):
    """A CRC differs: bytes have changed since they were written."""


class AbsurdSizeError(_PlacedError):
    """A size beyond the bounds of the format; raised before anything of that size is allocated."""


class InvalidValueError(_PlacedError):
    """A value that the format does not allow: a type, a coder, a name, a stream that contradicts itself."""


class ByteReader:
    """A cursor over ``data[start:stop]``, called ``section`` in errors; offsets count from the start of ``data``."""

    def __init__(self, data: memoryview, section: str, start: int, stop: int) -> None:
        self._data, self.section, self.offset, self._stop = data, section, start, stop

    @property
    def remaining(self) -> int:
        return self._stop - self.offset

    def take(self, n: int, what: str) -> memoryview:
        """The next n bytes, without a copy."""
        if n > self.remaining:
            raise TruncatedError(
                self.section, self.offset, f"{what}: expected {n} bytes, {self.remaining} are left of the section"
            )
        self.offset += n
        return self._data[self.offset - n : self.offset]

    def take_but_zeros(self) -> bytes:
        """All that is left but for zero bytes at its end, of which nothing is taken."""
        data = bytes(self._data[self.offset : self._stop]).rstrip(b"\0")
        self.offset += len(data)
        return data

    def part(self, n: int, what: str) -> ByteReader:
        """A reader of the next n bytes alone."""
        self.take(n, what)
        return ByteReader(self._data, self.section, self.offset - n, self.offset)

    def u8(self, what: str) -> int:
        return self.take(1, what)[0]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def varint(self, what: str) -> int:
        value = 0
        for i in range(_VARINT_BYTES):
            byte = self.u8(what)
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                if byte == 0 and i > 0:
                    self.invalid(f"{what}: expected the shortest form of an integer, got one with a last byte of 0")
                return value
        raise AbsurdSizeError(self.section, self.offset, f"{what}: expected an integer below 2^63")

    def shape(self, what: str) -> tuple[int, ...]:
        rank = self.varint(f"{what}: rank")
        if rank > MAX_RANK:
            raise AbsurdSizeError(
                self.section, self.offset, f"{what}: expected at most {MAX_RANK} dimensions, got {rank}"
            )
        shape = tuple(self.varint(f"{what}: dimension {i}") for i in range(rank))
        if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
            raise AbsurdSizeError(
                self.section, self.offset, f"{what}: expected at most 2^48 elements, got shape {shape}"
            )
        return shape

    def finish(self) -> None:
        """Raises TrailingBytesError unless everything has been read."""
        if self.remaining:
            raise TrailingBytesError(self.section, self.offset, f"{self.remaining} bytes that nothing accounts for")

    def padding(self) -> None:
        """Takes the rest of the section, which must be zero bytes.

        Raises:
            TrailingBytesError: one is not zero.
        """
        if any(self._data[self.offset : self._stop]):
            self.finish()
        self.offset = self._stop

    def invalid(self, message: str) -> NoReturn:
        raise InvalidValueError(self.section, self.offset, message)


def check_element_count(n: int, n_bytes: int, section: str, offset: int) -> None:
    """Raises AbsurdSizeError if n elements are more than a section of ``n_bytes`` bytes may hold."""
    if n > MAX_ELEMENTS_PER_BYTE * n_bytes:
        raise AbsurdSizeError(
            section, offset, f"{n} elements in {n_bytes} bytes; expected at most {MAX_ELEMENTS_PER_BYTE} a byte"
        )
