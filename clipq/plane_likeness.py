"""How a sign is expected from the rows that are like its own: the feature ``likeness`` of docs/format.md.

X holds the decisions known so far, 1 for a one, -1 for a zero, 0 for what is not known.  Rows are alike as X X' says,
and (X X' X)[i, j] is what all rows say of column j, each as far as it is like row i.  It strengthens what many rows
and columns have in common, and all in it are integers that float32 holds exactly, as no sum of terms exceeds the
number of decisions in a slab.  X X' takes the longest to compute, and may be of an earlier X.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipq.plane_order import COLUMN_STEP, PHASES, ROW_STEP, groups

UNIT = 256
#: The feature's limit, so that its product with any weight is an int32.
LARGEST = (1 << 15) - 1
#: Matrices of fewer weights than this are multiplied whole rather than by blocks of a phase.
_WHOLE = 1 << 16


class Likeness:
    """The known decisions of a plane in a slab of ``rows`` by ``columns``.

    pause: so many phases are between two times at which rows are compared.
    """

    def __init__(self, rows: int, columns: int, pause: int) -> None:
        self._rows, self._known, self._pause, self._compared = rows, 0, pause, 0
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
        self._said = np.zeros(sizes, np.float32)
        self._whole = rows * columns < _WHOLE

    def feature(self, row: np.ndarray, column: np.ndarray, phases: range) -> np.ndarray:
        """The feature (int32) of places that all belong to these phases."""
        if not self._compared:
            return np.zeros(row.size, np.int32)
        if self._whole:
            np.matmul(self._alike, self._x, out=self._said)
        else:
            for some, others in self._blocks(phases):
                self._said[some, others] = self._alike[some] @ self._x[:, others]
        said = self._said.reshape(-1).take(self._at(row, column)).astype(np.int64)
        said *= UNIT * self._rows
        said //= self._known
        return np.clip(said, -LARGEST, LARGEST).astype(np.int32)

    def learn(self, row: np.ndarray, column: np.ndarray, stop: int, ones: np.ndarray) -> None:
        """The decisions at these places, all up to phase ``stop`` that are not known yet."""
        self._x.reshape(-1)[self._at(row, column)] = 2 * ones.view(np.int8) - np.int8(1)
        self._known += row.size
        if stop // self._pause > self._compared and stop < PHASES:
            self._compared = stop // self._pause
            np.matmul(self._x, self._x.T, out=self._alike)

    def _at(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        first, second = (column, row) if self._flipped else (row, column)
        at: np.ndarray = self._place[0].take(first) + self._place[1].take(second)
        return at

    def _blocks(self, phases: range) -> Iterator[tuple[slice, slice]]:
        """The blocks of the matrix, sorted by groups, of which these phases consist."""
        rows, columns = self._bounds
        for group in range(PHASES):
            first = (phases.start - group) % PHASES
            stop = first + len(phases)
            for a, b in ((first, min(stop, PHASES)), (0, stop - PHASES)):
                if b > a:
                    yield slice(rows[group], rows[group + 1]), slice(columns[a], columns[b])
