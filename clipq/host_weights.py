"""A layer's weights in the computer's own memory: what pruning-quantization asks of them, in few passes.

The weights are taken in chunks that stay in a core's cache.  Only the candidates, those that are kept or lie just below
the clip, are looked at closely, sorted: order statistics, counts and sums are then read off by index.  Where the
candidates begin comes from a sample, or from the last clips, and the counts prove whether they are enough; where they
are not, all weights are candidates.  So every result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import ceil, floor, inf, isfinite, sqrt
from typing import NamedTuple, TypeVar

import numpy as np
import torch

_CHUNK = 1 << 18
_SAMPLE = 1 << 15
_COMPARE_UP_TO = 32  # so many thresholds are compared faster one by one than searched for each weight
_NEAR = 1 / 64  # half-width of the band around a guessed clip, relative to it
_PARTS_TO_SHARE = 8  # parts from which on several threads pay
T = TypeVar("T")


class Rank(NamedTuple):
    """The k-th smallest magnitude of the n weights of one ``sign`` (-1, 1), or of all n (0), 0 <= k <= n."""

    sign: int
    n: int
    k: int


class Survey(NamedTuple):
    """Counts of negative and positive weights, their largest magnitudes (0 for none), and NaN and Inf among them."""

    n_neg: int
    n_pos: int
    e_neg: float
    e_pos: float
    n_bad: int


class _Band(NamedTuple):
    """Magnitudes between which m_k and m_{k+1} probably lie, both ends included."""

    low: float
    high: float


class _Candidates(NamedTuple):
    """Those of one chunk.

    where: their positions; None: the whole chunk.
    values: in that order.  ascending: sorted.
    """

    where: np.ndarray | None
    values: np.ndarray
    ascending: np.ndarray

    def within(self, band: _Band, sign: int) -> tuple[int, np.ndarray]:
        """How many magnitudes of one sign, or of all (0), are above the band, and those in it, in any order."""
        values, number = self.ascending if sign else np.sort(np.abs(self.ascending)), self.ascending.dtype.type
        low = number(band.low) if sign == 0 else max(number(band.low), np.nextafter(number(0), number(1)))
        if sign < 0:
            first, end = values.searchsorted(number(-band.high)), values.searchsorted(-low, side="right")
            return int(first), -values[first:end]
        first, end = values.searchsorted(low), values.searchsorted(number(band.high), side="right")
        return len(values) - int(end), values[first:end]


class HostWeights:
    """The weights of one layer.

    x: float32 or float64 [n].
    p: about the share that is pruned of each sign's weights, or, with ``joint``, of all.
    near: a guess of the clips (c_neg, c_pos), such as the last step's.
    """

    def __init__(self, x: torch.Tensor, p: float, joint: bool, near: tuple[float, float] | None = None) -> None:
        self._x = x.numpy()
        self._parts = [self._x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK)]
        self._codes: list[np.ndarray] = []  # of the candidates
        self._also_pruned: np.ndarray | None = None
        self._bands = {sign: self._likely_band(sign, p, near) for sign in ((0,) if joint else (-1, 1))}
        first, last = self._bands[0 if joint else -1], self._bands[0 if joint else 1]
        self._take_candidates(first.low, last.low)

    def survey(self) -> Survey:
        """Counts and extremes."""
        counts = _each(lambda part: (np.count_nonzero(part < 0), np.count_nonzero(part > 0)), self._parts)
        n_neg, n_pos = (int(sum(side)) for side in zip(*counts, strict=True)) if counts else (0, 0)
        ends = [(float(c.ascending[0]), float(c.ascending[-1])) for c in self._candidates if len(c.ascending)]
        if any(not isfinite(end) for pair in ends for end in pair):  # NaN is sorted to the end
            return Survey(n_neg, n_pos, 0.0, 0.0, int(np.count_nonzero(~np.isfinite(self._x))))
        lowest, highest = min((end[0] for end in ends), default=0.0), max((end[1] for end in ends), default=0.0)
        if (n_neg and lowest >= 0) or (n_pos and highest <= 0):  # a guess beyond the extreme
            lowest, highest = float(self._x.min()), float(self._x.max())
        return Survey(n_neg, n_pos, max(0.0, -lowest), max(0.0, highest), 0)

    def magnitudes(self, rank: Rank) -> tuple[float, float]:
        """m_k and m_{k+1}, 1 <= k < n."""
        for band in (self._bands[rank.sign], _Band(0.0, inf)):
            if (pair := self._pair(rank, band)) is not None:
                return pair
        self._take_candidates(0.0, 0.0)
        pair = self._pair(rank, _Band(0.0, inf))
        assert pair is not None, rank
        return pair

    def prune_first(self, rank: Rank, value: float) -> None:
        """Marks as pruned the first of the weights of magnitude ``value``, as many as make k with the smaller ones."""
        x = np.abs(self._x)
        side = x > 0 if rank.sign == 0 else self._x * rank.sign > 0
        smaller = rank.n - int(np.count_nonzero(side & (x >= value)))
        if self._also_pruned is None:
            self._also_pruned = np.zeros(len(x), dtype=bool)
        self._also_pruned[np.flatnonzero(side & (x == value))[: rank.k - smaller]] = True

    def assign(
        self, keep_from: tuple[float, float], thresholds: np.ndarray, n_levels: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gives every kept weight its interval; the float64 sum and int64 count of each interval's weights, [N].

        keep_from: the least magnitude kept on the negative side and on the positive side.
        """
        if self._low[0] > keep_from[0] or self._low[1] > keep_from[1]:
            self._take_candidates(*keep_from)
        number = self._x.dtype.type
        top, bottom = number(-keep_from[0]), number(keep_from[1])

        def of_part(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            where, values, ascending = self._candidates[i]
            n_neg, first_pos = ascending.searchsorted(top, side="right"), ascending.searchsorted(bottom)
            codes = _codes(values, thresholds)
            if first_pos > n_neg:
                codes *= ((values >= bottom) | (values <= top)).view(np.uint8)
            if self._also_pruned is not None:  # they lie at the clips
                out = self._also_pruned[i * _CHUNK : (i + 1) * _CHUNK]
                out = out if where is None else out.take(where)
                codes[out] = 0
                n_neg, first_pos = (
                    n_neg - np.count_nonzero(values[out] < 0),
                    first_pos + np.count_nonzero(values[out] > 0),
                )
            kept = np.concatenate([ascending[:n_neg], ascending[first_pos:]], dtype=np.float64)
            return codes, *_sums(kept, thresholds)

        found = _each(of_part, range(len(self._parts)))
        self._codes = [codes for codes, _, _ in found]
        sums, counts = np.zeros(n_levels), np.zeros(n_levels, dtype=np.int64)
        for _, part_sums, part_counts in found:
            sums += part_sums
            counts += part_counts
        return sums, counts

    def write(self, levels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The quantized weights, of the weights' type, and the codes (uint8), [n]."""
        weights, codes = np.zeros(len(self._x), self._x.dtype), np.zeros(len(self._x), dtype=np.uint8)
        table = np.concatenate([np.zeros(1), levels]).astype(self._x.dtype)

        def of_part(i: int) -> None:
            where, part, own = self._candidates[i].where, slice(i * _CHUNK, (i + 1) * _CHUNK), self._codes[i]
            if where is None:
                table.take(own, out=weights[part], mode="clip")
                codes[part] = own
            else:
                weights[part][where] = table.take(own)
                codes[part][where] = own

        _each(of_part, range(len(self._parts)))
        return torch.from_numpy(weights), torch.from_numpy(codes)

    def _take_candidates(self, low_neg: float, low_pos: float) -> None:
        """Finds the weights whose magnitude is at least their sign's; NaN is always among them."""
        number = self._x.dtype.type
        top, bottom = number(-low_neg), number(low_pos)
        self._low = float(-top), float(bottom)
        self._candidates = _each(lambda part: _candidates(part, top, bottom), self._parts)

    def _likely_band(self, sign: int, p: float, near: tuple[float, float] | None) -> _Band:
        if near is not None:
            guess = {-1: -near[0], 0: max(-near[0], near[1]), 1: near[1]}[sign]
            if guess > 0:
                return _Band(guess * (1 - _NEAR), guess * (1 + _NEAR))
        if len(self._x) <= _SAMPLE or p == 0:
            return _Band(0.0, inf)
        sample = self._x[:: max(16, len(self._x) // _SAMPLE)]
        sample = np.sort(np.abs(sample) if sign == 0 else sample[sample * sign > 0] * sign)
        size = len(sample)
        margin = 4 * sqrt(size * p * (1 - p)) + 4
        first, last = floor(p * size - margin), ceil(p * size + margin)
        return _Band(float(sample[first]) if first > 0 else 0.0, float(sample[last]) if last < size else inf)

    def _pair(self, rank: Rank, band: _Band) -> tuple[float, float] | None:
        """m_k and m_{k+1}, if the candidates within the band, which are counted from the largest on, hold both."""
        found = [candidates.within(band, rank.sign) for candidates in self._candidates]
        at = rank.n - rank.k - sum(above for above, _ in found)  # m_{k+1} is so many from the band's end
        if not 1 <= at < sum(len(inside) for _, inside in found):
            return None
        in_band = np.sort(np.concatenate([inside for _, inside in found]))
        return float(in_band[-at - 1]), float(in_band[-at])


def _candidates(part: np.ndarray, top: np.floating, bottom: np.floating) -> _Candidates:
    """The values of ``part`` that are not between ``top`` and ``bottom``."""
    where = None
    if bottom > top:
        between = part < bottom
        between &= part > top
        if 2 * np.count_nonzero(between) > len(part):
            where = _positions(~between)
    values = part if where is None else part.take(where)
    return _Candidates(where, values, np.sort(values))


def _positions(mask: np.ndarray) -> np.ndarray:
    """Where the mask is true.

    NumPy looks for the true ones one by one where they are fewer than a tenth, which is slow unless they are far
    fewer; a tail of true values that is cut off again takes it the other way.
    """
    n, count = len(mask), int(np.count_nonzero(mask))
    if not n // 32 < count <= n // 10:
        return np.flatnonzero(mask)
    return np.flatnonzero(np.concatenate([mask, np.ones(n // 8 + 1, dtype=bool)]))[:count]


def _codes(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """1 + how many thresholds each value reaches, uint8."""
    if len(thresholds) > _COMPARE_UP_TO:
        return (np.searchsorted(thresholds, values, side="right") + 1).astype(np.uint8)
    codes = np.ones(len(values), dtype=np.uint8)
    for threshold in thresholds:
        codes += values >= threshold
    return codes


def _sums(ascending: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of the values of each interval, [N]."""
    bounds = np.concatenate([[0], ascending.searchsorted(thresholds), [len(ascending)]])
    counts = np.diff(bounds)
    used, sums = counts > 0, np.zeros(len(counts))
    if len(ascending):
        sums[used] = np.add.reduceat(ascending, bounds[:-1][used])
    return sums, counts


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="clipq")


def _each(work: Callable[..., T], items: Sequence | Iterable) -> list[T]:
    """``work`` of every item, in order; several at a time (NumPy lets go of the interpreter's lock) where it pays."""
    items = list(items)
    workers = torch.get_num_threads() if len(items) >= _PARTS_TO_SHARE else 1
    return list(_pool(workers).map(work, items)) if workers > 1 else [work(item) for item in items]
