import numpy as np
import pytest

from clipq.entropy import plane_likeness
from clipq.entropy.plane_likeness import LARGEST, UNIT, Likeness
from clipq.entropy.plane_order import PACES, PHASES, Grid, slab_items


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (3, 50), (1, 9), (33, 16)])
@pytest.mark.parametrize(("together", "pause"), [*PACES, (8, 8), (1, 16)])
@pytest.mark.parametrize("whole", [True, False])
def test_what_similar_rows_say(
    shape: tuple[int, int], together: int, pause: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Y Y' X (or X Y' Y) of the document, whether by blocks or as a whole, phase by phase or several together."""
    monkeypatch.setattr(plane_likeness, "_WHOLE", 1 << 16 if whole else 0)
    rng = np.random.default_rng(0)
    every = slab_items(Grid(*shape, 1, (), shape[0], 0), shape[0])
    items = every.where(rng.random(every.at.size) < 0.4)
    ones = rng.random(items.at.size) < 0.5
    likeness = Likeness(*shape, pause, items.row, items.column)
    x, y = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    start = 0
    for first in range(0, PHASES, together):
        stop = int(items.ends[first + together - 1])
        row, column, phases = items.row[start:stop], items.column[start:stop], range(first, first + together)
        known = max(int(np.abs(x).sum()), 1)
        y = x.copy() if first % pause == 0 else y
        said = y @ y.T @ x if shape[0] <= shape[1] else x @ y.T @ y
        expected = np.clip((UNIT * shape[0] * said[row, column]) // known, -LARGEST, LARGEST)
        assert np.array_equal(likeness.feature(row, column, phases), expected)
        likeness.learn(row, column, phases.stop, ones[start:stop])
        x[row, column] = np.where(ones[start:stop], 1, -1)
        start = stop


def test_no_product_with_a_weight_is_too_large() -> None:
    """Many rows that agree wholly."""
    n = 4096
    likeness = Likeness(n, 3, 1, np.repeat(np.arange(n), 3), np.tile(np.arange(3), n))
    row, column = np.divmod(np.arange(2 * n), 2)
    likeness.learn(row, column, 1, np.ones(2 * n, np.bool_))
    likeness.learn(row[: n // 2], np.full(n // 2, 2), 2, np.ones(n // 2, np.bool_))
    assert likeness.feature(row[n:], np.full(n, 2), range(2, 3)).max() == LARGEST
