"""Chooses what the planes of a layer say of themselves: neighbour offsets, means, priors and weights.

Nothing here has to be repeated when a file is read, so this may use floating point: the choices are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clipq.entropy.integer_log import S_MAX
from clipq.entropy.plane_header import LOG_ODDS_STEP, MOST_WEIGHT, SLAB_POSITIONS, mean_size, setting_size
from clipq.entropy.plane_model import WEIGHT_BITS, FeatureNumbers, PlaneSetting
from clipq.entropy.plane_order import MAGNITUDES, Grid, Plane, parents, planes
from clipq.entropy.plane_walk import View

MAX_OFFSETS = 6
_LARGEST_OFFSET = 1024
#: Layers of fewer weights, and those of which comparing rows takes more products than this, are in fewer runs.
_SMALL, _LARGE = 30_000, 1 << 27
#: So many rows say at which distances neighbours are alike.
_OFFSET_ROWS = 64
#: To at most about this many ones of a mask, and as many zeros, it is fitted; and so for the planes after it, which
#: decide less often.
_OF_MASK, _OF_OTHERS = 5_000, 1_500
#: A feature stays only if it saves this many bits, about what its weight takes, and this share of the plane's.
_WORTH_BITS, _WORTH_SHARE = 11.0, 0.0008
#: Planes of less information have no features.
_LEAST_BITS = 600
#: Statistics that vary by less than this many standard deviations tell too little.
_CHANCE = 3.0
_MOST_ITERATIONS = 30
#: As if so many samples more said nothing of the weights.
_RIDGE = 0.1
#: Which features are of use is told by half of the samples, and less exactly.
_TO_CHOOSE = 20.0
_UNIT = math.log(2) / 256  # of log odds
#: The most that a mean or a bias may be.
_MOST_STORED = S_MAX // LOG_ODDS_STEP * LOG_ODDS_STEP


def usual_grid(rows: int, columns: int, kernel: int, offsets: tuple[int, ...]) -> Grid:
    """How a layer is walked over: in slabs of equal size, as the last one has to take all lanes back.

    More runs know more of each other; large layers save time with fewer, and small ones lose little by it.
    """
    most = max(1, SLAB_POSITIONS // max(columns, 1))
    slab_rows = -(-rows // -(-rows // most))
    few = not _SMALL <= rows * columns or rows * columns * min(rows, columns) >= _LARGE
    return Grid(rows, columns, kernel, offsets, slab_rows, 3 if few else 0)


def choose_offsets(magnitude: np.ndarray, negative: np.ndarray) -> tuple[int, ...]:
    """The distances within a row, at most MAX_OFFSETS, at which kept weights attract each other or share their sign.

    For a layer's magnitudes (uint8 [R, C]) and negative weights (bool [R, C]).
    """
    rows, columns = magnitude.shape
    if columns < 3:
        return ()
    some = slice(None, None, max(1, rows // _OFFSET_ROWS))
    longest = min(columns - 1, _LARGEST_OFFSET)
    kept = (magnitude[some] > 0).astype(np.float32)
    part = np.where(negative[some], np.float32(-1), kept)
    expected = kept.mean(1, keepdims=True) * kept.mean(0, keepdims=True) / max(float(kept.mean()), 1e-9)
    score = np.zeros(longest)
    size = 1 << (columns + longest).bit_length()
    for series in (part, kept - expected):
        spectrum = np.fft.rfft(series, size, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).sum(0)
        together = np.fft.irfft(power, size)[: longest + 1]
        noise = math.sqrt(max(float((series**2).mean()) ** 2 * part.shape[0], 1e-12)) * np.sqrt(
            columns - np.arange(1, longest + 1)
        )
        score += np.maximum(together[1:] / noise - 6, 0) ** 2
    best = np.argsort(-score, kind="stable")[:MAX_OFFSETS]
    return tuple(int(k) + 1 for k in best if score[k] > 0)


class Truth:
    """The decisions of a layer that is being written."""

    def __init__(self, magnitude: np.ndarray, negative: np.ndarray, grid: Grid, largest: int) -> None:
        self._magnitude, self._negative, self._grid = magnitude, negative, grid
        self._planes = planes(largest)
        self.begin(0, 0)

    def begin(self, first: int, last: int) -> None:
        """The slab of rows ``first`` to ``last`` - 1 is next."""
        rows, columns, margin = last - first, self._grid.columns, self._grid.margin
        self._slab_magnitude = np.zeros(margin + rows * (columns + margin), np.uint8)
        self._slab_negative = np.zeros(self._slab_magnitude.size, np.bool_)
        for padded, of in ((self._slab_magnitude, self._magnitude), (self._slab_negative, self._negative)):
            padded[margin:].reshape(rows, columns + margin)[:, :columns] = of[first:last]

    def at(self, number: int, at: np.ndarray) -> np.ndarray:
        """bool: the decisions of plane ``number`` at these places of the slab."""
        plane = self._planes[number]
        return self._slab_negative.take(at) if plane.kind == "sign" else decide(plane, self._slab_magnitude.take(at))


def decide(plane: Plane, magnitude: np.ndarray) -> np.ndarray:
    """bool: the decisions of a plane other than the sign's for these magnitudes."""
    if plane.kind == "bit":
        return (magnitude >> plane.r & 1).astype(np.bool_)
    return magnitude >= (1 << plane.e)


def first_settings(
    magnitude: np.ndarray,
    negative: np.ndarray,
    grid: Grid,
    largest: int,
    totals: Sequence[tuple[int, int]] | None = None,
) -> list[PlaneSetting]:
    """Means and priors of all planes for a layer's magnitudes (uint8 [R, C]) and negative weights (bool [R, C]).

    Planes that are worth modelling have all features that may tell something, with any weight.

    totals: ones and decisions of each plane in all of the layer, if these are only some of its rows.
    """
    kept, every = _Kept.of(magnitude, negative), planes(largest)
    starts = [_start(plane, kept, grid, totals[i] if totals else None) for i, plane in enumerate(every)]
    of_parents = [_CONSTANT if parent is None else starts[parent] for parent in parents(every)]
    return [start.setting(plane, grid, of) for start, plane, of in zip(starts, every, of_parents, strict=True)]


class _Kept(NamedTuple):
    """Row, column, magnitude and sign of each kept weight of a layer of ``shape`` [R, C]."""

    shape: tuple[int, int]
    row: np.ndarray
    column: np.ndarray
    magnitude: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, magnitude: np.ndarray, negative: np.ndarray) -> _Kept:
        at = np.flatnonzero(magnitude != 0)
        row = at // max(magnitude.shape[1], 1)
        column = at - row * magnitude.shape[1]
        shape = (magnitude.shape[0], magnitude.shape[1])
        return cls(shape, row, column, magnitude.reshape(-1).take(at), negative.reshape(-1).take(at))

    def decisions(self, plane: Plane) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Which kept weights a plane decides on, and which of those are ones (bool); None for all of them."""
        if plane.kind == "mask":
            return None, None
        if plane.kind == "sign":
            return None, self.negative
        members = (self.magnitude >> plane.e) == 1 if plane.kind == "bit" else self.magnitude >= (1 << plane.e - 1)
        return members, members & decide(plane, self.magnitude)

    def size(self, chosen: np.ndarray | None) -> int:
        return self.row.size if chosen is None else int(np.count_nonzero(chosen))

    def counts(self, chosen: np.ndarray | None, kernel: int) -> list[np.ndarray]:
        """How many of those chosen are in each row, in each column, and in each kernel."""
        row, column = (self.row, self.column) if chosen is None else (self.row[chosen], self.column[chosen])
        counts = [np.bincount(row, minlength=self.shape[0]), np.bincount(column, minlength=self.shape[1])]
        if kernel == 1:
            return [*counts, np.zeros(1)]
        kernels = self.shape[1] // kernel
        return [*counts, np.bincount(row * kernels + column // kernel, minlength=self.shape[0] * kernels)]

    def values(self, plane: Plane, chosen: np.ndarray | None) -> np.ndarray:
        """How many of those chosen have each value."""
        value = plane.value(self.magnitude)
        return np.bincount(value if chosen is None else value[chosen], minlength=MAGNITUDES)


class _Variation(NamedTuple):
    """How much more the means of rows (or columns, ...) vary than chance has it.

    prior: as log2 of the weight of a statistic's prior, 0..15.  tells: whether it is so much that it may be of use.
    """

    prior: int
    tells: bool


class _Start(NamedTuple):
    """What a plane's setting starts from: without features, and how rows, columns, kernels and values vary."""

    plain: PlaneSetting
    variations: Sequence[_Variation] = (_Variation(15, False),) * len(FeatureNumbers.own)
    worth_modelling: bool = False

    def setting(self, plane: Plane, grid: Grid, parent: _Start) -> PlaneSetting:
        """With features switched on so that they are fitted, where the plane is worth it."""
        numbers = FeatureNumbers(len(grid.offsets))
        silent = {k for k in numbers.own if not self.variations[k].tells}
        silent |= {numbers.parent_statistic(k) for k in numbers.of_parent if not parent.variations[k].tells}
        told = [k for k in numbers.allowed(plane, grid.kernel) if k not in silent]
        if not self.worth_modelling or not told:
            return self.plain
        row, column, kernel, value = (variation.prior for variation in self.variations)
        return replace(self.plain, priors=(row, column, kernel, value), weights=dict.fromkeys(told, 1))


_CONSTANT = _Start(PlaneSetting(constant=0))


def _start(plane: Plane, kept: _Kept, grid: Grid, total: tuple[int, int] | None) -> _Start:
    """Mean, priors and what varies of a plane, which has so many ones and decisions in all if not only these."""
    members, chosen = kept.decisions(plane)
    k = kept.size(chosen)
    n = math.prod(kept.shape) if plane.kind == "mask" else kept.size(members)
    plain, information = _plain(*(total or (k, n)))
    if k in (0, n):
        return _Start(plain)
    ones = kept.counts(chosen, grid.kernel)
    rows, columns = kept.shape
    every = (
        kept.counts(members, grid.kernel)
        if plane.kind != "mask"
        else [np.full(rows, columns), np.full(columns, rows), np.full(ones[2].size, grid.kernel)]
    )
    values = [kept.values(plane, of) if plane.looks_at == "value" else np.zeros(1) for of in (chosen, members)]
    pairs = zip([*ones, values[0]], [*every, values[1]], strict=True)
    return _Start(plain, [_variation(some, of, k / n) for some, of in pairs], information >= _LEAST_BITS)


def _plain(k: int, n: int) -> tuple[PlaneSetting, float]:
    """The setting without features for k ones among n decisions, and the bits that these take with it."""
    if k in (0, n):
        return PlaneSetting(constant=int(k > 0)), 0.0
    log_odds = 256 * math.log2((k + 0.4) / (n - k + 0.4))
    mean = _worthwhile_mean(log_odds, k * (n - k) / n)
    return PlaneSetting(None, mean, mean), entropy_bits(k, n)


def entropy_bits(k: float, n: float) -> float:
    """Bits of k ones among n decisions, as few as one probability makes them."""
    return -(k * math.log2(k / n) + (n - k) * math.log2(1 - k / n)) if 0 < k < n else 0.0


def _worthwhile_mean(log_odds: float, information: float) -> int:
    """The mean near ``log_odds`` for which what it takes and what it misses are least; ``information``: n p (1 - p)."""

    def cost(mean: int) -> float:
        return mean_size(mean) + information * math.log(2) / 2 * ((mean - log_odds) / 256) ** 2

    steps = [LOG_ODDS_STEP << shift for shift in range(4)]
    return min((min(max(round(log_odds / step) * step, -_MOST_STORED), _MOST_STORED) for step in steps), key=cost)


def _variation(ones: np.ndarray, every: np.ndarray, p: float) -> _Variation:
    """Of rows (or columns, ...) with so many ones among so many decisions, where chance has a share of p."""
    total, squares = float(every.sum()), float((every.astype(float) ** 2).sum())
    variance = p * (1 - p)
    excess = float(((ones - every * p) ** 2).sum()) / variance - total
    if squares == total or excess <= 0:
        return _Variation(15, False)
    correlation = min(excess / (squares - total), 0.999)
    prior = min(max(round(math.log2(1 / correlation - 1 + 1e-9)), 0), 15)
    return _Variation(prior, excess > _CHANCE * math.sqrt(2 * squares + total * (1 / variance - 6)))


class PlaneSample(NamedTuple):
    """Some of a plane's decisions, for its setting to be fitted to.

    features: of each decision, int32, by number.  ones: bool.
    weight: how many decisions each stands for, float32.
    n_ones, n: ones and decisions in all for which the sample stands.
    """

    features: dict[int, np.ndarray]
    ones: np.ndarray
    weight: np.ndarray
    n_ones: float
    n: float

    @classmethod
    def of(cls, view: View, ones: np.ndarray, each: float = 1.0, share: float = 1.0) -> PlaneSample:
        """From a plane of which everything was learnt.

        each: so many decisions each of them stands for.  share: the sample's among those that are fitted together.
        """
        index, weight = _sample(ones, int(share * (_OF_OTHERS if view.number else _OF_MASK)))
        features = {k: view.feature(k, index) for k in view.setting.weights}
        sizes = each * int(np.count_nonzero(ones)), each * ones.size
        return cls(features, ones[index], weight * np.float32(each), *sizes)

    def bits(self, setting: PlaneSetting) -> float:
        """About the bits of all decisions for which the sample stands."""
        log_odds = np.full(self.ones.size, setting.bias * _UNIT)
        for k, weight in setting.weights.items():
            log_odds += self.features[k] * (weight * _UNIT / (1 << WEIGHT_BITS))
        return float(self.weight @ np.logaddexp(0, np.where(self.ones, -log_odds, log_odds))) / math.log(2)

    @classmethod
    def joined(cls, samples: Sequence[PlaneSample]) -> PlaneSample:
        features = {k: np.concatenate([s.features[k] for s in samples]) for k in samples[0].features}
        ones, weight = (np.concatenate([s[i] for s in samples]) for i in (1, 2))
        return cls(features, ones, weight, sum(s.n_ones for s in samples), sum(s.n for s in samples))


def fit_plane(setting: PlaneSetting, sample: PlaneSample, grid: Grid, plane: Plane) -> PlaneSetting:
    """The plane's setting with the weights of largest likelihood, without the features that are not worth theirs.

    Without all of them, where they save less than what the setting takes with them.
    """
    plain = PlaneSetting(None, setting.mean, setting.mean)
    if not sample.ones.size:
        return plain
    numbers = [k for k, f in sample.features.items() if np.any(f != f[0])]
    x = np.empty((len(numbers) + 1, sample.ones.size), np.float32)
    for row, k in zip(x, numbers, strict=False):
        np.multiply(sample.features[k], np.float32(_UNIT), out=row)
    x[-1] = 1
    y, weight = sample.ones, sample.weight
    start = np.append(np.zeros(len(numbers)), setting.mean * _UNIT)
    half = np.ascontiguousarray(x[:, ::2])
    solution, information = _newton(half, y[::2], 2 * weight[::2], start, _TO_CHOOSE)
    spread = np.diag(np.linalg.inv(information))
    worth = max(_WORTH_BITS, _WORTH_SHARE * entropy_bits(sample.n_ones, sample.n))
    stay = np.flatnonzero(solution[:-1] ** 2 / spread[:-1] > 2 * math.log(2) * worth)
    left = [*stay, len(numbers)]
    solution, information = _newton(x[left], y, weight, solution[left])
    step = 1 << WEIGHT_BITS
    rounded = np.clip(np.round(solution[:-1] * step), -MOST_WEIGHT, MOST_WEIGHT)
    weights = {numbers[i]: int(w) for i, w in zip(stay, rounded, strict=True) if w}
    if not weights:
        return plain
    rounding = information[-1, :-1] @ (solution[:-1] - rounded / step) / information[-1, -1]
    bias = (solution[-1] + rounding) / _UNIT
    bias = setting.mean + round((float(bias) - setting.mean) / LOG_ODDS_STEP) * LOG_ODDS_STEP
    fitted = replace(setting, bias=min(max(bias, -_MOST_STORED), _MOST_STORED), weights=weights)
    saved = entropy_bits(sample.n_ones, sample.n) - sample.bits(fitted)
    dearer = setting_size(fitted, grid, plane) - setting_size(plain, grid, plane)
    return fitted if saved > dearer else plain


def _sample(ones: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of some ones and some zeros, about ``most`` each, and how many each stands for (float32)."""
    index, weight = [], []
    n_ones = int(np.count_nonzero(ones))
    for value, n in ((True, n_ones), (False, ones.size - n_ones)):
        step = max(1, n // most)
        chosen = ones.nonzero()[0][::step] if value else (~ones[::step]).nonzero()[0] * step
        index.append(chosen)
        weight.append(np.full(chosen.size, n / max(chosen.size, 1), np.float32))
    return np.concatenate(index), np.concatenate(weight)


def _newton(
    x: np.ndarray, ones: np.ndarray, weight: np.ndarray, start: np.ndarray, enough: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted logistic regression with a weak ridge: the solution, and the information matrix next to it.

    x: float32 [features, samples], of which the last feature is 1.
    enough: a step that is expected to save less than this, in units of 1.44 bits, is the last one.
    """
    at, ridge = start.astype(float).copy(), 1 + _RIDGE * float(weight.max()) * (x**2).mean(1, dtype=float)
    ridge[-1] = 1e-3
    solution, loss, information = at, math.inf, np.diag(ridge)
    step, of_ones = np.zeros_like(solution), weight * ones
    for _ in range(_MOST_ITERATIONS):
        z = np.clip(at.astype(np.float32) @ x, -S_MAX * _UNIT, S_MAX * _UNIT)
        odds = np.exp(z) + 1
        now = float(weight @ np.log(odds) - of_ones @ z) + float(ridge[:-1] @ at[:-1] ** 2) / 2
        if now > loss + 1e-6:  # overshot
            step = step / 2
        else:
            solution, loss = at, now
            of_zeros = weight / odds
            of_both = weight - of_zeros
            gradient = x @ (of_ones - of_both) - ridge * solution
            information = x @ (x * (of_both * of_zeros / weight)).T + np.diag(ridge)
            step = _step(information, gradient, float(solution[-1]))
            if gradient @ step / 2 < enough:
                return solution + step, information
        at = solution + step
    return solution, information


def _step(information: np.ndarray, gradient: np.ndarray, bias: float) -> np.ndarray:
    """Newton's step, or the best one that takes the bias, which is the last, as far as it may go."""
    step: np.ndarray = np.linalg.solve(information, gradient)
    most = _MOST_STORED * _UNIT
    beyond = bias + step[-1] - np.clip(bias + step[-1], -most, most)
    if beyond:
        step[-1] -= beyond
        step[:-1] = np.linalg.solve(information[:-1, :-1], gradient[:-1] - information[:-1, -1] * step[-1])
    return step
