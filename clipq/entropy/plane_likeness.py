"""How a sign is expected from the rows that are like its own: the feature ``likeness`` of docs/format.md.

X holds the decisions known so far, 1 for a one, -1 for a zero, 0 for what is not known.  Rows are alike as X X' says,
and (X X' X)[i, j] is what all rows say of column j, each as far as it is like row i.  It strengthens what many rows
and columns have in common, and all in it are integers that float32 holds exactly, as no sum of terms exceeds the
number of decisions in a slab.  X X' takes the longest to compute, and may be of an earlier X.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipq.entropy.plane_order import COLUMN_STEP, PHASES, ROW_STEP, groups

UNIT = 256
#: The feature's limit, so that its product with any weight is an int32.
LARGEST = (1 << 15) - 1
#: Matrices of fewer weights than this are multiplied whole rather than by blocks of a phase.
_WHOLE = 1 << 16
#: Up to so many phases rows are compared by blocks.
_EARLY = 4


class Likeness:
    """The known decisions of a plane in a slab of ``rows`` by ``columns``, which decides at ``row``, ``column``.

    pause: so many phases are between two times at which rows are compared.
    """

    def __init__(self, rows: int, columns: int, pause: int, row: np.ndarray, column: np.ndarray) -> None:
        self._rows, self._known, self._pause, self._compared = rows, 0, pause, 0
        self._flipped = columns < rows  # X X' X = (X' X X')', by the smaller of X X' and X' X
        both = _Axis(row, rows, ROW_STEP), _Axis(column, columns, COLUMN_STEP)
        self._first, self._second = both[::-1] if self._flipped else both
        height, width = self._first.size, self._second.size
        self._whole = height * width < _WHOLE
        self._x = np.zeros((height, width), np.float32)
        self._alike = np.zeros((height, height), np.float32)
        self._said = np.zeros((height, width), np.float32)

    def feature(self, row: np.ndarray, column: np.ndarray, phases: range) -> np.ndarray:
        """The feature (int32) of places that all belong to these phases, after all decisions of those before."""
        if not self._compared:
            return np.zeros(row.size, np.int32)
        if self._whole:
            np.matmul(self._alike, self._x, out=self._said)
        else:
            for some, (known, *rest), others in self._blocks(phases):
                said = self._alike[some, known] @ self._x[known, others]
                for also in rest:
                    said += self._alike[some, also] @ self._x[also, others]
                self._said[some, others] = said
        said = self._said.reshape(-1).take(self._at(row, column)).astype(np.int64)
        said *= UNIT * self._rows
        said //= self._known
        return np.clip(said, -LARGEST, LARGEST).astype(np.int32)

    def learn(self, row: np.ndarray, column: np.ndarray, stop: int, ones: np.ndarray) -> None:
        """The decisions at these places, all up to phase ``stop`` that are not known yet."""
        self._x.reshape(-1)[self._at(row, column)] = (ones.view(np.int8) << 1) - np.int8(1)
        self._known += row.size
        if stop // self._pause > self._compared and stop < PHASES:
            self._compared = stop // self._pause
            self._compare(stop)

    def _compare(self, stop: int) -> None:
        """X X' of the decisions up to phase ``stop``: at first only groups near each other have columns in common."""
        if self._whole or stop > _EARLY:
            np.matmul(self._x, self._x.T, out=self._alike)
            return
        for group in range(PHASES):
            some, parts = slice(*self._first.bounds[group : group + 2]), self._second.between(-group, stop - group)
            for near in self._first.between(group - stop + 1, group + stop):
                self._alike[some, near] = sum(self._x[some, known] @ self._x[near, known].T for known in parts)

    def _at(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        first, second = (column, row) if self._flipped else (row, column)
        at: np.ndarray = self._first.place.take(first) * self._second.size
        at += self._second.place.take(second)
        return at

    def _blocks(self, phases: range) -> Iterator[tuple[slice, list[slice], slice]]:
        """The blocks of which these phases consist, and between them the rows of which something may be known there.

        In a column of group c those of groups -c .. -c + phases.start - 1 are known, modulo PHASES.
        """
        for group in range(PHASES):
            known = self._first.between(group - min(phases.stop - 1, PHASES), group)
            for others in self._second.between(phases.start - group, phases.stop - group):
                yield slice(*self._first.bounds[group : group + 2]), known, others


class _Axis:
    """The rows (or columns) of ``n`` that have any decision, sorted by their groups.

    place: where each is, int64 [n].  bounds: where each group starts, and where the last one ends.
    """

    def __init__(self, of_decisions: np.ndarray, n: int, step: int) -> None:
        some = np.bincount(of_decisions, minlength=n).nonzero()[0]
        of = groups(n, step)[some]
        order = np.argsort(of, kind="stable")
        self.size = some.size
        self.place = np.zeros(n, np.int64)
        self.place[some[order]] = np.arange(some.size)
        self.bounds: list[int] = np.searchsorted(of[order], np.arange(PHASES + 1)).tolist()

    def between(self, first: int, stop: int) -> list[slice]:
        """The places of groups ``first`` to ``stop`` - 1, modulo PHASES, of which there are at most PHASES."""
        start = first % PHASES
        parts = (start, min(start + stop - first, PHASES)), (0, start + stop - first - PHASES)
        return [slice(self.bounds[a], self.bounds[b]) for a, b in parts if b > a]
