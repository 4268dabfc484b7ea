"""A chunk's passes compiled by Numba, where that is installed: ``host_part`` in fewer passes and far fewer calls.

Sums are made in the same order and nothing is contracted, so the results are those of ``host_part``, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from clipq.host_part import Gap, Part

_BLOCK = 1 << 12  # values are compared so many at a time, in the nearest cache
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
        n_neg, n_pos, outside, values, n = look(self.x, _NOWHERE if known is None else known, *gap)
        self._signs = n_neg, n_pos
        if 2 * outside > len(self.x):
            return
        if known is not None and n == outside and self._may_be_enough(known, outside):
            self.where, self.values = known, values
            return
        self._find_candidates(gap)

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
def look(x, known, top, bottom):
    """Negative weights, positive ones, and those outside the gap, of which NaN is one; the weights at the ``known``
    positions, ascending, as far as there are such, and how many of those lie outside the gap.

    Counts of a block have 32 bits: so many at once as there are weights in a register.
    """
    n_neg = n_pos = inside = first = inside_taken = 0
    values = np.empty(len(known), x.dtype)
    for start in range(0, len(x), _BLOCK):
        neg = pos = within = within_taken = _NONE
        block = x[start : start + _BLOCK]
        for i in range(len(block)):
            w = block[i]
            neg = np.int32(neg + np.int32(w < 0))
            pos = np.int32(pos + np.int32(w > 0))
            within = np.int32(within + np.int32((w < bottom) & (w > top)))
        last = first + int(np.searchsorted(known[first:], start + len(block)))
        for i in range(first, last):  # while the block is near
            w = values[i] = x[known[i]]
            within_taken = np.int32(within_taken + np.int32((w < bottom) & (w > top)))
        n_neg += neg
        n_pos += pos
        inside += within
        inside_taken += within_taken
        first = last
    return n_neg, n_pos, len(x) - inside, values[:first], first - inside_taken


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
        last = first + int(np.searchsorted(where[first:], start + _BLOCK))
        for i in range(first, last):
            out[where[i]] = entries[codes[i]]
        first = last
    return out
