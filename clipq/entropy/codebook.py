"""The levels that weights of a layer have, in few bits: how far each is from where those before it let it be expected.

Levels of one sign are about evenly spaced, so the spacing so far says where the next one is.  docs/format.md,
"Codebook".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_

import numpy as np

from clipq.entropy.bit_fields import BitReader, BitWriter

_MANTISSA_BITS = 23
_SIGN = 1 << 31
#: Where the very first level is expected (2^-5), and about how many bits it differs; how many the other side's first.
_FIRST, _FIRST_BITS, _OPPOSITE_BITS = 0x3D000000, 25, 22
#: After so many ones a level is written as it is.
_MOST_ONES = 16
#: A level that is off by its whole step is off by 256; the sum of the last errors at first, and the largest error.
_FIRST_ERRORS, _MOST_ERROR = 400, 512

#: Gives the next level, for where it is expected and about how many bits it differs from that.
_Code = Callable[[int, int], int]


def pack_codebook(levels: np.ndarray, used: np.ndarray, negative: int) -> str:
    """Bits, as 0 and 1, of those ``levels`` (float32 [k]) that are ``used`` (bool [k]); the first ``negative`` of all
    are negative.
    """
    sides, bits = _sides(used, negative), levels.view(np.uint32)
    together = int(np.bitwise_or.reduce(bits[used], initial=0)) | 1 << _MANTISSA_BITS
    zeros = (together & -together).bit_length() - 1
    true = iter([(int(bits[i]) ^ sign) >> zeros for side, sign in zip(sides, (_SIGN, 0), strict=True) for i in side])
    out = BitWriter()
    out.bits(zeros, 5)

    def code(expected: int, about: int) -> int:
        value = next(true)
        folded = _folded(value, expected)
        ones = min(folded >> about, _MOST_ONES)
        out.bits((1 << ones) - 1, ones)
        if ones < _MOST_ONES:
            out.bits(folded & ((1 << about) - 1), 1 + about)
        else:
            out.bits(value, 32 - zeros)
        return value

    _walk(sides, zeros, code)
    return out.text


def read_codebook(bits: BitReader, used: np.ndarray, negative: int) -> np.ndarray:
    """Levels, float32 [k], of which those that are ``used`` (bool [k]) are there.

    A level that is not used is read as the used one before it, the first used one where there is none before it, and 0
    where none is used.

    Raises:
        ClipqFormatError: InvalidValueError or TruncatedError.
    """
    sides, zeros = _sides(used, negative), bits.bits(5, "codebook")
    if zeros > _MANTISSA_BITS:
        bits.invalid(f"zeros at the end of all levels: expected at most {_MANTISSA_BITS}, got {zeros}")

    def code(expected: int, about: int) -> int:
        ones = 0
        while ones < _MOST_ONES and bits.bits(1, "codebook"):
            ones += 1
        if ones == _MOST_ONES:
            value = bits.bits(32 - zeros, "codebook")
            if _folded(value, expected) >> about < _MOST_ONES:
                bits.invalid(f"level: expected the difference of {value} from {expected}, not the number itself")
            return value
        folded = ones << about | bits.bits(about, "codebook")
        value = expected - (folded + 1) // 2 if folded & 1 else expected + folded // 2
        if not 0 <= value < 1 << (32 - zeros):
            bits.invalid(f"level: expected {32 - zeros} bits, got the number {value}")
        return value

    values = _walk(sides, zeros, code)
    if not (reduce(or_, values, 0) | 1 << (_MANTISSA_BITS - zeros)) & 1:
        bits.invalid(f"zeros at the end of all levels: expected more than {zeros}")
    found = np.zeros(used.size, np.uint32)
    found[sides[0] + sides[1]] = np.array(values, np.uint32) << np.uint32(zeros)
    found[sides[0]] ^= np.uint32(_SIGN)
    places = np.flatnonzero(used)
    nearest = places[np.maximum(np.cumsum(used) - 1, 0)] if places.size else np.arange(used.size)
    return found[nearest].view(np.float32)


def _folded(value: int, expected: int) -> int:
    """Their difference as an unsigned number."""
    return 2 * (value - expected) if value >= expected else 2 * (expected - value) - 1


def _sides(used: np.ndarray, negative: int) -> tuple[list[int], list[int]]:
    """The places of the used levels of each sign, that next to zero first."""
    places = np.flatnonzero(used)
    return places[places < negative][::-1].tolist(), places[places >= negative].tolist()


def _walk(sides: Sequence[Sequence[int]], zeros: int, code: _Code) -> list[int]:
    """Every level of both sides as ``code`` gives it: its bits without ``zeros`` last ones; signs are positive."""
    expected, about = _FIRST >> zeros, _FIRST_BITS - zeros
    spacing, values = _Spacing(_MANTISSA_BITS - zeros), []
    for side in sides:
        for i, place in enumerate(side):
            if i == 0:
                value = code(expected, about)
                expected, about = value, max(_OPPOSITE_BITS - zeros, 0)
                spacing.begin(value)
            else:
                codes = abs(place - side[i - 1])
                value = code(*spacing.expect(codes))
                spacing.learn(value, codes)
            values.append(value)
    return values


class _Spacing:
    """Expects the next level of a side: as far from the one before it as those are from each other.

    A level is a float's bits, of which the lowest ``width`` are its mantissa.
    """

    def __init__(self, width: int) -> None:
        self._width, self._errors = width, _FIRST_ERRORS

    def begin(self, value: int) -> None:
        """``value`` is a side's first level."""
        self._value, self._is_first = value, True
        self._distance = max(self._mantissa(value) >> 2, 1)  # from code to code, in units of the mantissa's last bit

    def expect(self, codes: int) -> tuple[int, int]:
        """The level that is ``codes`` codes further on, and about how many bits it will differ from that."""
        reached = self._mantissa(self._value) + codes * self._distance
        octaves = max(reached.bit_length() - self._width - 1, 0)
        self._expected = (self._exponent(self._value) + octaves - 1 << self._width) + (reached >> octaves)
        likely = 5 * self._errors * (self._expected - self._value) >> 11
        return self._expected, max(likely.bit_length() - 1, 0)

    def learn(self, value: int, codes: int) -> None:
        """What was expected is ``value``."""
        error = (abs(value - self._expected) << 8) // (self._expected - self._value)
        self._errors += min(error, _MOST_ERROR) - (self._errors >> 2)
        octaves = max(self._exponent(value) - self._exponent(self._value), 0)
        distance = (self._mantissa(value) - (self._mantissa(self._value) >> octaves)) // codes
        if not self._is_first:
            distance = (distance + (self._distance >> octaves)) // 2
        self._value, self._is_first, self._distance = value, False, max(distance, 1)

    def _exponent(self, value: int) -> int:
        return max(value >> self._width, 1)

    def _mantissa(self, value: int) -> int:
        """With its leading one, where it has one."""
        one = 1 << self._width
        return value & (one - 1) | (one if value >> self._width else 0)
