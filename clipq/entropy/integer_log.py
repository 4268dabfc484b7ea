"""Logarithm and logistic function in integers, so that every platform computes the same probabilities.

A log odds ``s`` is an integer in units of 1/256 of a factor of two: ``s = 256`` says that a one is twice as likely as
a zero.  A probability ``q`` is an integer in units of 2^-15.  docs/format.md, "Probabilities".
"""

from __future__ import annotations

import numpy as np

PROBABILITY_BITS = 15
#: Log odds beyond +- S_MAX are taken as S_MAX: nearly 2^15 : 1.
S_MAX = 4095
_MANTISSA_BITS = 10


def _log2_table() -> np.ndarray:
    """floor(256 log2(1 + i/1024)), i = 0..1023, from exact powers of integers."""
    one = 1 << _MANTISSA_BITS
    return np.array([((one + i) ** 256).bit_length() - 1 - 256 * _MANTISSA_BITS for i in range(one)], np.int32)


_LOG2 = _log2_table()


def integer_log2(x: np.ndarray) -> np.ndarray:
    """256 log2(x) from the leading 11 bits of x, rounded down: int32, for integers 1 <= x < 2^53."""
    fraction, exponent = np.frexp(np.asarray(x, np.float64))  # exact: x = fraction 2^exponent, 1/2 <= fraction < 1
    leading = (fraction * (2 << _MANTISSA_BITS)).astype(np.int32) - (1 << _MANTISSA_BITS)
    return _LOG2[leading] + ((exponent.astype(np.int32) - 1) << 8)


def _logistic_table() -> np.ndarray:
    """q of every s from -S_MAX to S_MAX: the largest q whose log odds are at most s, from 1 to 2^15 - 1."""
    one = 1 << PROBABILITY_BITS
    q = np.arange(1, one)
    log_odds = integer_log2(q) - integer_log2(one - q)
    return np.maximum(np.searchsorted(log_odds, np.arange(-S_MAX, S_MAX + 1), side="right"), 1).astype(np.int32)


_LOGISTIC = _logistic_table()


def logistic(s: np.ndarray) -> np.ndarray:
    """The probability q of a one, int32 from 1 to 2^15 - 1, for log odds s (any integers)."""
    return _LOGISTIC.take(s + S_MAX, mode="clip")
