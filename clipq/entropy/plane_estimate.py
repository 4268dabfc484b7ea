"""About how many bytes a large layer takes under the model ``planes``, from a sample of its rows.

All that other rows tell of a row's decisions are the columns' statistics, and these can be counted without modelling
anything.  So some rows of each part of the layer are walked over, after statistics as they are in the middle of that
part.  What they take is scaled to the whole layer plane by plane: by the information in the rows' densities for the
mask, and by that in the codes' shares for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipq.entropy.plane_coder import coded, pace_of
from clipq.entropy.plane_fit import Truth, choose_offsets, decide, first_settings, fit_plane
from clipq.entropy.plane_header import SLAB_POSITIONS, setting_size
from clipq.entropy.plane_lanes import LastSlab
from clipq.entropy.plane_model import PlaneSetting, Statistics
from clipq.entropy.plane_order import Grid, Plane, planes
from clipq.entropy.plane_walk import PlaneWalk, View

_MOST_PARTS = 8
#: For each weight that is walked over, at most about so many kept ones are counted for the columns.
_COUNTED = 2


def estimate_planes(
    codes: np.ndarray, counts: np.ndarray, magnitude: np.ndarray, negative: np.ndarray, kernel: int, walked: int
) -> int:
    """About the bytes that ``PlanePlan`` makes of ``codes``, uint8 [R, C], of which some are not 0.

    counts: how many weights have each code, int64 [2^b].
    magnitude, negative: of each code, uint8 and bool [2^b].
    kernel: of ``PlanePlan``.
    walked: at most about so many weights are walked over, and a quarter of all.
    """
    kept = (codes != 0).view(np.uint8).sum(1, dtype=np.uint32)
    parts = _parts(kept, codes.shape[1], min(walked, codes.size // 4))
    sample = _Sample(codes, np.concatenate([part.rows for part in parts]), magnitude, negative, kernel)
    density = _information_of_density(kept, codes.shape[1])
    bits, shares, of_density = np.zeros(1), np.zeros(counts.size), 0.0
    before: np.ndarray | float = 0.0
    for part in parts:
        of_part = sample.columns(part.first, part.stop)
        slab = of_part / part.slabs
        taken, own = sample.walk(part.rows.size, before + slab * ((part.slabs - 1) / 2), slab)
        weight = (part.stop - part.first) / part.rows.size
        bits, shares = bits + weight * taken, shares + weight * own
        of_density += weight * float(density[part.rows].sum())
        before = before + of_part
    plain, of_sample = sample.meaning.information(counts, counts), sample.meaning.information(shares, counts)
    scale = np.append(density.sum(), plain[1:]) / np.maximum(np.append(of_density, of_sample[1:]), 1e-9)
    bits = np.where(sample.modelled, np.minimum(bits * scale, plain), plain)
    last = parts[-1]
    in_slab = kept[-((last.stop - last.first) // last.slabs) :]
    of_slab = LastSlab.alike(
        codes.size, in_slab.size * codes.shape[1], int(in_slab.sum()), bits * in_slab.sum() / kept.sum()
    )
    return sample.header_size() + round((bits.sum() + of_slab.wasted(0)) / 8)


class _Part(NamedTuple):
    """The rows ``first`` to ``stop`` - 1, which are ``slabs`` slabs; ``rows`` of them are walked over."""

    first: int
    stop: int
    slabs: int
    rows: np.ndarray


def _parts(kept: np.ndarray, columns: int, walked: int) -> list[_Part]:
    """The parts of a layer with so many kept weights in each row; they share the weights that are walked over.

    The first slabs, in which most is learnt of the columns, are parts of their own.  Of each part rows of all densities
    are taken, but at most a third, as the others have to tell of the columns.
    """
    n_rows = kept.size
    slabs = -(-n_rows // max(1, SLAB_POSITIONS // columns))
    height = -(-n_rows // slabs)  # as ``PlanePlan`` has it
    slabs = -(-n_rows // height)
    edges = np.unique(np.round([0, 1, 2, *np.linspace(2, max(slabs, 2), _MOST_PARTS - 1)]).clip(max=slabs).astype(int))
    each = max(walked // columns // (edges.size - 1), 2)
    parts = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        first, stop = start * height, min(end * height, n_rows)
        n = min(each, max((stop - first) // 3, 1))
        by_density = np.argsort(kept[first:stop], kind="stable")
        rows = by_density[((np.arange(n) + 0.5) * ((stop - first) / n)).astype(int)]
        parts.append(_Part(first, stop, end - start, first + np.sort(rows)))
    return parts


def _information_of_density(kept: np.ndarray, columns: int) -> np.ndarray:
    """For each row the information of which of its weights are kept, were it only for their number."""
    p = np.clip(kept / columns, 1e-9, 1 - 1e-9)
    information: np.ndarray = -columns * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return information


class _Meaning(NamedTuple):
    """Which codes each plane decides on, and which of these are ones: float32 [planes, 2^b] of 0 and 1."""

    every: np.ndarray
    ones: np.ndarray

    @classmethod
    def of(cls, largest: int, magnitude: np.ndarray, negative: np.ndarray) -> _Meaning:
        def members(plane: Plane) -> np.ndarray:
            if plane.kind == "bit":
                return magnitude >> plane.e == 1
            return magnitude >= {"mask": 0, "above": 1 << plane.e >> 1, "sign": 1}[plane.kind]

        every = np.array([members(plane) for plane in planes(largest)])
        ones = np.array([negative if plane.kind == "sign" else decide(plane, magnitude) for plane in planes(largest)])
        return cls(every.astype(np.float32), (every & ones).astype(np.float32))

    def information(self, counts: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Bits of each plane's decisions on so many weights of each code, with the mean of ``of`` so many."""
        p = (self.ones @ of) / np.maximum(self.every @ of, 1)
        ones, every = self.ones @ counts, self.every @ counts
        bits: np.ndarray = -ones * np.log2(np.maximum(p, 1e-9)) - (every - ones) * np.log2(np.maximum(1 - p, 1e-9))
        return bits


class _Sample:
    """Some ``rows`` of a layer, which are walked over in turn, and what the others have in their columns.

    modelled: of each plane, whether the sample tells anything of it.
    """

    def __init__(
        self, codes: np.ndarray, rows: np.ndarray, magnitude: np.ndarray, negative: np.ndarray, kernel: int
    ) -> None:
        self._codes, self._at, largest = codes[rows], 0, int(magnitude.max())
        sizes, signs = magnitude[self._codes], negative[self._codes]
        offsets = choose_offsets(np.where(signs, np.int8(-1), (sizes > 0).view(np.int8)))
        grid = Grid(rows.size, codes.shape[1], kernel, offsets, rows.size, pace_of(*codes.shape))
        self.meaning = _Meaning.of(largest, magnitude, negative)
        self._settings = first_settings(sizes, signs, grid, largest)
        self.modelled = np.array([setting.constant is None for setting in self._settings])
        self._truth = Truth(sizes, signs, grid, largest)
        self._walk = PlaneWalk(grid, largest, self._settings)
        self._truth.begin(0, rows.size)
        self._walk.slab(rows.size, _Fitter(self._truth, self._settings), last=False)
        self._wanted = [k for k in range(len(self._settings)) if 1 in self._walk.wanted(k).statistics]
        others = np.setdiff1d(np.arange(codes.shape[0]), rows)
        kept_of_others = int(np.count_nonzero(self._codes)) * others.size // rows.size
        self._others = others[:: 1 + kept_of_others // (_COUNTED * self._codes.size)]
        of_others = codes[self._others]
        at = np.flatnonzero(of_others != 0)
        self._row = at // codes.shape[1]
        self._code_and_column = of_others.reshape(-1).take(at) * np.int64(codes.shape[1])
        self._code_and_column += at - self._row * codes.shape[1]

    def header_size(self) -> int:
        """About the bytes of what a stream with the sample's settings says of itself."""
        grid, every = self._walk.grid, self._walk.planes
        return 16 + sum(setting_size(s, grid, plane) for s, plane in zip(self._settings, every, strict=True)) // 8

    def columns(self, first: int, stop: int) -> np.ndarray:
        """How many ones and decisions the rows from ``first`` to ``stop`` - 1 have in each column: [wanted, 2, C]."""
        n_codes, n_columns = self.meaning.every.shape[1], self._codes.shape[1]
        between = np.searchsorted(self._others, [first, stop])
        part = slice(*np.searchsorted(self._row, between))
        counts = np.bincount(self._code_and_column[part], minlength=n_codes * n_columns).reshape(n_codes, n_columns)
        counts[0] = between[1] - between[0] - counts.sum(0)
        both = np.stack([self.meaning.ones, self.meaning.every], 1)[self._wanted]
        scaled: np.ndarray = both @ counts.astype(np.float32)
        return scaled * np.float32((stop - first) / max(between[1] - between[0], 1))

    def walk(self, n: int, before: np.ndarray, during: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bits that each plane takes in the next n rows, and how many of their weights have each code.

        before, during: columns as above, before the slab and in all of it.
        """
        own = np.bincount(self._codes[self._at : self._at + n].reshape(-1), minlength=self.meaning.every.shape[1])
        for i, k in enumerate(self._wanted):
            self._walk.columns[k] = _Columns(before[i], during[i], float(self.meaning.every[k] @ own))
        self._truth.begin(self._at, self._at + n)
        counter = _Counter(self._truth, self._settings)
        self._walk.slab(n, counter, last=False)
        self._at += n
        return counter.bits, own


class _Columns(Statistics):
    """Statistics of columns that have seen other rows ``before`` a slab, and see more ``during`` it: [2, C] each.

    decisions: how many the rows walked over have, which are not counted themselves.
    """

    def __init__(self, before: np.ndarray, during: np.ndarray, decisions: float) -> None:
        super().__init__(before.shape[1])
        self._at_first, self._during, self._decisions = before, during, max(decisions, 1.0)
        self.add_runs([])

    def add_runs(self, runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """As if the rows that are not walked over were, and the runs in step with theirs."""
        seen = np.cumsum([0, *(places.size for places, _ in runs)]) / self._decisions
        now = np.rint(self._at_first + self._during * seen[:, None, None].astype(np.float32)).astype(np.int64)
        self._before = now[:-1, 0], now[:-1, 1]
        self._ones, self._all = now[-1]


class _Fitter:
    """Takes the true decisions and fits the planes' settings to them."""

    def __init__(self, truth: Truth, settings: list[PlaneSetting]) -> None:
        self._truth, self._settings = truth, settings

    def take(self, view: View, last_slab: bool) -> np.ndarray:
        ones = self._truth.at(view.number, view.items.at)
        view.learn_all(ones)
        if view.setting.weights:
            self._settings[view.number] = fit_plane(view, ones)
        return ones

    def narrow(self, kept: int) -> None:
        """Nothing to do."""


class _Counter:
    """Takes the true decisions and counts the bits of each plane."""

    def __init__(self, truth: Truth, settings: list[PlaneSetting]) -> None:
        self._truth, self.bits = truth, np.zeros(len(settings))

    def take(self, view: View, last_slab: bool) -> np.ndarray:
        ones = self._truth.at(view.number, view.items.at)
        view.learn_all(ones)
        self.bits[view.number] += float(coded(view, ones)[1].sum())
        return ones

    def narrow(self, kept: int) -> None:
        """Nothing to do."""
