"""Takes a layer apart into binary decisions, or puts it together from them: the same walk for writing and reading.

docs/format.md, "Planes"; the order is that of ``clipq.plane_order``, the model of a decision ``clipq.plane_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from clipq.plane_model import Feature, FeatureNumbers, PlaneSetting, Statistics, neighbour_values
from clipq.plane_order import Grid, Items, parents, planes, slab_items


class Decisions(Protocol):
    """Where decisions come from, or go to."""

    def take(self, number: int, at: np.ndarray, features: dict[int, Feature], after: int | None) -> np.ndarray:
        """The decisions (bool) of plane ``number`` at the places ``at`` of the current slab.

        features: by number, those that the plane's weights name.
        after: how many decisions follow these, where the plane is the layer's last one, otherwise None.
        """

    def narrow(self, kept: int) -> None:
        """The last slab's planes but the mask follow; in the last of them there are ``kept`` decisions."""


class _Wanted(NamedTuple):
    """What somebody's weights ask to be known of a plane."""

    rows: bool
    columns: bool
    neighbours: bool


class PlaneWalk:
    """Walks over a layer slab by slab; ``settings`` has one setting for each of ``planes(largest)``."""

    def __init__(self, grid: Grid, largest: int, settings: Sequence[PlaneSetting]) -> None:
        self.grid, self.settings, self.planes = grid, settings, planes(largest)
        self.numbers = FeatureNumbers(len(grid.offsets))
        self.parents = parents(self.planes)
        self.wanted = [self._wanted_of(i) for i in range(len(self.planes))]
        self.columns = [Statistics(grid.columns) for _ in self.planes]

    def slab(self, rows: int, decisions: Decisions, last: bool) -> tuple[Items, np.ndarray, np.ndarray]:
        """Takes the next slab's decisions: the kept weights, their magnitudes, and which are negative."""
        every = slab_items(self.grid, rows)
        known = [_Known(self, number, rows) for number in range(len(self.planes))]

        def take(number: int, items: Items, size: np.ndarray | None = None, last: bool = False) -> np.ndarray:
            parent = self.parents[number]
            return _take_plane(known[number], None if parent is None else known[parent], items, decisions, size, last)

        kept = every.where(take(0, every))
        if last:
            decisions.narrow(kept.at.size)
        exponent = np.zeros(kept.at.size, np.uint8)
        items, inside, magnitude = kept, np.arange(kept.at.size), None
        for number, plane in enumerate(self.planes):
            if plane.kind == "above":
                ones = take(number, items)
                items, inside = items.where(ones), inside[ones]
                exponent[inside] = plane.e
            elif plane.kind == "bit":
                magnitude = np.left_shift(1, exponent, dtype=np.int32) if magnitude is None else magnitude
                chosen = exponent == plane.e
                magnitude[chosen] |= take(number, kept.where(chosen)).astype(np.int32) << plane.r
        if magnitude is None:
            magnitude = np.left_shift(1, exponent, dtype=np.int32)
        negative = take(len(self.planes) - 1, kept, np.minimum(exponent, 3).astype(np.int32) << 8, last)
        return kept, magnitude, negative

    def _wanted_of(self, number: int) -> _Wanted:
        numbers, own = self.numbers, self.settings[number].weights.keys()
        children = {k for s, p in zip(self.settings, self.parents, strict=True) if p == number for k in s.weights}
        d = range(numbers.d)
        return _Wanted(
            numbers.row in own or numbers.parent_row in children,
            numbers.column in own or numbers.parent_column in children,
            any(numbers.neighbour(k) in own or numbers.parent_neighbour(k) in children for k in d),
        )


class _Known:
    """What is known of a plane in the current slab: statistics, and neighbours' values, where they are wanted."""

    def __init__(self, walk: PlaneWalk, number: int, rows: int) -> None:
        self.walk, self.number, self.setting, self._wanted = walk, number, walk.settings[number], walk.wanted[number]
        self.rows, self.columns = Statistics(rows), walk.columns[number]
        self._of_bit = np.array(neighbour_values(self.setting.mean), np.int16)
        margin, columns = walk.grid.margin, walk.grid.columns
        self.values = np.zeros(margin + rows * (columns + margin) if self._wanted.neighbours else 0, np.int16)

    def learn(self, items: Items, part: slice, ones: np.ndarray) -> None:
        if self._wanted.rows:
            self.rows.add(items.row[part], ones)
        if self._wanted.columns:
            self.columns.add(items.column[part], ones)
        if self._wanted.neighbours:
            self.values[items.at[part]] = self._of_bit.take(ones.view(np.int8))


def _take_plane(
    known: _Known, parent: _Known | None, items: Items, decisions: Decisions, size: np.ndarray | None, last: bool
) -> np.ndarray:
    """Takes one plane's decisions, bool [items]."""
    n, setting, numbers = items.at.size, known.setting, known.walk.numbers
    if setting.constant is not None:
        return np.full(n, bool(setting.constant))
    ones = np.empty(n, np.bool_)
    static = _static_features(known, parent, size)
    progressive = any(numbers.is_progressive(k) for k in setting.weights)
    start = 0
    for end in items.ends.tolist() if progressive else [n]:
        if end == start:
            continue
        part = slice(start, end)
        of_part = static | (_progressive_features(known) if progressive else {})
        features = {k: _of_items(feature, items, part) for k, feature in of_part.items()}
        ones[part] = decisions.take(known.number, items.at[part], features, n - end if last else None)
        known.learn(items, part, ones[part])
        start = end
    return ones


#: A feature of the items chosen by an array of their numbers.
_OfItems = Callable[[Items, np.ndarray | slice], np.ndarray]


def _static_features(known: _Known, parent: _Known | None, size: np.ndarray | None) -> dict[int, _OfItems]:
    """The features that do not change while the plane is being coded."""
    setting, numbers, offsets = known.setting, known.walk.numbers, known.walk.grid.offsets
    features: dict[int, _OfItems] = {}
    if parent is not None:
        if numbers.parent_row in setting.weights:
            features[numbers.parent_row] = _by_row(parent.rows, parent.setting.mean, setting.row_prior)
        if numbers.parent_column in setting.weights:
            features[numbers.parent_column] = _by_column(parent.columns, parent.setting.mean, setting.column_prior)
        for k, offset in enumerate(offsets):
            if numbers.parent_neighbour(k) in setting.weights:
                features[numbers.parent_neighbour(k)] = _neighbours(parent.values, offset)
    if numbers.size in setting.weights and size is not None:
        features[numbers.size] = lambda items, chosen: size[chosen]
    return features


def _progressive_features(known: _Known) -> dict[int, _OfItems]:
    """The features of the plane's own decisions so far."""
    setting, numbers, offsets = known.setting, known.walk.numbers, known.walk.grid.offsets
    features: dict[int, _OfItems] = {}
    if numbers.row in setting.weights:
        features[numbers.row] = _by_row(known.rows, setting.mean, setting.row_prior)
    if numbers.column in setting.weights:
        features[numbers.column] = _by_column(known.columns, setting.mean, setting.column_prior)
    for k, offset in enumerate(offsets):
        if numbers.neighbour(k) in setting.weights:
            features[numbers.neighbour(k)] = _neighbours(known.values, offset)
    return features


def _by_row(rows: Statistics, mean: int, prior: int) -> _OfItems:
    return lambda items, chosen: rows.log_odds(mean, prior).take(items.row[chosen])


def _by_column(columns: Statistics, mean: int, prior: int) -> _OfItems:
    return lambda items, chosen: columns.log_odds(mean, prior).take(items.column[chosen])


def _neighbours(values: np.ndarray, offset: int) -> _OfItems:
    """The sum of the values on both sides; a margin is as wide as the largest offset."""

    def feature(items: Items, chosen: np.ndarray | slice) -> np.ndarray:
        at = items.at[chosen]
        return values.take(at - offset).astype(np.int32) + values.take(at + offset)

    return feature


def _of_items(feature: _OfItems, items: Items, part: slice) -> Feature:
    """The feature of all items of a part, or of those chosen among them."""

    def of_part(chosen: np.ndarray | None = None) -> np.ndarray:
        return feature(items, part if chosen is None else chosen + part.start)

    return of_part
