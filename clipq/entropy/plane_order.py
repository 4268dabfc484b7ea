"""The planes of decisions of which a layer's codes consist, and the order of the weights: docs/format.md, "Planes".

The layer is a matrix, R outputs by C inputs.  It is cut into slabs of rows; a slab's positions are dealt out to phases
so that every row and column has about as many in each.  So when a phase is coded, each row, column and neighbourhood
is already known in part, and a whole phase is modelled at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

#: The group of row i is the top bits of i ROW_STEP mod 2^32, that of column j those of j COLUMN_STEP.
ROW_STEP, COLUMN_STEP = 0x9E3779B1, 0x85EBCA77
_GROUP_BITS = 4
#: The phase of a weight is its row's group and its column's, modulo this.
PHASES = 1 << _GROUP_BITS
#: What a grid's ``pace`` says: how many phases make up a run of a plane but the mask, and how many are between two
#: times at which rows are compared.
PACES = ((1, 1), (1, 2), (2, 2), (2, 4))
#: Magnitudes are below this.  A layer whose largest is LARGE or more has so many that values tell more than sizes.
MAGNITUDES, LARGE = 1 << 8, 1 << 4
#: A run of a plane has at least this many decisions, but for the last one.
LEAST_RUN = 64


class Plane(NamedTuple):
    """A plane: ``kind`` is mask, above, bit or sign; ``e`` and ``r`` as in ``planes``.

    looks_at: what it looks at of magnitudes that are known to differ: nothing, their ``size`` or their ``value``.
    """

    kind: str
    e: int
    r: int
    looks_at: str = ""

    def value(self, magnitude: np.ndarray) -> np.ndarray:
        """What is known of these magnitudes, whose bits from ``r`` down are not: a number for each."""
        return magnitude if self.kind == "sign" else magnitude >> self.r + 1


def planes(largest: int) -> list[Plane]:
    """The planes of a layer whose magnitudes (numbers of levels from zero) are at most ``largest``.

    ``mask``: is it kept.  ``above`` e: is the magnitude 2^e or more, for those of 2^(e-1) or more.  ``bit`` e, r: bit r
    of the magnitudes from 2^e to 2^(e+1) - 1, where it can be set.  ``sign``: is it negative.
    """
    top = max(largest, 1).bit_length()
    above = [Plane("above", e, 0) for e in range(1, top)]
    bits = [
        Plane("bit", e, r, "value" if largest >= LARGE and r < e - 1 else "")
        for e in range(1, top)
        for r in range(e - 1, -1, -1)
        if (1 << e) + (1 << r) <= largest
    ]
    return [Plane("mask", 0, 0), *above, *bits, Plane("sign", 0, 0, "value" if largest >= LARGE else "size")]


def parents(every: list[Plane]) -> list[int | None]:
    """For each plane the number of the one whose decisions say what it decides for; None for the mask."""
    number = {(plane.kind, plane.e): i for i, plane in enumerate(every)}

    def parent(plane: Plane) -> int | None:
        if plane.kind == "mask":
            return None
        e = {"above": plane.e - 1, "bit": plane.e, "sign": 0}[plane.kind]
        return number["above", e] if e else 0

    return [parent(plane) for plane in every]


@dataclass(frozen=True)
class Grid:
    """The matrix of a layer and how it is walked over.

    kernel: columns that belong to the same input, one after the other; a divisor of ``columns``.
    offsets: distances within a row at which neighbours are looked at, each below ``columns``.
    pace: which of PACES.
    """

    rows: int
    columns: int
    kernel: int
    offsets: tuple[int, ...]
    slab_rows: int
    pace: int

    @property
    def margin(self) -> int:
        """Positions between two rows, and before the first, that belong to neither."""
        return max(self.offsets, default=0)

    def slabs(self) -> list[tuple[int, int]]:
        """First and last + 1 row of each slab."""
        return [(i, min(i + self.slab_rows, self.rows)) for i in range(0, self.rows, self.slab_rows)]


class Run(NamedTuple):
    """Items ``start`` to ``stop`` - 1 of a plane, those of these phases."""

    start: int
    stop: int
    phases: range


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
        which = chosen.nonzero()[0]
        return Items(self.at[which], self.row[which], self.column[which], np.searchsorted(which, self.ends))

    def runs(self, together: int) -> list[Run]:
        """The runs of a plane that learns from phase to phase, or from so many together to the next."""
        runs, start, first = [], 0, 0
        for phase in range(together, PHASES + 1, together):
            end = int(self.ends[phase - 1])
            if end - start >= LEAST_RUN or (end > start and phase == PHASES):
                runs.append(Run(start, end, range(first, phase)))
                start, first = end, phase
        return runs


def groups(n: int, step: int) -> np.ndarray:
    """The group of each of n rows (or columns), uint8."""
    return ((np.arange(n, dtype=np.uint32) * np.uint32(step)) >> np.uint32(32 - _GROUP_BITS)).astype(np.uint8)


@lru_cache(maxsize=4)
def _items_of(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places, rows and columns in the order of coding, and the phases' ends.  The last results are kept."""
    of_columns = groups(columns, COLUMN_STEP)
    sizes, by_group = np.bincount(of_columns, minlength=PHASES), np.argsort(of_columns, kind="stable")
    # For each phase, and each row in it, the group of columns: how many, and which of ``by_group`` is the first.
    group = (np.arange(PHASES)[:, None] - groups(rows, ROW_STEP)) & (PHASES - 1)
    n, first = sizes.take(group).reshape(-1), (np.cumsum(sizes) - sizes).take(group).reshape(-1)
    ends = np.cumsum(n)
    row = np.repeat(np.tile(np.arange(rows), PHASES), n)
    column = by_group.take(np.repeat(first + n - ends, n) + np.arange(rows * columns))
    return row * columns + column, row, column, ends[rows - 1 :: rows]


def slab_items(grid: Grid, rows: int) -> Items:
    """All positions of a slab of ``rows`` rows; its first row counts as row 0."""
    order, row, column, ends = _items_of(rows, grid.columns)
    at = order
    if grid.margin:
        at = row + 1
        at *= grid.margin
        at += order
    return Items(at, row, column, ends)
