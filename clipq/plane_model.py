"""The model of one binary plane of a layer: how likely a one is at a position, from rows, columns and neighbours.

A layer's codes are coded as a few planes of binary decisions (``clipq.plane_walk``).  The log odds of a one are

    s = bias + (sum_k weight_k feature_k) >> 5

with features that both sides know when the decision is taken.  Everything is integer; docs/format.md, "Planes".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from clipq.integer_log import PROBABILITY_BITS, integer_log2, logistic

WEIGHT_BITS = 5
#: A neighbour that is a one and one that is a zero differ by this much in a neighbour feature.
NEIGHBOUR_UNIT = 1024
#: Log odds of the plane's mean are stored in steps of this many units.
MEAN_STEP = 32
_COUNT_UNIT = 16
#: The values of a feature, int32, of the decisions with these numbers, or of all.
Feature = Callable[[np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class PlaneSetting:
    """What the stream says of a plane.

    constant: 0 or 1 where all decisions are that, otherwise None.
    mean: log odds of the plane's mean in steps of MEAN_STEP, -128..127; where row and column statistics start from.
    bias: log odds, -32768..32767.
    row_prior, column_prior: a mean's worth of 2^prior decisions is added to the statistics, 0..15.
    weights: feature number -> weight in 1/32, -128..127 and not 0.
    """

    constant: int | None = None
    mean: int = 0
    bias: int = 0
    row_prior: int = 0
    column_prior: int = 0
    weights: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureNumbers:
    """The numbers of the features, for d neighbour offsets."""

    d: int

    row = 0
    column = 1

    def neighbour(self, k: int) -> int:
        return 2 + k

    @property
    def parent_row(self) -> int:
        return 2 + self.d

    @property
    def parent_column(self) -> int:
        return 3 + self.d

    def parent_neighbour(self, k: int) -> int:
        return 4 + self.d + k

    @property
    def size(self) -> int:
        return 4 + 2 * self.d

    @property
    def count(self) -> int:
        return 5 + 2 * self.d

    def allowed(self, kind: str) -> int:
        """The features that a plane of this kind may have, as a set of bits: the mask has no parent."""
        of_all = (1 << (self.parent_row if kind == "mask" else self.size)) - 1
        return of_all | (1 << self.size if kind == "sign" else 0)

    def is_progressive(self, number: int) -> bool:
        """Whether a feature changes while the plane is being coded."""
        return number < self.parent_row


class Statistics:
    """Ones and decisions so far in each row or column, and their log odds relative to the plane's mean."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ones, self._all = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def add(self, places: np.ndarray, ones: np.ndarray) -> None:
        """Counts decisions at ``places`` (rows, or columns), of which those with ``ones`` are ones."""
        self._all += np.bincount(places, minlength=self._size)
        self._ones += np.bincount(places[ones], minlength=self._size)

    def log_odds(self, mean: int, prior: int) -> np.ndarray:
        """int32 [size]; 0 where nothing is known."""
        start_one, start_zero = _start(mean, prior)
        largest = int(self._all.max(initial=0)) + 1
        of_ones, of_zeros = _log_table(start_one, largest), _log_table(start_zero, largest)
        return of_ones.take(self._ones) - of_zeros.take(self._all - self._ones) - (of_ones[0] - of_zeros[0])


@lru_cache(maxsize=256)
def _start(mean: int, prior: int) -> tuple[int, int]:
    """The ones and zeros, in sixteenths, that statistics start from."""
    q = int(logistic(np.array([mean * MEAN_STEP]))[0])
    ones = max(1, (_COUNT_UNIT * q << prior) >> PROBABILITY_BITS)
    return ones, max(1, (_COUNT_UNIT << prior) - ones)


@lru_cache(maxsize=64)
def _log_table_of_power(start: int, bits: int) -> np.ndarray:
    """integer_log2(start + 16 k) for k from 0 to 2^bits - 1."""
    return integer_log2(start + _COUNT_UNIT * np.arange(1 << bits))


def _log_table(start: int, size: int) -> np.ndarray:
    """At least ``size`` entries of the table above."""
    return _log_table_of_power(start, max(size - 1, 1).bit_length())


def neighbour_values(mean: int) -> tuple[int, int]:
    """What a neighbour adds to its feature: (a zero, a one); their mean over the plane is about 0."""
    one_share = NEIGHBOUR_UNIT * int(logistic(np.array([mean * MEAN_STEP]))[0]) >> PROBABILITY_BITS
    return -one_share, NEIGHBOUR_UNIT - one_share


def probabilities(setting: PlaneSetting, features: Mapping[int, Feature], n: int) -> np.ndarray:
    """The probability of a one for each of n decisions, int32 in units of 2^-15."""
    if not setting.weights:
        return np.full(n, logistic(np.array([setting.bias]))[0], np.int32)
    total = np.zeros(n, np.int32)
    for number, weight in setting.weights.items():
        total += features[number](None) * np.int32(weight)
    total >>= WEIGHT_BITS
    total += np.int32(setting.bias)
    return logistic(total)
