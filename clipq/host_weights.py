"""A layer's weights in the computer's own memory: what pruning-quantization asks of them, in few passes.

The weights are taken in chunks that stay in a core's cache.  Only those at or above a band around the clip are
looked at closely: the band comes from a sample, or from the last clip, and the counts prove whether it holds the
wanted order statistic; where it does not, the whole layer is searched.  So every result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import ceil, floor, inf, sqrt
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from clipq.order_statistic import Rank, magnitude_pair

_CHUNK = 1 << 18
_SAMPLE = 1 << 15
_COMPARE_UP_TO = 32  # so many thresholds are compared faster one by one than searched for each weight
_NEAR = 1 / 64  # half-width of the band around a guessed clip, relative to it
_PARTS_TO_SHARE = 8  # parts from which on several threads pay
T = TypeVar("T")


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


class HostWeights:
    """The weights of one layer.

    x: float32 or float64 [n].
    near: a guess of the clips (c_neg, c_pos), such as the last step's.
    """

    def __init__(self, x: torch.Tensor, near: tuple[float, float] | None = None) -> None:
        self._x = x.numpy()
        self._near = near
        self._parts = [self._x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK)]
        self._low = inf
        self._candidates: list[np.ndarray] = []  # positions, in each part, of magnitudes >= _low
        self._codes: list[np.ndarray] = []  # of the candidates
        self._also_pruned: np.ndarray | None = None

    def survey(self) -> Survey:
        """Counts and extremes in one pass."""
        found = _each(_survey, self._parts)
        counts = np.array([s[:2] for s in found], dtype=np.int64).reshape(-1, 2).sum(0)
        lowest, highest = min((s[2] for s in found), default=0.0), max((s[3] for s in found), default=0.0)
        finite = -inf < lowest and highest < inf and not any(s[4] for s in found)
        n_bad = 0 if finite else int(np.count_nonzero(~np.isfinite(self._x)))
        return Survey(int(counts[0]), int(counts[1]), max(0.0, -lowest), max(0.0, highest), n_bad)

    def magnitudes(self, ranks: Sequence[Rank]) -> list[tuple[float, float]]:
        """m_k and m_{k+1} of each rank."""
        bands = [self._likely_band(rank) for rank in ranks]
        self._take_candidates(min((band.low for band in bands), default=inf))
        values = [part.take(where) for part, where in zip(self._parts, self._candidates, strict=True)]
        return [self._pair(values, rank, band) for rank, band in zip(ranks, bands, strict=True)]

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
        if self._low > min(keep_from):
            self._take_candidates(min(keep_from))

        def of_part(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            where = self._candidates[i]
            values = self._parts[i].take(where)
            kept = (values >= keep_from[1]) | (values <= -keep_from[0])
            if self._also_pruned is not None:
                kept &= ~self._also_pruned[i * _CHUNK : (i + 1) * _CHUNK].take(where)
            codes = _codes(values, thresholds)
            codes *= kept.view(np.uint8)
            bins = codes.astype(np.intp)
            sums = np.bincount(bins, weights=values, minlength=n_levels + 1)
            return codes, sums[1:], np.bincount(bins, minlength=n_levels + 1)[1:]

        found = _each(of_part, range(len(self._parts)))
        self._codes = [codes for codes, _, _ in found]
        sums, counts = np.zeros(n_levels), np.zeros(n_levels, dtype=np.int64)
        for _, part_sums, part_counts in found:
            sums += part_sums
            counts += part_counts
        return sums, counts

    def write(self, levels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The quantized weights, of the weights' type, and the codes (uint8), [n]."""
        weights, codes = np.zeros_like(self._x), np.zeros(len(self._x), dtype=np.uint8)
        table = np.concatenate([np.zeros(1), levels]).astype(self._x.dtype)

        def of_part(i: int) -> None:
            where, part = self._candidates[i], slice(i * _CHUNK, (i + 1) * _CHUNK)
            weights[part][where] = table.take(self._codes[i])
            codes[part][where] = self._codes[i]

        _each(of_part, range(len(self._parts)))
        return torch.from_numpy(weights), torch.from_numpy(codes)

    def _take_candidates(self, low: float) -> None:
        """Finds the weights of magnitude >= low, exact zeros never among them."""
        self._low = max(low, float(np.nextafter(self._x.dtype.type(0), self._x.dtype.type(1))))
        self._candidates = _each(lambda part: _positions(np.abs(part) >= self._low), self._parts)

    def _likely_band(self, rank: Rank) -> _Band:
        if self._near is not None:
            guess = -self._near[0] if rank.sign < 0 else self._near[1]
            if guess > 0:
                return _Band(guess * (1 - _NEAR), guess * (1 + _NEAR))
        if len(self._x) <= _SAMPLE:
            return _Band(0.0, inf)
        sample = self._x[:: max(16, len(self._x) // _SAMPLE)]
        sample = np.abs(sample) if rank.sign == 0 else sample[sample * rank.sign > 0] * rank.sign
        sample.sort()
        size, q = len(sample), rank.k / rank.n
        margin = 4 * sqrt(size * q * (1 - q)) + 4
        first, last = floor(q * size - margin), ceil(q * size + margin)
        return _Band(float(sample[first]) if first > 0 else 0.0, float(sample[last]) if last < size else inf)

    def _pair(self, values: list[np.ndarray], rank: Rank, band: _Band) -> tuple[float, float]:
        """m_k and m_{k+1}: from the band where the counts prove that it holds them, from all weights otherwise."""
        above, inside = 0, []
        for part in values:
            magnitudes = np.abs(part) if rank.sign == 0 else part * part.dtype.type(rank.sign)
            over = magnitudes > band.high
            above += int(np.count_nonzero(over))
            inside.append(magnitudes.take(_positions((magnitudes >= band.low) & (magnitudes > 0) & ~over)))
        in_band = np.concatenate(inside)
        k = rank.k - (rank.n - above - len(in_band))  # within the band
        if 1 <= k < len(in_band):
            in_band.partition((k - 1, k))
            return float(in_band[k - 1]), float(in_band[k])
        return magnitude_pair(torch.from_numpy(self._x), rank)


def _survey(part: np.ndarray) -> tuple[int, int, float, float, bool]:
    lowest, highest = float(part.min()), float(part.max())
    n_neg, n_pos = np.count_nonzero(part < 0), np.count_nonzero(part > 0)
    return int(n_neg), int(n_pos), lowest, highest, lowest != lowest or highest != highest


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


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="clipq")


def _each(work: Callable[..., T], items: Sequence | Iterable) -> list[T]:
    """``work`` of every item, in order; several at a time (NumPy lets go of the interpreter's lock) where it pays."""
    items = list(items)
    workers = torch.get_num_threads() if len(items) >= _PARTS_TO_SHARE else 1
    return list(_pool(workers).map(work, items)) if workers > 1 else [work(item) for item in items]
