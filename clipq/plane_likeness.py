"""How a sign is expected from the rows that are like its own: the feature ``likeness`` of docs/format.md.

X holds the decisions known so far, 1 for a one, -1 for a zero, 0 for what is not known.  Rows are alike as X X' says,
and (X X' X)[i, j] is what all rows say of column j, each as far as it is like row i.  It strengthens what many rows
and columns have in common, and all in it are integers that float32 holds exactly, as no sum of terms exceeds the
number of decisions in a slab.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipq.plane_order import COLUMN_STEP, PHASES, ROW_STEP, groups

UNIT = 256
#: Matrices of fewer weights than this are multiplied whole rather than by blocks of a phase.
_WHOLE = 1 << 16


class Likeness:
    """The known decisions of a plane in a slab of ``rows`` by ``columns``."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._known = rows, 0
        self._flipped = columns < rows  # X X' X = (X' X X')', by the smaller of X X' and X' X
        sizes = (columns, rows) if self._flipped else (rows, columns)
        steps = (COLUMN_STEP, ROW_STEP) if self._flipped else (ROW_STEP, COLUMN_STEP)
        groups_of = [groups(n, step) for n, step in zip(sizes, steps, strict=True)]
        orders = [np.argsort(of, kind="stable") for of in groups_of]
        self._bounds = [
            np.searchsorted(of[order], np.arange(PHASES + 1)).tolist()
            for of, order in zip(groups_of, orders, strict=True)
        ]
        self._place = [np.empty(n, np.int64) for n in sizes]
        for place, order in zip(self._place, orders, strict=True):
            place[order] = np.arange(order.size)
        self._place[0] *= sizes[1]
        self._x = np.zeros(sizes, np.float32)
        self._alike = np.zeros((sizes[0], sizes[0]), np.float32)
        self._said, self._new = np.zeros(sizes, np.float32), np.zeros(sizes, np.float32)
        self._whole = rows * columns < _WHOLE

    def feature(self, row: np.ndarray, column: np.ndarray, phases: range) -> np.ndarray:
        """The feature (int32) of places that all belong to these phases."""
        if not self._known:
            return np.zeros(row.size, np.int32)
        if self._whole:
            np.matmul(self._alike, self._x, out=self._said)
        else:
            for some, others, known in self._blocks(phases):
                self._said[some, others] = sum(self._alike[some, k] @ self._x[k, others] for k in known)
        said = self._said.reshape(-1).take(self._at(row, column)).astype(np.int64)
        said *= UNIT * self._rows
        said //= self._known
        return said.astype(np.int32)

    def learn(self, row: np.ndarray, column: np.ndarray, phases: range, ones: np.ndarray) -> None:
        """The decisions at these places, all those of these phases."""
        into = self._x if self._whole else self._new
        into.reshape(-1)[self._at(row, column)] = 2 * ones.view(np.int8) - np.int8(1)
        self._known += row.size
        if self._whole:
            np.matmul(self._x, self._x.T, out=self._alike)
            return
        for some, others, known in self._blocks(phases):
            new = self._new[some, others]
            for k in known:
                product = new @ self._x[k, others].T
                self._alike[some, k] += product
                self._alike[k, some] += product.T
            self._alike[some, some] += new @ new.T
            self._x[some, others] = new

    def _at(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        first, second = (column, row) if self._flipped else (row, column)
        at: np.ndarray = self._place[0].take(first) + self._place[1].take(second)
        return at

    def _blocks(self, phases: range) -> Iterator[tuple[slice, slice, list[slice]]]:
        """The blocks of the matrix, sorted by groups, of which these phases consist: rows and columns.

        And the other rows of which something is known of these columns, or is in these phases.
        """
        rows, columns = self._bounds
        n = len(phases)
        for group in range(PHASES):
            some, other = slice(rows[group], rows[group + 1]), (phases.start - group) % PHASES
            before = _around(rows, (1 - other - n) % PHASES, min(phases.stop - 1 + n, PHASES))
            for others in _around(columns, other, n):
                yield some, others, [piece for k in before for piece in _without(k, some)]


def _around(bounds: list[int], first: int, n: int) -> list[slice]:
    """The places of n groups from ``first`` on, where group 0 comes after the last."""
    stop = first + n
    pieces = [(first, min(stop, PHASES)), (0, stop - PHASES)]
    return [slice(bounds[a], bounds[b]) for a, b in pieces if b > a and bounds[b] > bounds[a]]


def _without(all_rows: slice, some: slice) -> list[slice]:
    """Rows but for some of them."""
    if some.stop <= all_rows.start or some.start >= all_rows.stop:
        return [all_rows]
    pieces = [slice(all_rows.start, some.start), slice(some.stop, all_rows.stop)]
    return [piece for piece in pieces if piece.stop > piece.start]
