"""The order in which a layer's codes are taken apart into binary decisions, the same for writing and reading.

The layer is a matrix, R outputs by C inputs.  It is cut into slabs of rows; a slab's positions are dealt out to phases
so that every row and column has about as many in each.  So when a phase is coded, each row, column and neighbourhood
is already known in part, and a whole phase is modelled at once.  docs/format.md, "Planes".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from clipq.plane_model import FeatureNumbers, PlaneSetting, Statistics, neighbour_values

#: The phase of row i and column j is the top bits of (i ROW_STEP + j COLUMN_STEP) mod 2^32.
ROW_STEP, COLUMN_STEP = 0x9E3779B1, 0x85EBCA77


class Plane(NamedTuple):
    """A plane: ``kind`` is mask, above, bit or sign; ``e`` and ``r`` as in ``planes``."""

    kind: str
    e: int
    r: int


def planes(largest: int) -> list[Plane]:
    """The planes of a layer whose magnitudes (numbers of levels from zero) are at most ``largest``.

    ``mask``: is it kept.  ``above`` e: is the magnitude 2^e or more, for those of 2^(e-1) or more.  ``bit`` e, r: bit r
    of the magnitudes from 2^e to 2^(e+1) - 1, where it can be set.  ``sign``: is it negative.
    """
    top = max(largest, 1).bit_length()
    above = [Plane("above", e, 0) for e in range(1, top)]
    bits = [Plane("bit", e, r) for e in range(1, top) for r in range(e - 1, -1, -1) if (1 << e) + (1 << r) <= largest]
    return [Plane("mask", 0, 0), *above, *bits, Plane("sign", 0, 0)]


@dataclass(frozen=True)
class Grid:
    """The matrix of a layer and how it is walked over.

    offsets: distances within a row at which neighbours are looked at, each below ``columns``.
    phase_bits: there are 2^phase_bits phases.
    """

    rows: int
    columns: int
    offsets: tuple[int, ...]
    phase_bits: int
    slab_rows: int

    @property
    def margin(self) -> int:
        """Positions between two rows, and before the first, that belong to neither."""
        return max(self.offsets, default=0)

    def slabs(self) -> list[tuple[int, int]]:
        """First and last + 1 row of each slab."""
        return [(i, min(i + self.slab_rows, self.rows)) for i in range(0, self.rows, self.slab_rows)]


class Items(NamedTuple):
    """Positions of a slab in the order of coding: by phase, then by row and column.

    at: place in the slab's padded array.  ends: how many items there are up to the end of each phase.
    """

    at: np.ndarray
    row: np.ndarray
    column: np.ndarray
    ends: np.ndarray

    def where(self, chosen: np.ndarray) -> Items:
        """Those with ``chosen`` (bool)."""
        before = np.concatenate([[0], np.cumsum(chosen)])
        return Items(self.at[chosen], self.row[chosen], self.column[chosen], before[self.ends])


def slab_items(grid: Grid, rows: int) -> Items:
    """All positions of a slab of ``rows`` rows; its first row counts as row 0."""
    i, j = np.arange(rows, dtype=np.uint32)[:, None], np.arange(grid.columns, dtype=np.uint32)[None]
    phase = (i * np.uint32(ROW_STEP) + j * np.uint32(COLUMN_STEP)) >> np.uint32(1) >> np.uint32(31 - grid.phase_bits)
    phase = phase.astype(np.uint8).reshape(-1)
    order = np.argsort(phase, kind="stable")
    order = order.astype(np.int32)
    row = order // np.int32(max(grid.columns, 1))
    column = order - row * np.int32(grid.columns)
    at = grid.margin + row * np.int32(grid.columns + grid.margin) + column
    return Items(at, row, column, np.cumsum(np.bincount(phase, minlength=2**grid.phase_bits)))


class Decisions(Protocol):
    """Where decisions come from, or go to."""

    def take(self, number: int, at: np.ndarray, features: dict[int, np.ndarray], after: int | None) -> np.ndarray:
        """The decisions (bool) of plane ``number`` at the places ``at`` of the current slab.

        features: by number, int32, those that the plane's weights name.
        after: how many decisions follow these, where the plane is the layer's last one, otherwise None.
        """


@dataclass(eq=False)
class _Known:
    """What is known of a plane in the current slab: statistics, and values of neighbours where they are wanted."""

    setting: PlaneSetting
    rows: Statistics
    columns: Statistics
    values: np.ndarray | None

    def learn(self, items: Items, part: slice, ones: np.ndarray) -> None:
        self.rows.add(items.row[part], ones)
        self.columns.add(items.column[part], ones)
        if self.values is not None:
            self.values[items.at[part]] = np.array(neighbour_values(self.setting.mean), np.int16)[ones.view(np.int8)]


class PlaneWalk:
    """Walks over a layer slab by slab; ``settings`` has one setting for each of ``planes(largest)``."""

    def __init__(self, grid: Grid, largest: int, settings: Sequence[PlaneSetting]) -> None:
        self._grid, self._settings, self._planes = grid, settings, planes(largest)
        self._numbers = FeatureNumbers(len(grid.offsets))
        self._columns = [Statistics(grid.columns) for _ in self._planes]
        self._items: Items | None = None

    def slab(self, rows: int, decisions: Decisions, last: bool) -> tuple[Items, np.ndarray, np.ndarray]:
        """Takes the next slab's decisions: the kept weights, their magnitudes, and which are negative."""
        if self._items is None or self._items.at.size != rows * self._grid.columns:
            self._items = slab_items(self._grid, rows)
        run = _Slab(self, rows, decisions)
        number = {plane: i for i, plane in enumerate(self._planes)}
        mask, mask_known = run.plane(0, self._items, None)
        kept = self._items.where(mask)
        exponent = np.zeros(kept.at.size, np.uint8)
        items, inside, known = kept, np.arange(kept.at.size), mask_known
        found = {0: mask_known}
        for plane in self._planes:
            if plane.kind == "above":
                ones, known = run.plane(number[plane], items, known)
                items, inside = items.where(ones), inside[ones]
                exponent[inside] = plane.e
                found[plane.e] = known
        magnitude = np.left_shift(1, exponent, dtype=np.int32)
        for plane in self._planes:
            if plane.kind == "bit":
                chosen = exponent == plane.e
                ones, _ = run.plane(number[plane], kept.where(chosen), found[plane.e])
                magnitude[chosen] |= ones.astype(np.int32) << plane.r
        size = np.minimum(exponent, 3).astype(np.int32) * 256
        negative, _ = run.plane(len(self._planes) - 1, kept, mask_known, size, last)
        return kept, magnitude, negative


class _Slab:
    """The planes of one slab."""

    def __init__(self, walk: PlaneWalk, rows: int, decisions: Decisions) -> None:
        self._walk, self._rows, self._decisions = walk, rows, decisions
        self._grid, self._numbers = walk._grid, walk._numbers

    def plane(
        self, number: int, items: Items, parent: _Known | None, size: np.ndarray | None = None, last: bool = False
    ) -> tuple[np.ndarray, _Known]:
        """Takes one plane's decisions: bool [items], and what children may know of it."""
        setting = self._walk._settings[number]
        known = _Known(setting, Statistics(self._rows), self._walk._columns[number], self._neighbour_array(number))
        n = items.at.size
        if setting.constant is not None:
            return np.full(n, bool(setting.constant)), known
        static = self._static_features(setting, items, parent, size)
        ones = np.empty(n, np.bool_)
        progressive = any(self._numbers.is_progressive(k) for k in setting.weights)
        start = 0
        for end in items.ends.tolist() if progressive else [n]:
            part = slice(start, end)
            if end > start:
                features = {k: f[part] for k, f in static.items()} | self._progressive_features(known, items, part)
                ones[part] = self._decisions.take(number, items.at[part], features, n - end if last else None)
                if progressive or self._is_parent(number):
                    known.learn(items, part, ones[part])
            start = end
        return ones, known

    def _is_parent(self, number: int) -> bool:
        """Whether a child's features need what is known of this plane."""
        return self._walk._planes[number].kind in ("mask", "above")

    def _neighbour_array(self, number: int) -> np.ndarray | None:
        if not self._grid.offsets:
            return None
        wanted = {self._numbers.neighbour(k) for k in range(len(self._grid.offsets))}
        if not self._is_parent(number) and not wanted & self._walk._settings[number].weights.keys():
            return None
        return np.zeros(self._grid.margin + self._rows * (self._grid.columns + self._grid.margin), np.int16)

    def _static_features(
        self, setting: PlaneSetting, items: Items, parent: _Known | None, size: np.ndarray | None
    ) -> dict[int, np.ndarray]:
        numbers, features = self._numbers, {}
        if parent is not None:
            mean, row_prior, column_prior = parent.setting.mean, setting.row_prior, setting.column_prior
            if numbers.parent_row in setting.weights:
                features[numbers.parent_row] = parent.rows.log_odds(mean, row_prior).take(items.row)
            if numbers.parent_column in setting.weights:
                features[numbers.parent_column] = parent.columns.log_odds(mean, column_prior).take(items.column)
            for k, offset in enumerate(self._grid.offsets):
                if numbers.parent_neighbour(k) in setting.weights and parent.values is not None:
                    features[numbers.parent_neighbour(k)] = _neighbours(parent.values, items.at, offset)
        if numbers.size in setting.weights and size is not None:
            features[numbers.size] = size
        return features

    def _progressive_features(self, known: _Known, items: Items, part: slice) -> dict[int, np.ndarray]:
        numbers, setting, features = self._numbers, known.setting, {}
        if numbers.row in setting.weights:
            features[numbers.row] = known.rows.log_odds(setting.mean, setting.row_prior).take(items.row[part])
        if numbers.column in setting.weights:
            features[numbers.column] = known.columns.log_odds(setting.mean, setting.column_prior).take(
                items.column[part]
            )
        for k, offset in enumerate(self._grid.offsets):
            if numbers.neighbour(k) in setting.weights and known.values is not None:
                features[numbers.neighbour(k)] = _neighbours(known.values, items.at[part], offset)
        return features


def _neighbours(values: np.ndarray, at: np.ndarray, offset: int) -> np.ndarray:
    """The sum of the values on both sides; a margin is as wide as the largest offset."""
    return values.take(at - offset).astype(np.int32) + values.take(at + offset)
