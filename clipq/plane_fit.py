"""Chooses what the planes of a layer say of themselves: neighbour offsets, means, priors and weights.

Nothing here has to be repeated when a file is read, so this may use floating point: the choices are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipq.integer_log import S_MAX
from clipq.plane_model import MEAN_STEP, WEIGHT_BITS, Feature, FeatureNumbers, PlaneSetting
from clipq.plane_order import Grid, Plane, planes
from clipq.plane_walk import PlaneWalk

MAX_OFFSETS = 6
_LARGEST_OFFSET = 1024
#: Of each plane at most this many ones and as many zeros are fitted to.
_SAMPLES = 3_000
#: A feature stays only if it saves this many bits; it costs its weight's byte.
_WORTH_BITS = 14.0
#: Planes of less information have no features.
_LEAST_BITS = 600
_MOST_ITERATIONS = 12
_OF_RUNS = 4
_ROWS_AT_ONCE = 512
_UNIT = math.log(2) / 256  # of log odds


def choose_offsets(signed: np.ndarray) -> tuple[int, ...]:
    """The distances within a row, at most MAX_OFFSETS, at which kept weights attract each other or share their sign.

    signed: int8 [R, C], the sign of each weight, 0 where it is pruned.
    """
    rows, columns = signed.shape
    if columns < 3:
        return ()
    part = signed[:: max(1, rows // 128)].astype(np.float32)
    longest = min(columns - 1, _LARGEST_OFFSET)
    kept = np.abs(part)
    expected = kept.mean(1, keepdims=True) * kept.mean(0, keepdims=True) / max(float(kept.mean()), 1e-9)
    score = np.zeros(longest)
    for series in (part, kept - expected):
        size = 1 << (columns + longest).bit_length()
        spectrum = np.fft.rfft(series, size, axis=1)
        together = np.fft.irfft((np.abs(spectrum) ** 2).sum(0), size)[: longest + 1]
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
        shape = (last - first, self._grid.columns + self._grid.margin)
        self._slab_magnitude, self._slab_negative = np.zeros(shape, np.uint8), np.zeros(shape, np.bool_)
        self._slab_magnitude[:, : self._grid.columns] = self._magnitude[first:last]
        self._slab_negative[:, : self._grid.columns] = self._negative[first:last]

    def at(self, number: int, at: np.ndarray) -> np.ndarray:
        """bool: the decisions of plane ``number`` at these places of the slab."""
        place = at - self._grid.margin
        plane = self._planes[number]
        if plane.kind == "sign":
            return self._slab_negative.reshape(-1).take(place)
        return decide(plane, self._slab_magnitude.reshape(-1).take(place))


def decide(plane: Plane, magnitude: np.ndarray) -> np.ndarray:
    """bool: the decisions of a plane other than the sign's for these magnitudes."""
    if plane.kind == "bit":
        return (magnitude >> plane.r & 1).astype(np.bool_)
    return magnitude >= (1 << plane.e)


def fit_planes(magnitude: np.ndarray, negative: np.ndarray, grid: Grid, largest: int) -> list[PlaneSetting]:
    """The settings of all planes for a layer's magnitudes (uint8 [R, C]) and negative weights (bool [R, C])."""
    every = planes(largest)
    kept = _Kept.of(magnitude, negative)
    first = [_start(plane, kept, grid) for plane in every]
    sample = _Sample(Truth(magnitude, negative, grid, largest), first)
    walk = PlaneWalk(grid, largest, first)
    for start, stop in grid.slabs()[:2]:
        sample.truth.begin(start, stop)
        walk.slab(stop - start, sample, last=False)
    return [_fit(setting, sample.of(i)) for i, setting in enumerate(first)]


class _Kept(NamedTuple):
    """Row, column, magnitude and sign of each kept weight of a layer of ``shape`` [R, C]."""

    shape: tuple[int, int]
    row: np.ndarray
    column: np.ndarray
    magnitude: np.ndarray
    negative: np.ndarray

    @classmethod
    def of(cls, magnitude: np.ndarray, negative: np.ndarray) -> _Kept:
        at = np.flatnonzero(magnitude)
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

    def counts(self, chosen: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """How many of those chosen are in each row, and in each column."""
        places = (self.row, self.column) if chosen is None else (self.row[chosen], self.column[chosen])
        rows, columns = (np.bincount(place, minlength=n) for place, n in zip(places, self.shape, strict=True))
        return rows, columns


def _start(plane: Plane, kept: _Kept, grid: Grid) -> PlaneSetting:
    """Mean and priors of a plane; with all features switched on, if it is worth modelling, so that they are sampled."""
    members, chosen = kept.decisions(plane)
    ones = kept.counts(chosen)
    every = (
        kept.counts(members)
        if plane.kind != "mask"
        else tuple(np.full(n, m) for n, m in (kept.shape, kept.shape[::-1]))
    )
    k, n = int(ones[0].sum()), int(every[0].sum())
    if k in (0, n):
        return PlaneSetting(constant=int(k > 0))
    log_odds = round(256 * math.log2((k + 0.5) / (n - k + 0.5)))
    mean = min(max(round(log_odds / MEAN_STEP), -128), 127)
    row_prior, column_prior = (_prior(some, of, k / n) for some, of in zip(ones, every, strict=True))
    information = -(k * math.log2(k / n) + (n - k) * math.log2(1 - k / n))
    numbers = FeatureNumbers(len(grid.offsets))
    allowed = numbers.allowed(plane.kind) if information >= _LEAST_BITS else 0
    switched_on = {k: 1 for k in range(numbers.count) if allowed >> k & 1}
    return PlaneSetting(None, mean, log_odds, row_prior, column_prior, switched_on)


def _prior(ones: np.ndarray, every: np.ndarray, p: float) -> int:
    """log2 of the prior's weight, 0..15, from how much more the rows' (or columns') means vary than chance has it."""
    total, pairs = float(every.sum()), float((every.astype(float) * (every - 1)).sum())
    excess = float(((ones - every * p) ** 2).sum()) / (p * (1 - p)) - total
    if pairs == 0 or excess <= 0:
        return 15
    correlation = min(excess / pairs, 0.999)
    return min(max(round(math.log2(1 / correlation - 1 + 1e-9)), 0), 15)


class _Sample:
    """Takes the true decisions, and keeps a sample of the features that go with them."""

    def __init__(self, truth: Truth, settings: Sequence[PlaneSetting]) -> None:
        self.truth = truth
        self._runs = [0] * len(settings)
        self._kept: list[list[tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]]] = [[] for _ in settings]

    def take(self, number: int, at: np.ndarray, features: dict[int, Feature], after: int | None) -> np.ndarray:
        ones = self.truth.at(number, at)
        self._runs[number] += 1
        share = 1
        if at.size > _SAMPLES // 4:  # a large plane, in many runs, of which some are enough
            share = _OF_RUNS
            if self._runs[number] % share:
                return ones
        weight, chosen = np.ones(0), []
        for value in (True, False):
            of_value = np.flatnonzero(ones == value)
            step = max(1, of_value.size * 16 // (_SAMPLES * share))
            chosen.append(of_value[::step])
            weight = np.concatenate([weight, np.full(chosen[-1].size, share * of_value.size / max(chosen[-1].size, 1))])
        index = np.concatenate(chosen)
        self._kept[number].append((ones[index], weight, {k: feature(index) for k, feature in features.items()}))
        return ones

    def narrow(self, kept: int) -> None:
        """Nothing to do."""

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """Decisions, how many each stands for, and features of a plane's sample."""
        kept = self._kept[number]
        if not kept:
            return np.zeros(0, np.bool_), np.zeros(0), {}
        features = {k: np.concatenate([f[k] for _, _, f in kept]) for k in kept[0][2]}
        return np.concatenate([y for y, _, _ in kept]), np.concatenate([w for _, w, _ in kept]), features


def _fit(setting: PlaneSetting, sample: tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]) -> PlaneSetting:
    """The weights of largest likelihood, without the features that are not worth their byte."""
    ones, weight, features = sample
    plain = PlaneSetting(setting.constant, setting.mean, setting.mean * MEAN_STEP)
    if setting.constant is not None or not features:
        return plain
    numbers = [k for k, f in features.items() if np.any(f != f[0])]
    columns = [features[k].astype(np.float32) * np.float32(_UNIT) for k in numbers]
    x = np.column_stack([*columns, np.ones(ones.size, np.float32)])
    weight = weight.astype(np.float32)
    start = np.zeros(x.shape[1])
    start[-1] = setting.bias * _UNIT
    solution, information = _newton(x, ones, weight, start)
    spread = np.diag(np.linalg.inv(information))
    stay = np.flatnonzero(solution[:-1] ** 2 / spread[:-1] > 2 * math.log(2) * _WORTH_BITS)
    columns_left = [*stay, x.shape[1] - 1]
    numbers = [numbers[i] for i in stay]
    x = x[:, columns_left]
    solution, _ = _newton(x, ones, weight, solution[columns_left])
    step = 1 << WEIGHT_BITS
    rounded = np.clip(np.round(solution[:-1] * step), -128, 127)
    solution[:-1] = rounded / step
    bias = _newton(x, ones, weight, solution, free=slice(x.shape[1] - 1, None))[0][-1] / _UNIT
    weights = {k: int(w) for k, w in zip(numbers, rounded, strict=True) if w}
    bias_units = min(max(round(float(bias)), -S_MAX), S_MAX)
    fitted = PlaneSetting(None, setting.mean, bias_units, setting.row_prior, setting.column_prior, weights)
    return fitted if weights else plain


def _newton(
    x: np.ndarray, ones: np.ndarray, weight: np.ndarray, start: np.ndarray, free: slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted logistic regression with a weak ridge: the solution, and the information matrix there."""
    solution, ridge = start.astype(float).copy(), np.full(x.shape[1], 1.0)
    ridge[-1] = 1e-3
    loss, information = math.inf, np.diag(ridge)
    step = np.zeros_like(solution)
    for _ in range(_MOST_ITERATIONS):
        z = np.clip(x @ solution.astype(np.float32), -30, 30)
        odds = np.exp(z)
        now = float((weight * (np.log1p(odds) - ones * z)).sum() + (ridge[:-1] * solution[:-1] ** 2).sum() / 2)
        if now > loss + 1e-6:  # overshot: halfway back
            solution, step = solution - step / 2, step / 2
            continue
        q = odds / (1 + odds)
        gradient = x.T @ (weight * (ones - q)) - ridge * solution
        information = _products(x, x * (weight * q * (1 - q))[:, None]) + np.diag(ridge)
        if loss - now < 2.0:
            break
        loss, step = now, np.zeros_like(solution)
        step[free] = np.linalg.solve(information[free, free], gradient[free])
        solution = solution + step
    return solution, information


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x.T @ y, by blocks that are too small for several threads to be started on them."""
    blocks = range(0, x.shape[0], _ROWS_AT_ONCE)
    return np.sum([x[i : i + _ROWS_AT_ONCE].T @ y[i : i + _ROWS_AT_ONCE] for i in blocks], axis=0)
