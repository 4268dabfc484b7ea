"""Some rows of a large layer that stand for all of it: to them ``planes`` is fitted, and what they take is counted.

All that other rows tell of a row's decisions are the columns' statistics, and these can be counted without modelling
anything.  So some rows of each part of the layer are walked over as a slab, after statistics as they are in the middle
of that part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from clipq.entropy.plane_fit import PlaneSample, Truth, choose_offsets, decide, first_settings, fit_plane, usual_grid
from clipq.entropy.plane_model import PlaneSetting, Statistics
from clipq.entropy.plane_order import Grid, Plane, planes
from clipq.entropy.plane_walk import PlaneWalk, View

#: For each weight that is walked over, at most about so many kept ones are counted for the columns.
_COUNTED = 2
#: So many numbers are counted at once.
_COUNTED_AT_ONCE = 1 << 22


class CodedLayer(NamedTuple):
    """A layer as codes, uint8 [R, C], some not 0, and how many of each row's are not, uint32 [R]; and of each code how
    many weights have it, int64 [2^b], which magnitude it means, uint8, and whether a negative one, bool.

    kernel: as in ``Grid``.
    """

    codes: np.ndarray
    kept: np.ndarray
    counts: np.ndarray
    magnitude: np.ndarray
    negative: np.ndarray
    kernel: int

    @property
    def largest(self) -> int:
        return int(self.magnitude.max())

    def grid(self, offsets: tuple[int, ...]) -> Grid:
        rows, columns = self.codes.shape
        return usual_grid(rows, columns, self.kernel, offsets)


class Meaning(NamedTuple):
    """Which codes each plane decides on, and which of these are ones: float32 [planes, 2^b] of 0 and 1."""

    every: np.ndarray
    ones: np.ndarray

    @classmethod
    def of(cls, layer: CodedLayer) -> Meaning:
        magnitude, every_plane = layer.magnitude, planes(layer.largest)

        def members(plane: Plane) -> np.ndarray:
            if plane.kind == "bit":
                return magnitude >> plane.e == 1
            return magnitude >= {"mask": 0, "above": 1 << plane.e >> 1, "sign": 1}[plane.kind]

        every = np.array([members(plane) for plane in every_plane])
        ones = np.array([layer.negative if plane.kind == "sign" else decide(plane, magnitude) for plane in every_plane])
        return cls(every.astype(np.float32), (every & ones).astype(np.float32))

    def information(self, counts: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Bits of each plane's decisions on so many weights of each code, with the mean of ``of`` so many."""
        p = (self.ones @ of) / np.maximum(self.every @ of, 1)
        ones, every = self.ones @ counts, self.every @ counts
        bits: np.ndarray = -ones * np.log2(np.maximum(p, 1e-9)) - (every - ones) * np.log2(np.maximum(1 - p, 1e-9))
        return bits

    def totals(self, counts: np.ndarray) -> list[tuple[int, int]]:
        """Ones and decisions of each plane among so many weights of each code."""
        both = (table.astype(np.int64) @ counts for table in (self.ones, self.every))
        return list(zip(*(of.tolist() for of in both), strict=True))


class Part(NamedTuple):
    """The rows ``first`` to ``stop`` - 1, which are ``slabs`` slabs; ``rows`` of them are walked over.

    walked: their codes, uint8 [rows, C].  weight: how many rows each stands for.
    """

    first: int
    stop: int
    slabs: int
    rows: np.ndarray
    walked: np.ndarray

    @property
    def weight(self) -> float:
        return (self.stop - self.first) / self.rows.size


class Fitted(NamedTuple):
    """What a large layer is coded with: the neighbours' offsets and the settings of all planes."""

    offsets: tuple[int, ...]
    settings: list[PlaneSetting]


class LayerSample:
    """Some rows of a layer, of all of its parts, of which there are at most about so many.

    walked: so many weights are walked over, at most about as many as asked for, but two rows of each part.
    """

    def __init__(self, layer: CodedLayer, walked: int, parts: int) -> None:
        self.layer, self.meaning = layer, Meaning.of(layer)
        self._layer_grid = layer.grid(())
        self.parts = list(self._parts(walked, parts))
        self.walked = sum(part.walked.size for part in self.parts)
        self._stride = 1 + int(layer.kept.sum()) // (_COUNTED * self.walked)

    def fit(self) -> Fitted:
        """The settings of largest likelihood."""
        codes, largest = np.concatenate([part.walked for part in self.parts]), self.layer.largest
        sizes, signs = self.layer.magnitude[codes], self.layer.negative[codes]
        offsets = choose_offsets(sizes, signs)
        grid = self._grid(offsets, codes.shape[0])
        settings = first_settings(sizes, signs, grid, largest, self.meaning.totals(self.layer.counts))
        samples: list[list[PlaneSample]] = [[] for _ in settings]
        share = 1 / len(self.parts)
        for part in self.parts:
            for view, ones in self.walk(part, Fitted(offsets, settings)):
                if view.setting.weights:
                    samples[view.number].append(PlaneSample.of(view, ones, part.weight, share))
        for i, of_plane in enumerate(samples):
            if of_plane:
                settings[i] = fit_plane(settings[i], PlaneSample.joined(of_plane), grid, planes(largest)[i])
        return Fitted(offsets, settings)

    def walk(self, part: Part, fitted: Fitted) -> list[tuple[View, np.ndarray]]:
        """The planes of a part's rows, of which everything was learnt, and their decisions."""
        layer, (offsets, settings) = self.layer, fitted
        grid = self._grid(offsets, part.rows.size)
        truth = Truth(layer.magnitude[part.walked], layer.negative[part.walked], grid, layer.largest)
        truth.begin(0, grid.rows)
        walk = PlaneWalk(grid, layer.largest, settings)
        wanted = [k for k in range(len(settings)) if 1 in walk.wanted(k).statistics]
        own = np.bincount(part.walked.reshape(-1), minlength=self.meaning.every.shape[1])
        for k, (before, others) in zip(wanted, self._columns(part, wanted), strict=True):
            walk.columns[k] = _Columns(before, others, float(self.meaning.every[k] @ own))
        decisions = _Learnt(truth)
        walk.slab(grid.rows, decisions, last=False)
        return decisions.learnt

    def _grid(self, offsets: tuple[int, ...], rows: int) -> Grid:
        return replace(self._layer_grid, rows=rows, slab_rows=rows, offsets=offsets)

    def _parts(self, walked: int, parts: int) -> Iterator[Part]:
        """The first slab, in which most is learnt of the columns, is a part of its own; later ones are ever longer."""
        n_rows, columns = self.layer.codes.shape
        height = self._layer_grid.slab_rows
        slabs = -(-n_rows // height)
        later = 1 + (slabs - 1) * np.linspace(0, 1, parts) ** 2
        edges = np.unique(np.round([0, *later]).astype(int)).tolist()
        each = min(max(walked // columns // (len(edges) - 1), 2), height)
        for start, end in pairwise(edges):
            first, stop = start * height, min(end * height, n_rows)
            rows = first + _of_all_densities(self.layer.kept[first:stop], min(each, stop - first))
            yield Part(first, stop, end - start, rows, self.layer.codes[rows])

    def _columns(self, part: Part, wanted: list[int]) -> np.ndarray:
        """Ones and decisions in each column, before the slab for which a part stands, and in the rows of that slab
        which are not walked over: [wanted, 2, 2, C].

        From as many rows as there are, as more of them would tell more.
        """
        others = np.delete(np.arange(part.first, part.stop), part.rows - part.first)
        height = (part.stop - part.first) / part.slabs
        in_slab, before = max(round(height) - part.rows.size, 0), round((part.slabs - 1) / 2 * height)
        some = others[_evenly(others.size, in_slab + before)]
        during = _evenly(some.size, in_slab)
        earlier = np.append(np.arange(part.first), np.delete(some, during))
        return np.stack([self._count(earlier, wanted, self._stride), self._count(some[during], wanted, 1)], 1)

    def _count(self, rows: np.ndarray, wanted: list[int], stride: int) -> np.ndarray:
        """Ones and decisions in each column of some rows, told by one of each ``stride``: float32 [wanted, 2, C]."""
        codes, n_codes = self.layer.codes[rows[::stride]], self.layer.counts.size
        both = np.stack([self.meaning.ones, self.meaning.every], 1)[wanted]
        out = np.zeros((len(wanted), 2, codes.shape[1]), np.float32)
        at_once = _COUNTED_AT_ONCE // n_codes
        for first in range(0, codes.shape[1] if wanted else 0, at_once):
            block = slice(first, first + at_once)
            out[:, :, block] = both @ _in_columns(codes[:, block], n_codes)
        out *= np.float32(rows.size / max(codes.shape[0], 1))
        return out


def _of_all_densities(kept: np.ndarray, n: int) -> np.ndarray:
    """The numbers of n rows, in order: of each nth part of the rows by density one that is as dense as these on
    average.
    """
    order = np.argsort(kept, kind="stable")
    edges = np.arange(n + 1) * kept.size // n
    ascending = kept[order]
    mean = np.add.reduceat(ascending, edges[:-1], dtype=float) / np.diff(edges)
    return np.sort(order[np.clip(np.searchsorted(ascending, mean), edges[:-1], edges[1:] - 1)])


def _evenly(of: int, n: int) -> np.ndarray:
    """So many numbers below ``of``, at most all of them."""
    n = min(n, of)
    return ((np.arange(n) + 0.5) * (of / max(n, 1))).astype(int)


def _in_columns(codes: np.ndarray, n_codes: int) -> np.ndarray:
    """How often each code is in each column: float32 [n_codes, C]."""
    n_rows, columns = codes.shape
    at = np.flatnonzero(codes != 0)
    code_and_column = codes.reshape(-1).take(at) * np.int64(columns) + at % columns
    counts = np.bincount(code_and_column, minlength=n_codes * columns).reshape(n_codes, columns)
    counts[0] = n_rows - counts.sum(0)
    return counts.astype(np.float32)


class _Columns(Statistics):
    """Statistics of columns that have seen other rows ``before`` a slab, and see ``others`` during it: [2, C] each.

    decisions: how many the rows walked over have.
    """

    def __init__(self, before: np.ndarray, others: np.ndarray, decisions: float) -> None:
        super().__init__(before.shape[1])
        self._others, self._decisions = others, max(decisions, 1.0)
        self._ones, self._all = np.rint(before).astype(np.int64)

    def add_runs(self, runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """As if the rows that are not walked over were, in step with those that are."""
        super().add_runs(runs)
        if not self._others.any():
            return
        seen = np.cumsum([0, *(places.size for places, _ in runs)]) / self._decisions
        others = np.rint(self._others * seen[:, None, None].astype(np.float32)).astype(np.int64)
        self._before = self._before[0] + others[:-1, 0], self._before[1] + others[:-1, 1]
        self._ones, self._all = self._ones + others[-1, 0], self._all + others[-1, 1]


class _Learnt:
    """Takes the true decisions and keeps all planes, of which everything was learnt, with theirs."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.learnt: list[tuple[View, np.ndarray]] = []

    def take(self, view: View, last_slab: bool) -> np.ndarray:
        ones = self._truth.at(view.number, view.items.at)
        view.learn_all(ones)
        self.learnt.append((view, ones))
        return ones

    def narrow(self, kept: int) -> None:
        """Nothing to do."""
