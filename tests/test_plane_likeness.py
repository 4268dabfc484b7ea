import numpy as np
import pytest

from clipq import plane_likeness
from clipq.plane_likeness import UNIT, Likeness
from clipq.plane_order import PHASES, Grid, slab_items


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (3, 50), (1, 9), (33, 16)])
@pytest.mark.parametrize("together", [1, 2, 8])
@pytest.mark.parametrize("whole", [True, False])
def test_what_similar_rows_say(
    shape: tuple[int, int], together: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X X' X of the document, whether by blocks or as a whole, phase by phase or several together."""
    monkeypatch.setattr(plane_likeness, "_WHOLE", 1 << 16 if whole else 0)
    rng = np.random.default_rng(0)
    every = slab_items(Grid(*shape, (), shape[0], together), shape[0])
    items = every.where(rng.random(every.at.size) < 0.4)
    ones = rng.random(items.at.size) < 0.5
    likeness, x = Likeness(*shape), np.zeros(shape, np.int64)
    start = 0
    for first in range(0, PHASES, together):
        stop = int(items.ends[first + together - 1])
        row, column, phases = items.row[start:stop], items.column[start:stop], range(first, first + together)
        known = max(int(np.abs(x).sum()), 1)
        expected = (UNIT * shape[0] * (x @ x.T @ x)[row, column]) // known
        assert np.array_equal(likeness.feature(row, column, phases), expected)
        likeness.learn(row, column, phases, ones[start:stop])
        x[row, column] = np.where(ones[start:stop], 1, -1)
        start = stop
