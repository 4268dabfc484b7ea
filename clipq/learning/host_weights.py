"""A layer's weights in the computer's own memory: what pruning-quantization asks of them, in few passes.

The weights are taken in chunks that stay in a core's cache.  Only the candidates, those that are kept or lie just below
the clip, are looked at closely: sorted where they are few, and else only in a narrow band around the clip.  Where the
candidates begin comes from a sample, or from the last step, and the counts prove whether they are enough; where they
are not, all weights are candidates.  So every result is exact, and depends on the weights alone: sums go in the
weights' order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from math import ceil, floor, inf, sqrt
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from clipq.learning.host_part import Gap, Part
from clipq.learning.host_passes import part_kind
from clipq.quantized_net import WEIGHT_MAX

_CHUNK = 1 << 18
FEW = 1 << 11  # of so many weights all are candidates
_FEW_CANDIDATES = 1 << 13  # so many are sorted faster than looked through
_SAMPLE = 1 << 15
_NEAR = 1 / 256, 1 / 64  # half-widths of the bands around a guessed clip, relative to it
_PARTS_TO_SHARE = 8  # parts from which on several threads pay
_REMEMBERED = 8  # positions are kept for the next step where they are at most one in so many
T = TypeVar("T")
Item = TypeVar("Item")


class Rank(NamedTuple):
    """The k-th smallest magnitude of the n weights of one ``sign`` (-1, 1), or of all n (0), 0 <= k <= n."""

    sign: int
    n: int
    k: int


class Survey(NamedTuple):
    """Counts of negative and positive weights, their largest magnitudes (0 for none), and whether there are NaN, Inf or
    magnitudes above ``WEIGHT_MAX`` among them."""

    n_neg: int
    n_pos: int
    e_neg: float
    e_pos: float
    bad: bool


class Near(NamedTuple):
    """What is probably nearly true of the weights, such as what was found at the last step.

    c_neg, c_pos: the clips.  where: the candidates' positions in each chunk, or None.
    """

    c_neg: float
    c_pos: float
    where: tuple[np.ndarray | None, ...] = ()


class Codes(NamedTuple):
    """The codes of n weights: of each chunk the candidates' positions (None: all are) and their codes."""

    n: int
    parts: list[tuple[np.ndarray | None, np.ndarray]]
    kind: type[Part]

    def decoded(self, entries: np.ndarray) -> torch.Tensor:
        """Each weight's entry, by its code, [n]; ``entries[0]`` is 0."""
        out = np.zeros(self.n, entries.dtype)

        def of_part(i: int) -> None:
            self.kind.put(entries, *self.parts[i], out[i * _CHUNK : (i + 1) * _CHUNK])

        _each(of_part, range(len(self.parts)))
        return torch.from_numpy(out)

    def plain(self) -> torch.Tensor:
        """uint8 [n]."""
        return self.decoded(np.arange(256, dtype=np.uint8))

    def where(self) -> tuple[np.ndarray | None, ...]:
        """The candidates' positions, to be remembered where they are few."""
        few = _CHUNK // _REMEMBERED
        return tuple(where if where is not None and len(where) <= few else None for where, _ in self.parts)


class _Band(NamedTuple):
    """Magnitudes between which m_k and m_{k+1} probably lie, both ends included."""

    low: float
    high: float


_ALL = _Band(0.0, inf)
_LEAST: dict[Any, Any] = {number: np.nextafter(number(0), number(1)) for number in (np.float32, np.float64)}


class HostWeights:
    """The weights of one layer; candidates begin at the lower ends of the widest bands in which m_k and m_{k+1}
    probably lie, and are sorted where they are few.

    x: float32 or float64 [n].
    p: about the share that is pruned of each sign's weights, or, with ``joint``, of all.
    """

    def __init__(self, x: torch.Tensor, p: float, joint: bool, near: Near | None = None) -> None:
        self._x = x.numpy()
        self._number: Any = self._x.dtype.type
        self._kind = part_kind(self._x.dtype)
        self._parts = [self._kind(self._x[start : start + _CHUNK]) for start in range(0, max(len(x), 1), _CHUNK)]
        self._also_pruned: np.ndarray | None = None
        self._bands = {sign: self._likely_bands(sign, p, near) for sign in ((0,) if joint else (-1, 1))}
        lows = [bands[-1].low for bands in self._bands.values()]
        self._take_candidates(lows[0], lows[-1], near.where if near else ())

    def survey(self) -> Survey:
        """Counts and extremes."""
        counts = _each(lambda part: part.count_signs(), self._parts)
        n_neg, n_pos = sum([n for n, _ in counts]), sum([n for _, n in counts])
        lowest, highest = self._ends()
        if not (-WEIGHT_MAX <= lowest and highest <= WEIGHT_MAX):  # nor where they are NaN
            return Survey(n_neg, n_pos, 0.0, 0.0, True)
        if (n_neg and -lowest < self._low[0]) or (n_pos and highest < self._low[1]):  # not all of those are candidates
            lowest, highest = float(self._x.min()), float(self._x.max())
        return Survey(n_neg, n_pos, max(0.0, -lowest), max(0.0, highest), False)

    def magnitudes(self, rank: Rank) -> tuple[float, float]:
        """m_k and m_{k+1}, 1 <= k < n."""
        pair = self._pair(rank)
        if pair is None:
            self._take_candidates(0.0, 0.0)
            pair = self._pair(rank)
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

    def assign(self, keep_from: tuple[float, float], thresholds: np.ndarray) -> tuple[Codes, np.ndarray, np.ndarray]:
        """Gives every kept weight its interval; the float64 sum and int64 count of each interval's weights, [N].

        keep_from: the least magnitude kept on the negative side and on the positive side.
        """
        if self._low[0] > keep_from[0] or self._low[1] > keep_from[1]:
            self._take_candidates(*keep_from)
        kept = Gap(self._number(-keep_from[0]), self._number(keep_from[1]))

        def of_part(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            out = self._also_pruned
            return self._parts[i].assigned(
                thresholds, kept, None if out is None else out[i * _CHUNK : (i + 1) * _CHUNK]
            )

        found = _each(of_part, range(len(self._parts)))
        parts = [(part.where, codes) for part, (codes, _, _) in zip(self._parts, found, strict=True)]
        sums, counts = (reduce(np.add, [of_part[which] for of_part in found]) for which in (1, 2))
        return Codes(len(self._x), parts, self._kind), sums[1:], counts[1:]

    def _take_candidates(self, low_neg: float, low_pos: float, known: Sequence[np.ndarray | None] = ()) -> None:
        """Finds the weights whose magnitude is at least their sign's; NaN is always among them."""
        gap = Gap(self._number(-low_neg), self._number(low_pos))
        self._low = float(-gap.top), float(gap.bottom)
        hints = known if len(known) == len(self._parts) else (None,) * len(self._parts)
        _each(lambda i: self._parts[i].take_candidates(gap, hints[i]), range(len(self._parts)))
        few = sum([len(part.values) for part in self._parts]) <= _FEW_CANDIDATES
        self._ascending = np.sort(np.concatenate([part.values for part in self._parts])) if few else None

    def _ends(self) -> tuple[float, float]:
        """The least and the largest candidate, 0 for none; if one is NaN, so is an end."""
        if self._ascending is None:
            values = [part.values for part in self._parts if len(part.values)]
            if not values:
                return 0.0, 0.0
            lowest = reduce(np.minimum, [v.min() for v in values])
            return float(lowest), float(reduce(np.maximum, [v.max() for v in values]))
        return (float(self._ascending[0]), float(self._ascending[-1])) if len(self._ascending) else (0.0, 0.0)

    def _likely_bands(self, sign: int, p: float, near: Near | None) -> list[_Band]:
        """From narrow to wide."""
        if len(self._x) <= FEW:
            return [_ALL]
        if near is not None:
            guess = {-1: -near.c_neg, 0: max(-near.c_neg, near.c_pos), 1: near.c_pos}[sign]
            if guess > 0:
                return [_Band(guess * (1 - share), guess * (1 + share)) for share in _NEAR]
        if len(self._x) <= _SAMPLE or p == 0:
            return [_ALL]
        sample = self._x[:: max(16, len(self._x) // _SAMPLE)]
        sample = np.sort(np.abs(sample) if sign == 0 else sample[sample * sign > 0] * sign)
        size = len(sample)
        margin = 4 * sqrt(size * p * (1 - p)) + 4
        first, last = floor(p * size - margin), ceil(p * size + margin)
        return [_Band(float(sample[first]) if first > 0 else 0.0, float(sample[last]) if last < size else inf)]

    def _pair(self, rank: Rank) -> tuple[float, float] | None:
        """m_k and m_{k+1}, if both are sure to be candidates."""
        if self._ascending is not None:
            return self._pair_among_sorted(rank)
        pairs = (self._pair_in(rank, band) for band in (*self._bands[rank.sign], _ALL))
        return next((pair for pair in pairs if pair is not None), None)

    def _pair_in(self, rank: Rank, band: _Band) -> tuple[float, float] | None:
        """m_k and m_{k+1}, if the candidates within the band, which are counted from the largest on, hold both."""
        least = _LEAST[self._number] if rank.sign else self._number(0)
        low, high = max(self._number(max(band.low, self._all_from(rank.sign))), least), self._number(band.high)
        found = _each(lambda part: part.within(rank.sign, low, high), self._parts)
        at = rank.n - rank.k - sum(above for above, _ in found)  # m_{k+1} is so many from the band's end
        if not 1 <= at < sum(len(inside) for _, inside in found):
            return None
        in_band = np.sort(np.concatenate([inside for _, inside in found]))
        return float(in_band[-at - 1]), float(in_band[-at])

    def _pair_among_sorted(self, rank: Rank) -> tuple[float, float] | None:
        assert self._ascending is not None
        from_end = rank.n - rank.k  # m_{k+1} is so many from the end, counted from 1
        if from_end >= len(self._ascending):
            return None
        if rank.sign < 0:
            m_k, m_next = -self._ascending[from_end], -self._ascending[from_end - 1]
        else:
            ascending = self._ascending if rank.sign else np.sort(np.abs(self._ascending))
            m_k, m_next = ascending[-from_end - 1], ascending[-from_end]
        return (float(m_k), float(m_next)) if m_k >= self._all_from(rank.sign) else None

    def _all_from(self, sign: int) -> float:
        """The magnitude from which on all weights of a sign, or all (0), are candidates."""
        return self._low[0] if sign < 0 else self._low[1] if sign else max(self._low)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="clipq")


def _each(work: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """``work`` of every item, in order; several at a time (NumPy lets go of the interpreter's lock) where it pays."""
    if len(items) < _PARTS_TO_SHARE or torch.get_num_threads() == 1:
        return [work(item) for item in items]
    return list(_pool(torch.get_num_threads()).map(work, items))
