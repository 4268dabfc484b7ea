"""A chunk of a layer's weights, small enough for a core's cache, and a closer look at its candidates.

Candidates are the weights outside a gap around zero: those that are kept or lie just below the clip.  The rest is
only counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_COMPARE = 32  # so many thresholds are compared with all values faster than searched for each
_BLOCK = 1 << 14  # values are compared so many at a time
SPARE = 1 / 64  # by which positions that are kept for the next step begin further in, relative to the gap


class Gap(NamedTuple):
    """Weights strictly between ``top`` <= 0 and ``bottom`` >= 0, of the weights' type, are no candidates."""

    top: Any
    bottom: Any

    def holds(self, x: np.ndarray) -> np.ndarray:
        """Which values lie within; NaN never does."""
        inside = x < self.bottom
        inside &= x > self.top
        return inside

    def narrowed(self) -> Gap:
        number: Any = type(self.bottom)
        return Gap(self.top * number(1 - SPARE), self.bottom * number(1 - SPARE))


class Part:
    """The chunk.

    x: its weights.
    where: the candidates' positions, ascending; None: all are.
    values: the candidates, in the order of x.
    """

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self.where: np.ndarray | None = None
        self.values = x

    def count_signs(self) -> tuple[int, int]:
        """Negative and positive weights."""
        return int(np.count_nonzero(self.x < 0)), int(np.count_nonzero(self.x > 0))

    def take_candidates(self, gap: Gap, known: np.ndarray | None = None) -> None:
        """Finds all weights outside the gap, and perhaps some within; NaN is always among them.

        known: positions, ascending, that are probably nearly enough, such as the last step's; counting tells.
        """
        self.where, self.values = None, self.x
        n = len(self.x)
        if not gap.bottom > gap.top:
            return
        inside = gap.holds(self.x)
        outside = n - np.count_nonzero(inside)
        if 2 * outside > n:
            return
        if known is not None and 0 < 2 * len(known) <= 3 * outside and known[-1] < n:
            values = self.x.take(known)
            missing = outside - (len(known) - np.count_nonzero(gap.holds(values)))
            if 8 * missing <= outside:
                self.where = _completed(known, inside) if missing else known
                self.values = self.x.take(self.where) if missing else values
                return
        self.where = _positions(~gap.narrowed().holds(self.x))
        self.values = self.x.take(self.where)

    def within(self, sign: int, low: Any, high: Any) -> tuple[int, np.ndarray]:
        """How many candidates of one sign, or of all (0), have a magnitude above ``high``; those from low to high."""
        if sign < 0:
            above, reach = self.values < -high, self.values <= -low
        else:
            values = self.values if sign else np.abs(self.values)
            above, reach = values > high, values >= low
        n_above = int(np.count_nonzero(above))
        reach ^= above
        return n_above, np.abs(self.values.take(_positions(reach)))

    def assigned(
        self, thresholds: np.ndarray, kept: Gap, also_pruned: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every candidate 1 + how many thresholds it reaches, or 0 where it is pruned, uint8; the float64 sum, in
        the candidates' order, and int64 count of each of these codes, [thresholds + 2].

        kept: the weights at its ends and beyond.
        also_pruned: which weights of the chunk are pruned all the same.
        """
        codes = _intervals(self.values, thresholds)
        codes += 1
        reached = self.values >= kept.bottom
        reached |= self.values <= kept.top
        codes *= reached.view(np.uint8)
        if also_pruned is not None:
            codes[self.of_candidates(also_pruned)] = 0
        index, n = codes.astype(np.intp), len(thresholds) + 2
        return codes, np.bincount(index, weights=self.values, minlength=n), np.bincount(index, minlength=n)

    def of_candidates(self, x: np.ndarray) -> np.ndarray:
        """What ``x`` has for each of the chunk's weights, for the candidates alone."""
        return x if self.where is None else x.take(self.where)

    @staticmethod
    def put(entries: np.ndarray, where: np.ndarray | None, codes: np.ndarray, out: np.ndarray) -> None:
        """Writes each candidate's entry, by its code, to its place in ``out``, and nothing elsewhere."""
        if where is None:
            entries.take(codes, out=out, mode="clip")
        else:
            out[where] = entries.take(codes)


def _completed(known: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The known positions and all others that are not ``inside``, ascending."""
    others = ~inside
    others[known] = False
    new = others.nonzero()[0]
    return np.insert(known, known.searchsorted(new), new)


def _intervals(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many thresholds each value reaches, uint8."""
    if len(thresholds) > _COMPARE:
        return thresholds.searchsorted(values, side="right").astype(np.uint8)
    counts = np.empty(len(values), np.uint8)
    for start in range(0, len(values), _BLOCK):
        reached = values[start : start + _BLOCK] >= thresholds[:, None]
        np.add.reduce(reached.view(np.uint8), out=counts[start : start + _BLOCK])
    return counts


def _positions(mask: np.ndarray) -> np.ndarray:
    """Where the mask is true.

    NumPy looks for the true ones one by one where they are fewer than a tenth, which is slow unless they are far
    fewer; a tail of true values that is cut off again takes it the other way.
    """
    n, count = len(mask), np.count_nonzero(mask)
    if not n // 32 < count <= n // 10:
        return mask.nonzero()[0]
    return np.concatenate((mask, np.ones(n // 8 + 1, dtype=bool))).nonzero()[0][:count]
