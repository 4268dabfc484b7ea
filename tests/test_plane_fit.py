"""The settings of planes: of weights whose distribution is known, and the regression that they come from."""

import numpy as np
import pytest

from clipq.entropy.plane_coder import PlanePlan
from clipq.entropy.plane_fit import _newton


@pytest.mark.parametrize(("shape", "most"), [((600, 700), 1.095), ((1000, 2048), 1.075)])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_very_uneven_rows_and_columns_cost_little_more_than_their_information(
    seed: int, shape: tuple[int, int], most: float
) -> None:
    """The information is that for somebody who knows each row's and each column's scale, which a file has to tell."""
    rng, largest = np.random.default_rng(seed), 8
    scale = np.outer(rng.gamma(0.5, size=shape[0]), rng.gamma(0.5, size=shape[1]))
    weight = rng.exponential(size=shape) * scale
    clip = np.quantile(weight, 0.8)
    step = (weight.max() - clip) / (3 * (largest - 1))
    size = np.where(weight > clip, np.minimum(1 + (weight - clip) // step, largest - 1), 0).astype(np.uint8)
    kept = size > 0
    is_kept = np.exp(-clip / scale)
    information = -np.log2(np.where(kept, is_kept, 1 - is_kept)).sum()
    further = step / scale[kept]
    stops = np.where(size[kept] < largest - 1, 1 - np.exp(-further), 1.0)
    information += ((size[kept] - 1.0) * further / np.log(2) - np.log2(stops)).sum()
    signs = (rng.random(shape) < 0.5) & kept
    assert PlanePlan(size, signs, 1, largest).bits() < most * (information + kept.sum())


@pytest.mark.parametrize("seed", range(30))
def test_the_regression_explains_decisions_about_as_well_as_what_made_them(seed: int) -> None:
    """Also where features tell nearly everything and some samples stand for many, so that Newton's steps overshoot."""
    rng, n = np.random.default_rng(seed), 4000
    x = np.ones((4, n), np.float32)
    x[:3] = rng.gamma(0.5, size=n) - 0.5, rng.random(n) < 0.1, rng.normal(size=n)
    truth = np.append(6 * rng.normal(size=3), -3)
    ones = rng.random(n) < 1 / (1 + np.exp(-truth @ x))
    weight = 10 ** np.where(ones, rng.uniform(0, 2), rng.uniform(0, 2.5)).astype(np.float32)

    def loss(w: np.ndarray) -> float:
        z = w @ x.astype(float)
        return float(weight @ (np.logaddexp(0, z) - ones * z))

    found, _ = _newton(x, ones, weight, np.array([0.0, 0.0, 0.0, -3.0]))
    assert loss(found) < 1.15 * loss(truth) + 10
