"""A chunk's passes compiled by Numba, where that is installed: ``host_part`` in fewer passes and far fewer calls.

Sums are made in the same order and nothing is contracted, so the results are those of ``host_part``, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from clipq.learning.host_part import SPARE, Gap, Part

_BLOCK = 1 << 10  # weights are taken so many at a time: they stay in the nearest cache
_NONE: Any = np.int32(0)
_NOWHERE = np.empty(0, np.int64)


class CompiledPart(Part):
    """A chunk that counts signs while it looks for candidates."""

    def __init__(self, x: np.ndarray) -> None:
        super().__init__(x)
        self._signs: tuple[int, int] | None = None

    def count_signs(self) -> tuple[int, int]:
        return self._signs or super().count_signs()

    def take_candidates(self, gap: Gap, known: np.ndarray | None = None) -> None:
        self.where, self.values = None, self.x
        if not gap.bottom > gap.top:
            return
        n_neg, n_pos, outside, where, values = find_candidates(self.x, _NOWHERE if known is None else known, *gap)
        self._signs = n_neg, n_pos
        if 2 * outside <= len(self.x):
            self.where, self.values = where, values

    def assigned(
        self, thresholds: np.ndarray, kept: Gap, also_pruned: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if also_pruned is not None:  # seldom wanted
            return super().assigned(thresholds, kept, also_pruned)
        return assigned(self.values, thresholds, *kept)

    @staticmethod
    def put(entries: np.ndarray, where: np.ndarray | None, codes: np.ndarray, out: np.ndarray) -> None:
        if where is None:
            Part.put(entries, where, codes, out)
        else:
            put(entries, where, codes, out)


@njit(nogil=True, cache=True)
def find_candidates(x, known, top, bottom):
    """Negative weights, positive ones, and those outside the gap, of which NaN is one; if these are at most half,
    positions and values of all those and of some more, and otherwise of some.

    known: positions, ascending, that are probably nearly enough; a block where they are not, or are far too many, is
        looked through.
    """
    number = x.dtype.type
    further_in = top * number(1 - SPARE), bottom * number(1 - SPARE)
    if not len(known):
        n_neg, n_pos, outside = _count(x, top, bottom)
        where = np.empty(len(x) if 2 * outside <= len(x) else 0, np.int64)
        if len(where):
            where = where[: _look_through(x, 0, where, 0, *further_in)].copy()
        return n_neg, n_pos, outside, where, x[where]
    where, values = np.empty(len(known) + 2 * _BLOCK, np.int64), np.empty(len(known) + 2 * _BLOCK, x.dtype)
    n_neg = n_pos = outside = first = n = 0
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        neg, pos, outside_here = _count(block, top, bottom)
        n_neg, n_pos, outside = n_neg + neg, n_pos + pos, outside + outside_here
        if n + _BLOCK > len(where):
            where, values = _longer(where), _longer(values)
        n_known = int(np.searchsorted(known[first : first + _BLOCK], start + len(block)))
        inside_known = _NONE
        for i in range(n_known):
            where[n + i] = known[first + i]
            w = values[n + i] = x[known[first + i]]
            inside_known = np.int32(inside_known + np.int32((w < bottom) & (w > top)))
        before, first = n, first + n_known
        if n_known - inside_known == outside_here and inside_known <= outside_here // 2 + _BLOCK // 64:
            n += n_known
        else:
            n = _look_through(block, start, where, n, *further_in)
            for i in range(before, n):
                values[i] = x[where[i]]
    return n_neg, n_pos, outside, where[:n], values[:n]


@njit(nogil=True, cache=True)
def _count(x, top, bottom):
    """Negative weights, positive ones, and those outside the gap.

    Counts of a block have 32 bits: so many at once as there are weights in a register.
    """
    n_neg = n_pos = n_inside = 0
    for start in range(0, len(x), _BLOCK):
        neg = pos = inside = _NONE
        block = x[start : start + _BLOCK]
        for i in range(len(block)):
            w = block[i]
            neg = np.int32(neg + np.int32(w < 0))
            pos = np.int32(pos + np.int32(w > 0))
            inside = np.int32(inside + np.int32((w < bottom) & (w > top)))
        n_neg, n_pos, n_inside = n_neg + neg, n_pos + pos, n_inside + inside
    return n_neg, n_pos, len(x) - n_inside


@njit(nogil=True, cache=True)
def _look_through(block, start, where, n, top, bottom):
    """Puts the positions of the weights outside the gap behind the n that are there; how many these are then."""
    for i in range(len(block)):
        where[n] = start + i
        n += not (top < block[i] < bottom)
    return n


@njit(nogil=True, cache=True)
def _longer(x):
    longer = np.empty(2 * len(x), x.dtype)
    longer[: len(x)] = x
    return longer


@njit(nogil=True, cache=True)
def assigned(values, thresholds, top, bottom):
    codes = np.empty(len(values), np.uint8)
    sums = np.zeros(len(thresholds) + 2, np.float64)
    counts = np.zeros(len(thresholds) + 2, np.int64)
    for start in range(0, len(values), _BLOCK):
        some, block = values[start : start + _BLOCK], codes[start : start + _BLOCK]
        block[:] = 1
        for threshold in thresholds:
            for i in range(len(some)):
                block[i] += some[i] >= threshold
        for i in range(len(some)):
            block[i] *= (some[i] >= bottom) | (some[i] <= top)
        for i in range(len(some)):
            sums[block[i]] += some[i]
            counts[block[i]] += 1
    return codes, sums, counts


@njit(nogil=True, cache=True)
def put(entries, where, codes, out):
    for i in range(len(where)):
        out[where[i]] = entries[codes[i]]


@njit(nogil=True, cache=True)
def spread(entries, where, codes, n):
    """A new array of n: each candidate's entry at its place, and zero elsewhere."""
    out = np.empty(n, entries.dtype)
    first = 0
    for start in range(0, n, _BLOCK):
        out[start : start + _BLOCK] = 0
        last = first + int(np.searchsorted(where[first : first + _BLOCK], start + _BLOCK))
        for i in range(first, last):
            out[where[i]] = entries[codes[i]]
        first = last
    return out
