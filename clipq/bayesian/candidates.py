"""The candidates of mlcircus ``bayesopt.m``: an explicit grid, or the first points of the Sobol sequence.

MATLAB's ``sobolset`` gives point i from the binary digits of i (its standard order).  SciPy walks the same sequence in
Gray-code order: the same points in each block of 2^k, otherwise arranged.  The direction numbers are SciPy's (Joe and
Kuo 2008); MATLAB's are from 2003 and may differ from the third dimension on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

Array = npt.NDArray[np.float64]

#: How near a point must lie to a candidate, in the box's widths, to be that candidate: the rounding of a round trip
#: through scaled units or text, far below any grid's spacing.
SAME_POINT = 1e-9


def sobol(count: int, dims: int) -> Array:
    """The first ``count`` points of the unscrambled Sobol sequence in [0, 1)^dims, MATLAB's order; [count, dims]."""
    bits = max(int(count - 1).bit_length(), 0)
    gray_order = qmc.Sobol(dims, scramble=False).random_base2(bits)
    return np.ascontiguousarray(gray_order[_inverse_gray_code(np.arange(count))])


def _inverse_gray_code(code: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The integers k with ``k ^ (k >> 1) == code``."""
    k = code.copy()
    for shift in (1, 2, 4, 8, 16, 32):
        k ^= k >> shift
    return k


class Candidates:
    """The points that may be evaluated next, in user's units, and which of them still remain.

    points: [g, dims], rows in the order of the grid.  remaining: bool [g].
    """

    def __init__(self, points: Array, mins: Array, maxes: Array) -> None:
        self.points = points
        self.remaining = np.ones(len(points), dtype=bool)
        self._widths = np.where(maxes > mins, maxes - mins, 1.0)

    @property
    def left(self) -> Array:
        """The remaining points, [m, dims], in the order of the grid."""
        return self.points[self.remaining]

    def take(self, x: Array) -> bool:
        """Let the remaining candidate at ``x`` [dims] leave; False where there is none.

        Of two equal rows only the first leaves: the original removes the row that it evaluated, not its equals.
        """
        rows = np.flatnonzero(self.remaining)
        distance = np.abs((self.points[rows] - x) / self._widths).max(axis=1)
        if not len(rows) or distance.min() > SAME_POINT:
            return False
        self.remaining[rows[int(np.argmin(distance))]] = False
        return True
