import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipq.entropy.integer_log import PROBABILITY_BITS, S_MAX, integer_log2, logistic


@given(st.integers(1, 2**53 - 1))
def test_log2_is_the_true_one_of_the_leading_bits(x: int) -> None:
    exponent = x.bit_length() - 1
    leading = (x << 10) >> exponent
    exact = 256 * exponent + ((leading**256).bit_length() - 1 - 2560)
    value = int(integer_log2(np.array([x]))[0])
    assert value == exact
    assert value <= 256 * math.log2(x) + 1e-6 < value + 1.4


def test_logistic_is_the_inverse_of_the_log_odds() -> None:
    one = 1 << PROBABILITY_BITS
    s = np.arange(-S_MAX - 50, S_MAX + 51)
    q = logistic(s)
    assert q.min() == 1 and q.max() <= one - 1
    assert np.all(np.diff(q) >= 0)
    expected = one / (1 + 2.0 ** (-np.clip(s, -S_MAX, S_MAX) / 256))
    assert np.all(np.abs(q - expected) <= np.maximum(1.5, 0.006 * np.minimum(expected, one - expected)))


def test_even_odds() -> None:
    assert logistic(np.array([0]))[0] == 1 << (PROBABILITY_BITS - 1)
