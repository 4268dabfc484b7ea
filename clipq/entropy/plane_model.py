"""The model of one binary plane of a layer: how likely a one is at a position, from rows, columns and neighbours.

A layer's codes are coded as a few planes of binary decisions (``plane_walk``).  The log odds of a one are

    s = bias + (sum_k weight_k feature_k) >> 4

with features that both sides know when the decision is taken.  Everything is integer; docs/format.md, "Planes".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np

from clipq.entropy.integer_log import PROBABILITY_BITS, integer_log2, logistic
from clipq.entropy.plane_order import Plane

WEIGHT_BITS = 4
#: A neighbour that is a one and one that is a zero differ by this much in a neighbour feature.
NEIGHBOUR_UNIT = 256
_COUNT_UNIT = 16


@dataclass(frozen=True)
class PlaneSetting:
    """What the stream says of a plane.

    constant: 0 or 1 where all decisions are that, otherwise None.
    mean: log odds of the plane's mean; where row and column statistics start from.
    bias: log odds of a decision whose features are all 0.
    priors: a mean's worth of 2^prior decisions is added to the statistics of rows, columns, kernels and values, 0..15.
    weights: feature number -> weight in 1/16, not 0.
    """

    constant: int | None = None
    mean: int = 0
    bias: int = 0
    priors: tuple[int, int, int, int] = (0, 0, 0, 0)
    weights: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureNumbers:
    """The numbers of the features, for d neighbour offsets."""

    d: int

    row = 0
    column = 1
    kernel = 2
    value = 3
    #: The statistics of a plane's own decisions, and those of its parent's.
    own: ClassVar = (row, column, kernel, value)
    of_parent: ClassVar = (row, column, kernel)

    def neighbour(self, k: int) -> int:
        return 4 + k

    @property
    def likeness(self) -> int:
        return 4 + self.d

    def parent_statistic(self, number: int) -> int:
        """Of the parent's decisions what feature ``number``, of ``of_parent``, is of the plane's own."""
        return 5 + self.d + number

    def statistics(self, number: int) -> set[int]:
        """The features that are statistics of rows (or columns, kernels, values, as ``number`` says)."""
        return {number, self.parent_statistic(number)} if number in self.of_parent else {number}

    def parent_neighbour(self, k: int) -> int:
        return 8 + self.d + k

    @property
    def size(self) -> int:
        return 8 + 2 * self.d

    def allowed(self, plane: Plane, kernel: int) -> list[int]:
        """The features that a plane may have: the mask has no parent, and only in some planes do values differ."""
        without = set() if plane.kind == "sign" else {self.likeness}
        without |= {"": {self.size, self.value}, "size": {self.value}, "value": {self.size}}[plane.looks_at]
        if kernel == 1:
            without |= {self.kernel, self.parent_statistic(self.kernel)}
        return [k for k in range(self.likeness if plane.kind == "mask" else self.size + 1) if k not in without]

    def is_progressive(self, number: int) -> bool:
        """Whether a feature changes while the plane is being coded."""
        return number <= self.likeness


class Statistics:
    """Ones and decisions so far in each row (column, ...), and their log odds relative to the plane's mean."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ones, self._all = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._before = self._ones[None], self._all[None]

    def add(self, places: np.ndarray, ones: np.ndarray) -> None:
        """Counts decisions at ``places`` (rows, columns, ...), of which those with ``ones`` are ones."""
        some, every = self._counts(places, ones)
        self._ones, self._all = self._ones + some, self._all + every

    def add_runs(self, runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """The same for places and ones of one run after the other; what was known before each is kept."""
        ones, every = (np.zeros((len(runs), self.size), np.int64) for _ in range(2))
        for i, run in enumerate(runs):
            ones[i], every[i] = self._ones, self._all
            self.add(*run)
        self._before = ones, every

    def _counts(self, places: np.ndarray, ones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        some = np.bincount(places.take(ones.nonzero()[0]), minlength=self.size)
        return some, np.bincount(places, minlength=self.size)

    def log_odds(self, mean: int, prior: int) -> np.ndarray:
        """int32 [size], from all that was counted; 0 where nothing is known."""
        return _log_odds(self._ones, self._all, mean, prior)

    def log_odds_before(self, mean: int, prior: int) -> np.ndarray:
        """int32 [runs, size], before each run of what was counted last."""
        return _log_odds(*self._before, mean, prior)


def _log_odds(ones: np.ndarray, every: np.ndarray, mean: int, prior: int) -> np.ndarray:
    start_one, start_zero = _start(mean, prior)
    largest = int(every.max(initial=0)) + 1
    of_ones, of_zeros = _log_table(start_one, largest), _log_table(start_zero, largest)
    out: np.ndarray = of_ones.take(ones)
    out -= of_zeros.take(every - ones)
    out -= of_ones[0] - of_zeros[0]
    return out


@lru_cache(maxsize=256)
def _start(mean: int, prior: int) -> tuple[int, int]:
    """The ones and zeros, in sixteenths, that statistics start from."""
    q = int(logistic(np.array([mean]))[0])
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
    one_share = NEIGHBOUR_UNIT * int(logistic(np.array([mean]))[0]) >> PROBABILITY_BITS
    return -one_share, NEIGHBOUR_UNIT - one_share
