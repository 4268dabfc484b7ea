"""Small integers of few bits each: the head of a stream of planes, and a codebook (docs/format.md)."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from clipq.byte_reader import ByteReader, TruncatedError

#: Longer integers are refused, and a head is far shorter than this.
_MOST_BITS, _MOST_BYTES = 40, 1 << 14


class BitWriter:
    """Collects bits; ``text`` has them as 0 and 1, in order."""

    def __init__(self) -> None:
        self.text = ""

    def bits(self, value: int, width: int) -> None:
        """An unsigned integer of ``width`` bits, the highest first."""
        if width:
            self.text += f"{value:0{width}b}"

    def number(self, value: int, order: int) -> None:
        """``exp(order)`` of the document, for an unsigned integer."""
        value += 1 << order
        self.bits(value, 2 * value.bit_length() - 1 - order)

    def signed(self, value: int, order: int) -> None:
        """``signed(order)`` of the document."""
        self.number(2 * value if value >= 0 else -2 * value - 1, order)


def bit_array(text: str) -> np.ndarray:
    """uint8 of 0 and 1."""
    return np.frombuffer(text.encode(), np.uint8) - np.uint8(ord("0"))


def number_size(value: int, order: int) -> int:
    """Bits of an unsigned integer as ``number`` writes it."""
    return 2 * (value + (1 << order)).bit_length() - 1 - order


class BitReader:
    """Reads what ``BitWriter`` wrote from the front of ``data``; errors are those of ``reader``, at its place.

    The last bit that is 1 ends the data and is no part of it: ``size`` bits come before it.
    """

    def __init__(self, reader: ByteReader, data: bytes) -> None:
        if not data or not data[-1]:
            reader.invalid("stream: expected a last bit that is 1")
        head = data[:_MOST_BYTES]
        self._reader, self._value, self._whole = reader, int.from_bytes(head, "big"), 8 * len(head)
        self.size = 8 * len(data) - (data[-1] & -data[-1]).bit_length()
        self.at = 0

    def bits(self, width: int, what: str) -> int:
        left = min(self.size, self._whole) - self.at
        if width > left:
            raise TruncatedError(
                self._reader.section, self._reader.offset, f"{what}: expected {width} bits, {left} are left"
            )
        self.at += width
        return self._value >> (self._whole - self.at) & ((1 << width) - 1)

    def invalid(self, message: str) -> NoReturn:
        self._reader.invalid(message)

    def number(self, order: int, what: str) -> int:
        zeros = 0
        while not self.bits(1, what):
            zeros += 1
            if zeros > _MOST_BITS:
                self.invalid(f"{what}: expected an integer below 2^{_MOST_BITS}")
        return (1 << (zeros + order) | self.bits(zeros + order, what)) - (1 << order)

    def signed(self, order: int, what: str) -> int:
        value = self.number(order, what)
        return -(value >> 1) - 1 if value & 1 else value >> 1
