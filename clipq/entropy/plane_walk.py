"""Takes a layer apart into binary decisions, or puts it together from them: the same walk for writing and reading.

docs/format.md, "Planes"; the order is that of ``plane_order``, the model of a decision ``plane_model``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from clipq.entropy.integer_log import logistic
from clipq.entropy.plane_likeness import Likeness
from clipq.entropy.plane_model import WEIGHT_BITS, FeatureNumbers, PlaneSetting, Statistics, neighbour_values
from clipq.entropy.plane_order import MAGNITUDES, PACES, Grid, Items, Run, parents, planes, slab_items

#: The feature "size" of each magnitude.
_SIZES = np.array([256 * min(max(m.bit_length() - 1, 0), 3) for m in range(MAGNITUDES)], np.int32)


class Decisions(Protocol):
    """Where decisions come from, or go to."""

    def take(self, view: View, last_slab: bool) -> np.ndarray:
        """The decisions (bool) of a plane's items, of which the view has learnt then."""

    def narrow(self, kept: int) -> None:
        """The last slab's planes but the mask follow; in the last of them there are ``kept`` decisions."""


class _Wanted(NamedTuple):
    """What somebody's weights ask to be known of a plane."""

    statistics: list[int]
    neighbours: bool
    likeness: bool


class PlaneWalk:
    """Walks over a layer slab by slab; ``settings`` has one setting for each of ``planes(largest)``.

    Settings may be replaced while their planes are being taken, by some with fewer weights.
    """

    def __init__(self, grid: Grid, largest: int, settings: Sequence[PlaneSetting]) -> None:
        self.grid, self.settings, self.planes = grid, settings, planes(largest)
        self.numbers = FeatureNumbers(len(grid.offsets))
        self._parents = parents(self.planes)
        self.columns = [Statistics(grid.columns) for _ in self.planes]
        self.values = [Statistics(MAGNITUDES) for _ in self.planes]
        self.kernels = grid.columns // grid.kernel

    def slab(self, rows: int, decisions: Decisions, last: bool) -> tuple[Items, np.ndarray, np.ndarray]:
        """Takes the next slab's decisions: the kept weights, their magnitudes, and which are negative."""
        every = slab_items(self.grid, rows)
        known = [_Known(self, number, rows) for number in range(len(self.planes))]

        def take(number: int, items: Items, magnitude: np.ndarray | None = None) -> np.ndarray:
            parent, constant = self._parents[number], self.settings[number].constant
            if constant is not None:
                return np.full(items.at.size, bool(constant))
            value = None if magnitude is None else self.planes[number].value(magnitude)
            view = View(known[number], None if parent is None else known[parent], items, value)
            return decisions.take(view, last)

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
                ones = take(number, kept.where(chosen), magnitude[chosen])
                magnitude[chosen] |= ones.astype(np.int32) << plane.r
        if magnitude is None:
            magnitude = np.left_shift(1, exponent, dtype=np.int32)
        return kept, magnitude, take(len(self.planes) - 1, kept, magnitude)

    def wanted(self, number: int) -> _Wanted:
        numbers, own = self.numbers, self.settings[number].weights.keys()
        children = {k for s, p in zip(self.settings, self._parents, strict=True) if p == number for k in s.weights}
        d = range(numbers.d)
        return _Wanted(
            [k for k in numbers.own if k in own or numbers.statistics(k) & children - {k}],
            any(numbers.neighbour(k) in own or numbers.parent_neighbour(k) in children for k in d),
            numbers.likeness in own,
        )


class _Known:
    """What is known of a plane in the current slab: statistics, neighbours' values, likeness, where they are wanted."""

    def __init__(self, walk: PlaneWalk, number: int, rows: int) -> None:
        self.walk, self.number, self.rows, self.wanted = walk, number, rows, walk.wanted(number)
        self.mean = walk.settings[number].mean
        kernels = Statistics(rows * walk.kernels if 2 in self.wanted.statistics else 0)
        self.statistics = [Statistics(rows), walk.columns[number], kernels, walk.values[number]]
        self.of_bit = np.array(neighbour_values(self.mean), np.int16)
        margin, columns = walk.grid.margin, walk.grid.columns
        size = margin + rows * (columns + margin) if self.wanted.neighbours else 0
        self._padded = np.zeros(margin + size, np.int16)  # so that there is a view of it from ``margin`` places earlier
        self.values, self.when = self._padded[margin:], np.zeros(size, np.int8)
        self.likeness: Likeness | None = None

    def begin_likeness(self, items: Items) -> None:
        """These are the plane's items."""
        grid = self.walk.grid
        self.likeness = Likeness(self.rows, grid.columns, PACES[grid.pace][1], items.row, items.column)

    def beside(self, offset: int, at: np.ndarray) -> np.ndarray:
        """The neighbours' values, int16, at so many places after these (negative: before)."""
        return self._padded[self.walk.grid.margin + offset :].take(at)


class _Written(NamedTuple):
    """Of a plane that is being written: each item's decision, run and likeness, and the statistics before each run."""

    ones: np.ndarray
    run: np.ndarray
    likeness: np.ndarray | None
    before: dict[int, np.ndarray]


class View:
    """The features of a plane's items, from what is known of the plane and of its parent.

    While the plane is read, ``learn`` and ``feature`` take turns, run by run; when it is written, ``learn_all`` comes
    first, and ``feature`` gives for each item what is known before its run.
    """

    def __init__(self, known: _Known, parent: _Known | None, items: Items, value: np.ndarray | None) -> None:
        self._known, self._parent, self.items, self._value = known, parent, items, value
        if known.wanted.likeness:
            known.begin_likeness(items)
        self.number = known.number
        self._runs = items.runs(1 if parent is None else PACES[known.walk.grid.pace][0])
        self._written: _Written | None = None
        self._fixed: np.ndarray | None = None

    @property
    def setting(self) -> PlaneSetting:
        return self._known.walk.settings[self.number]

    @property
    def numbers(self) -> FeatureNumbers:
        return self._known.walk.numbers

    def runs(self) -> list[Run]:
        """The runs in which the plane is coded."""
        if any(self.numbers.is_progressive(k) for k in self.setting.weights):
            return self._runs
        n = self.items.at.size
        return [Run(0, n, range(0))] if n else []

    def learn(self, run: Run, ones: np.ndarray) -> None:
        """The decisions of a run."""
        known, items = self._known, self.items
        part = slice(run.start, run.stop)
        for k in known.wanted.statistics:
            known.statistics[k].add(self._places(k, part), ones)
        if known.wanted.neighbours:
            known.values[items.at[part]] = known.of_bit.take(ones.view(np.int8))
        if known.likeness is not None:
            known.likeness.learn(items.row[part], items.column[part], run.phases.stop, ones)

    def learn_all(self, ones: np.ndarray) -> None:
        """All the plane's decisions."""
        known, items, runs = self._known, self.items, self._runs
        run = np.repeat(np.arange(len(runs), dtype=np.int8), [r.stop - r.start for r in runs])
        for k in known.wanted.statistics:
            places = self._places(k, slice(None))
            known.statistics[k].add_runs([(places[r.start : r.stop], ones[r.start : r.stop]) for r in runs])
        if known.wanted.neighbours:
            self._learn_neighbours(slice(None), ones)
            known.when[items.at] = run
        likeness = self._likeness_of_all(known.likeness, runs, ones) if known.likeness is not None else None
        priors = self.setting.priors
        before = {k: known.statistics[k].log_odds_before(known.mean, priors[k]) for k in known.wanted.statistics}
        self._written = _Written(ones, run, likeness, before)

    def _learn_neighbours(self, part: slice, ones: np.ndarray) -> None:
        """``ones``: of all items."""
        self._known.values[self.items.at[part]] = self._known.of_bit.take(ones[part].view(np.int8))

    def _places(self, statistic: int, chosen: slice | np.ndarray) -> np.ndarray:
        """The row, the column, the kernel or the value of these items."""
        if statistic == FeatureNumbers.value:
            assert self._value is not None
            return self._value[chosen]
        row, column = self.items.row[chosen], self.items.column[chosen]
        if statistic < 2:
            return column if statistic else row
        walk = self._known.walk
        return row * walk.kernels + column // walk.grid.kernel

    def _likeness_of_all(self, likeness: Likeness, runs: list[Run], ones: np.ndarray) -> np.ndarray:
        out = np.zeros(ones.size, np.int32)
        for start, stop, phases in runs:
            row, column = self.items.row[start:stop], self.items.column[start:stop]
            out[start:stop] = likeness.feature(row, column, phases)
            likeness.learn(row, column, phases.stop, ones[start:stop])
        return out

    def all_probabilities(self) -> Iterator[tuple[Run, np.ndarray]]:
        """Each run in turn and the probability of a one for each of its items, after ``learn_all``."""
        known, written = self._known, self._written
        self._fixed = None
        assert written is not None
        again = any(0 <= k - self.numbers.neighbour(0) < self.numbers.d for k in self.setting.weights)
        if again:  # as when it is read: neighbours' values are there from the next run on
            known.values[:] = 0
        for i, run in enumerate(self.runs()):
            yield run, self.probabilities(run, i)
            if again:
                self._learn_neighbours(slice(run.start, run.stop), written.ones)

    def probabilities(self, run: Run, i: int = 0) -> np.ndarray:
        """The probability of a one for each item of the i-th run, int32 in units of 2^-15."""
        n, setting = run.stop - run.start, self.setting
        if not setting.weights:
            return np.full(n, logistic(np.array([setting.bias]))[0], np.int32)
        if self._fixed is None:
            self._fixed = self._sum_of_fixed()
        total = self._fixed[run.start : run.stop].copy()
        for number, weight in setting.weights.items():
            if self.numbers.is_progressive(number):
                total += self._in_run(number, np.int32(weight), run, i)
        total >>= WEIGHT_BITS
        return logistic(total)

    def _sum_of_fixed(self) -> np.ndarray:
        """The bias and all features of the parent and of sizes, of each item, in 1/16."""
        total = np.full(self.items.at.size, self.setting.bias << WEIGHT_BITS, np.int32)
        for number, weight in self.setting.weights.items():
            if not self.numbers.is_progressive(number):
                total += self.feature(number, slice(None)) * np.int32(weight)
        return total

    def _in_run(self, number: int, weight: np.int32, run: Run, i: int) -> np.ndarray:
        """A progressive feature of the items of the i-th run, times its weight: int32."""
        part, numbers, known, written = slice(run.start, run.stop), self.numbers, self._known, self._written
        if number < numbers.neighbour(0):
            if written is None:
                table = known.statistics[number].log_odds(known.mean, self.setting.priors[number])
            else:
                table = written.before[number][i]
            return (table * weight).take(self._places(number, part))
        if number < numbers.likeness:
            feature = self._neighbours(known, number - numbers.neighbour(0), part)
        elif written is None:
            assert known.likeness is not None
            feature = known.likeness.feature(self.items.row[part], self.items.column[part], run.phases)
        else:
            assert written.likeness is not None
            feature = written.likeness[part].copy()
        feature *= weight
        return feature

    def feature(self, number: int, chosen: slice | np.ndarray) -> np.ndarray:
        """A feature of any items, int32; one of the plane's own decisions only after ``learn_all``."""
        numbers, parent, written = self.numbers, self._parent, self._written
        if number < numbers.neighbour(0):
            assert written is not None
            before = written.before[number]
            return before.take(written.run[chosen] * np.int64(before.shape[1]) + self._places(number, chosen))
        if number == numbers.size:
            assert self._value is not None
            return _SIZES.take(self._value[chosen])
        if number == numbers.likeness:
            assert written is not None and written.likeness is not None
            return written.likeness[chosen]
        if number < numbers.likeness:
            return self._neighbours_before(number - numbers.neighbour(0), chosen)
        assert parent is not None
        if number < numbers.parent_neighbour(0):
            k = number - numbers.parent_statistic(0)
            table = parent.statistics[k].log_odds(parent.mean, self.setting.priors[k])
            return table.take(self._places(k, chosen))
        return self._neighbours(parent, number - numbers.parent_neighbour(0), chosen)

    def _neighbours(self, of: _Known, k: int, chosen: slice | np.ndarray) -> np.ndarray:
        """The sum of the values on both sides; a margin is as wide as the largest offset."""
        offset, at = self._known.walk.grid.offsets[k], self.items.at[chosen]
        return np.add(of.beside(-offset, at), of.beside(offset, at), dtype=np.int32)

    def _neighbours_before(self, k: int, chosen: slice | np.ndarray) -> np.ndarray:
        """The same of what is known before each item's run, of a plane that is being written."""
        known, offset, at = self._known, self._known.walk.grid.offsets[k], self.items.at[chosen]
        assert self._written is not None
        run, both = self._written.run[chosen], np.zeros(at.size, np.int32)
        for side in (-offset, offset):
            both += known.beside(side, at) * (known.when.take(at + side) < run)
        return both
