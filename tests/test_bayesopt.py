"""``bayesopt``, its process, its candidates and its trace, against definitions, limits and properties."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm, qmc

from clipq.bayesian.bayesopt_trace import Trace, load_trace, save_trace
from clipq.bayesian.candidates import Candidates, sobol
from clipq.bayesian.conjugate_gradient import minimize
from clipq.bayesian.expected_improvement import (
    expected_improvement,
    feasible,
    first_argmax,
    incumbent,
    probability_of_feasibility,
)
from clipq.bayesian.gaussian_process import fit, nlml, nlml_and_gradient, posterior, starting_hyperparameters
from clipq.bayesopt import BayesoptOptions, Optimizer, bayesopt
from clipq.errors import CheckpointError, SettingError

GRID = np.stack(np.meshgrid(np.linspace(0, 0.99, 34), np.arange(2.0, 9.0), indexing="ij"), axis=-1).reshape(-1, 2)


def objective(x: np.ndarray) -> float:
    """A stand-in for eps - lambda * c over (p, b)."""
    p, b = x
    return float(0.6 * np.exp(-1.1 * b) + 0.5 * p**12 - 0.4 * (1 - (1 - p) * (b + 4) / 32))


def options(**changed: Any) -> BayesoptOptions:
    return BayesoptOptions(**{"dims": 2, "mins": [0, 2], "maxes": [0.99, 8], "grid": GRID, "max_iters": 8} | changed)


def on_a_line(n: int = 5, **changed: Any) -> BayesoptOptions:
    grid = np.linspace(0, 1, n)
    return BayesoptOptions(**{"dims": 1, "mins": 0, "maxes": 1, "grid": grid, "max_iters": 100} | changed)


@st.composite
def observed(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hyperparameters of a well-conditioned process, and observations."""
    n, d = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    unit = st.floats(0, 1, width=32)
    X = draw(arrays(float, (n, d), elements=unit))
    y = draw(arrays(float, n, elements=st.floats(-3, 3, width=32)))
    hyp = draw(arrays(float, d + 3, elements=st.floats(-1.5, 1.5, width=32)))
    return hyp, X, y


def dense(hyp: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The covariance of f, element by element from its definition."""
    ell, sf = np.exp(hyp[1:-2]), np.exp(hyp[-2])
    return np.array([[sf**2 * math.exp(-0.5 * sum(((a - b) / ell) ** 2)) for b in B] for a in A])


class TestGaussianProcess:
    @given(observed())
    def test_likelihood_is_the_normal_density(self, case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        hyp, X, y = case
        K = dense(hyp, X, X) + np.exp(2 * hyp[-1]) * np.eye(len(y))
        expected = -multivariate_normal(np.full(len(y), hyp[0]), K).logpdf(y)
        assert nlml(hyp, X, y) == pytest.approx(expected, rel=1e-9, abs=1e-9)

    @given(observed())
    def test_gradient_is_the_finite_difference(self, case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        hyp, X, y = case
        gradient = nlml_and_gradient(hyp, X, y)[1]
        step = 1e-5 * np.eye(len(hyp))
        differences = [(nlml(hyp + h, X, y) - nlml(hyp - h, X, y)) / 2e-5 for h in step]
        np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-5 * (1 + np.abs(gradient).max()))

    @given(observed(), st.integers(1, 5))
    def test_prediction_is_the_conditional_normal(
        self, case: tuple[np.ndarray, np.ndarray, np.ndarray], g: int
    ) -> None:
        hyp, X, y = case
        Xs = np.linspace(0, 1, g)[:, None] * np.ones(X.shape[1])
        noise = np.exp(2 * hyp[-1])
        gain = np.linalg.solve(dense(hyp, X, X) + noise * np.eye(len(y)), dense(hyp, X, Xs)).T
        mu, s2 = posterior(hyp, X, y, Xs)
        np.testing.assert_allclose(mu, hyp[0] + gain @ (y - hyp[0]), rtol=1e-8, atol=1e-8)
        expected = np.diag(dense(hyp, Xs, Xs)) - np.sum(gain * dense(hyp, Xs, X), axis=1) + noise
        np.testing.assert_allclose(s2, expected, rtol=1e-8, atol=1e-8)

    def test_far_from_the_observations_the_prior_is_predicted(self) -> None:
        hyp = np.array([0.7, math.log(0.01), math.log(3), math.log(0.5)])
        mu, s2 = posterior(hyp, [[0.0]], [5.0], [[1.0]])
        assert (mu[0], s2[0]) == pytest.approx((0.7, 9.25))

    @given(observed())
    @settings(max_examples=30)
    def test_a_fit_is_no_less_likely_than_its_start(self, case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        _, X, y = case
        start = starting_hyperparameters(X.shape[1])
        assert nlml(fit(X, y), X, y) <= nlml(start, X, y)

    def test_a_fit_recovers_the_length_scales_that_made_the_data(self) -> None:
        rng = np.random.default_rng(1)
        X = rng.uniform(size=(80, 2))
        truth = np.array([0.5, math.log(0.2), math.log(1.5), math.log(2.0), math.log(0.05)])
        K = dense(truth, X, X) + 0.05**2 * np.eye(80)
        y = 0.5 + np.linalg.cholesky(K) @ rng.standard_normal(80)
        hyp = fit(X, y)
        assert nlml(hyp, X, y) <= nlml(truth, X, y)
        np.testing.assert_allclose(hyp[[1, -1]], truth[[1, -1]], atol=0.3)

    def test_further_starts_find_an_optimum_that_one_start_misses(self) -> None:
        X = np.linspace(0, 1, 12)[:, None]
        y = 1000 + np.sin(12 * X[:, 0])
        one = nlml(fit(X, y), X, y)
        several = nlml(fit(X, y, restarts=8, rng=np.random.default_rng(0)), X, y)
        assert several < one - 1

    @pytest.mark.parametrize("y", [[0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [1e12, -1e12, 3e11], [1e-12, 2e-12, 0.0]])
    @pytest.mark.parametrize("X", [[[0.0], [0.5], [1.0]], [[0.3], [0.3], [0.3]], [[0.0], [1e-12], [1.0]]])
    def test_degenerate_observations_give_finite_predictions(self, X: list, y: list) -> None:
        mu, s2 = posterior(fit(X, y), X, y, [[0.0], [0.3], [0.9]])
        assert np.isfinite(mu).all()
        assert np.isfinite(s2).all()
        assert (s2 >= 0).all()

    def test_a_singular_covariance_is_undefined_as_likelihood_and_jittered_as_prediction(self) -> None:
        hyp, X, y = np.array([0.0, 0.0, 0.0, -400.0]), [[0.5], [0.5], [0.5]], [1.0, 1.0, 1.0]
        assert math.isnan(nlml(hyp, X, y))
        mu, s2 = posterior(hyp, X, y, [[0.5]])
        assert (mu[0], s2[0]) == pytest.approx((1.0, 0.0), abs=1e-6)

    @pytest.mark.parametrize(
        ("hyp", "X", "y", "message"),
        [
            ([0, 0, 0, 0], [[0.0], [math.nan]], [1, 2], "X: expected a finite matrix"),
            ([0, 0, 0, 0], [[0.0], [1.0]], [1], "y: expected 2"),
            ([0, 0, 0, 0], [[0.0]], [math.inf], "y: expected 1"),
            ([0, 0, 0], [[0.0]], [1], "hyp: expected 4 finite numbers"),
            ([0, 0, 400, 0], [[0.0]], [1], "covariance that is finite"),
            ([0, 0, 0, 400], [[0.0]], [1], "covariance that is finite"),
            ([0, -400, 0, 0], [[0.0]], [1], "covariance that is finite"),
        ],
    )
    def test_what_it_cannot_use_is_named(self, hyp: list, X: list, y: list, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            posterior(hyp, X, y, [[0.0]])

    def test_points_of_another_dimension_are_named(self) -> None:
        for Xs in ([[0.0, 1.0]], [[]]):
            with pytest.raises(SettingError, match=f"Xs: expected 1 columns, got {len(Xs[0])}"):
                posterior([0, 0, 0, 0], [[0.0]], [1], Xs)


class TestConjugateGradient:
    def test_a_quadratic_is_minimised_within_the_budget(self) -> None:
        scales, centre = np.array([1.0, 10.0, 100.0]), np.array([1.0, -2.0, 3.0])
        x, value = minimize(lambda x: (0.5 * scales @ (x - centre) ** 2, scales * (x - centre)), np.zeros(3))
        np.testing.assert_allclose(x, centre, atol=1e-6)
        assert value < 1e-10

    @given(st.integers(1, 60))
    def test_the_budget_holds_and_the_value_belongs_to_the_point(self, budget: int) -> None:
        calls = 0

        def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal calls
            calls += 1
            slope = 200 * (x[1] - x[0] ** 2)
            return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, np.array([-2 * x[0] * slope - 2 + 2 * x[0], slope])

        start = np.array([-1.2, 1.0])
        x, value = minimize(rosenbrock, start, budget)
        assert calls <= budget
        assert value == rosenbrock(x)[0] <= rosenbrock(start)[0]

    def test_a_region_that_is_not_finite_is_kept_away_from(self) -> None:
        def barrier(x: np.ndarray) -> tuple[float, np.ndarray]:
            if x[0] <= 0:
                return math.nan, np.full(1, math.nan)
            return float(x[0] - 0.01 * np.log(x[0])), 1 - 0.01 / x

        _, value = minimize(barrier, np.array([3.0]))
        assert value == pytest.approx(barrier(np.array([0.01]))[0], abs=1e-3)

    def test_without_a_minimum_it_gives_up_after_two_line_searches_of_twenty(self) -> None:
        points: list[float] = []

        def falling(x: np.ndarray) -> tuple[float, np.ndarray]:
            points.append(float(x[0]))
            return -float(x[0]), np.full(1, -1.0)

        x, value = minimize(falling, np.zeros(1), max_evaluations=100)
        assert len(points) == 1 + 20 + 20
        assert (x[0], value) == (max(points), -max(points))

    def test_a_start_that_is_not_finite_or_flat_is_returned(self) -> None:
        for value, slope in ((math.inf, 0.0), (1.0, math.nan), (1.0, 0.0)):
            x, _ = minimize(lambda x, v=value, g=slope: (v, np.full(2, g)), np.ones(2))  # type: ignore[misc]
            assert x.tolist() == [1.0, 1.0]


class TestExpectedImprovement:
    @given(st.floats(-3, 3), st.floats(0.05, 3), st.floats(-3, 3))
    @settings(max_examples=50)
    def test_it_is_the_expectation_of_the_improvement(self, mu: float, s: float, best: float) -> None:
        expected = quad(lambda y: (best - y) * norm.pdf(y, mu, s), mu - 12 * s, best)[0] if best > mu - 12 * s else 0
        assert expected_improvement([mu], [s * s], best)[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)

    @given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(-1e3, 1e3))
    def test_it_is_finite_and_at_least_the_certain_gain(self, mu: float, s2: float, best: float) -> None:
        ei = expected_improvement([mu], [s2], best)[0]
        assert np.isfinite(ei)
        assert ei >= max(best - mu, 0) * (1 - 1e-12)

    @pytest.mark.filterwarnings("error")
    def test_without_variance_the_gain_is_certain(self) -> None:
        assert expected_improvement([1.0, 2.0, 3.0], [0.0, 0.0, 1e-320], 2.5).tolist() == [1.5, 0.5, 0.0]
        assert probability_of_feasibility([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 2.0).tolist() == [1.0, 1.0, 0.0]

    def test_feasibility_is_the_normal_distribution_function(self) -> None:
        np.testing.assert_allclose(
            probability_of_feasibility([0.0, 1.0], [1.0, 4.0], 1.0), norm.cdf([1.0, 0.0]), rtol=1e-14
        )

    def test_the_incumbent_is_the_feasible_minimum_or_far_above_all(self) -> None:
        allowed = feasible([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]], [1.0, 1.0])
        assert allowed.tolist() == [True, False, True]
        assert incumbent([3.0, 1.0, 2.0]) == 1.0
        assert incumbent([3.0, 1.0, 2.0], allowed) == 2.0
        assert incumbent([3.0, 1.0, 2.0], [False] * 3) == 1002.0

    def test_the_argmax_is_the_first_and_passes_over_nan(self) -> None:
        assert first_argmax([math.nan, 1.0, 2.0, 2.0]) == 2
        assert first_argmax([0.0, 0.0]) == 0
        assert first_argmax([math.nan, math.nan]) == 0
        assert first_argmax([math.nan, -math.inf, -1.0]) == 2


class TestCandidates:
    def test_sobol_points_come_in_the_order_of_their_index(self) -> None:
        expected = [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8, 1 / 16, 9 / 16]
        assert sobol(10, 2)[:, 0].tolist() == expected

    @given(st.integers(1, 200), st.integers(1, 5))
    def test_a_sobol_sequence_is_a_beginning_of_the_longer_one(self, count: int, dims: int) -> None:
        assert np.array_equal(sobol(count, dims), sobol(256, dims)[:count])

    def test_a_block_of_sobol_points_is_scipys_in_another_order(self) -> None:
        other = qmc.Sobol(3, scramble=False).random(64)
        ours = sobol(64, 3)
        assert {tuple(x) for x in ours} == {tuple(x) for x in other}
        assert not np.array_equal(ours, other)

    def test_of_equal_candidates_one_leaves_at_a_time(self) -> None:
        candidates = Candidates(np.array([[0.5], [0.7], [0.5]]), np.zeros(1), np.ones(1))
        assert candidates.take(np.array([0.5]))
        assert candidates.remaining.tolist() == [False, True, True]
        assert candidates.take(np.array([0.5 + 1e-14]))
        assert not candidates.take(np.array([0.5]))
        assert not candidates.take(np.array([0.71]))
        assert candidates.left.tolist() == [[0.7]]

    def test_a_constant_parameter_tells_no_candidates_apart(self) -> None:
        candidates = Candidates(np.array([[0.0, 4.0], [0.5, 4.0], [1.0, 4.0]]), np.array([0.0, 4]), np.array([1.0, 4]))
        assert candidates.take(np.array([0.5, 4.0]))
        assert not candidates.take(np.array([0.5, 4.0]))
        assert candidates.left.tolist() == [[0.0, 4.0], [1.0, 4.0]]


class TestOptimizer:
    def test_it_minimises(self) -> None:
        found = bayesopt(objective, options(max_iters=25))
        values = np.array([objective(x) for x in GRID])
        assert found.minvalue - values.min() <= 0.01 * (values.max() - values.min())
        assert found.minvalue == objective(found.minsample) == found.botrace.values.min()

    def test_every_candidate_is_asked_for_once_and_then_none(self) -> None:
        optimizer, asked = Optimizer(on_a_line(5)), []
        while not optimizer.exhausted:
            asked.append(optimizer.ask().item())
            optimizer.tell(asked[-1], (asked[-1] - 0.3) ** 2)
        assert sorted(asked) == [0, 0.25, 0.5, 0.75, 1]
        with pytest.raises(SettingError, match="all 5 are evaluated"):
            optimizer.ask()

    @pytest.mark.parametrize("seed", range(5))
    def test_the_first_two_points_differ_and_follow_the_seed(self, seed: int) -> None:
        first = bayesopt(objective, options(max_iters=2, seed=seed)).botrace.samples
        assert first[0].tolist() != first[1].tolist()
        assert np.array_equal(first, bayesopt(objective, options(max_iters=2, seed=seed)).botrace.samples)
        assert not np.array_equal(first, bayesopt(objective, options(max_iters=2, seed=seed + 1)).botrace.samples)

    @pytest.mark.parametrize("restarts", [0, 2])
    def test_replayed_evaluations_continue_the_same_search(self, restarts: int) -> None:
        opt = options(max_iters=9, restarts=restarts, seed=3)
        whole = bayesopt(objective, opt).botrace
        for told in range(9):
            again = Optimizer(opt)
            for x, value in zip(whole.samples[:told], whole.values[:told], strict=True):
                again.tell(x.tolist(), float(value))
            assert np.array_equal(again.ask(), whole.samples[told])

    def test_asking_twice_changes_nothing(self) -> None:
        optimizer = Optimizer(options())
        for _ in range(4):
            x = optimizer.ask()
            x += 0.0  # what a caller does to the point is its own affair
            assert np.array_equal(optimizer.ask(), x)
            optimizer.ask()[:] = -1
            assert np.array_equal(optimizer.ask(), x)
            optimizer.tell(x, objective(x))

    def test_points_told_out_of_turn_count_and_leave_the_grid(self, capsys: pytest.CaptureFixture[str]) -> None:
        optimizer = Optimizer(on_a_line(4))
        for x in (1.0, 0.4, 0.4, 0.0):  # 0.4 is no candidate, and repeated
            optimizer.tell([x], x)
        assert len(optimizer) == 4
        assert optimizer.trace.samples.ravel().tolist() == [1.0, 0.4, 0.4, 0.0]
        asked = []
        while not optimizer.exhausted:
            asked.append(optimizer.ask().item())
            optimizer.tell(asked[-1], asked[-1])
        assert sorted(asked) == pytest.approx([1 / 3, 2 / 3])
        assert capsys.readouterr().out == ""

    def test_best_is_the_first_of_equal_values(self) -> None:
        optimizer = Optimizer(on_a_line(5))
        assert optimizer.best is None
        for x, value in ((0.25, 1.0), (0.5, -2.0), (0.75, -2.0)):
            optimizer.tell(x, value)
        assert optimizer.best is not None
        assert (optimizer.best[0].tolist(), optimizer.best[1]) == ([0.5], -2.0)

    @pytest.mark.parametrize(
        "value", [lambda x: 0.0, lambda x: 7.5, lambda x: float(x.sum() > 1), lambda x: 1e9 * x.sum(), lambda x: 1e-15]
    )
    @pytest.mark.parametrize("dims", [1, 3])
    def test_degenerate_values_lead_through_the_whole_grid(self, value: Any, dims: int) -> None:
        axes = np.meshgrid(*[np.linspace(0, 1, 12 if dims == 1 else 3)] * dims)
        grid = np.stack(axes, axis=-1).reshape(-1, dims)
        opt = BayesoptOptions(dims=dims, mins=np.zeros(dims), maxes=np.ones(dims), grid=grid, max_iters=100)
        trace = bayesopt(value, opt).botrace
        assert sorted(map(tuple, trace.samples)) == sorted(map(tuple, grid))

    def test_one_candidate_is_enough(self) -> None:
        assert bayesopt(lambda x: 3.0, on_a_line(1)).minvalue == 3.0

    def test_a_constant_parameter_is_allowed(self) -> None:
        grid = np.stack([np.linspace(0, 1, 6), np.full(6, 4.0)], axis=1)
        opt = BayesoptOptions(dims=2, mins=[0, 4], maxes=[1, 4], grid=grid)
        assert bayesopt(lambda x: (x[0] - 0.6) ** 2, opt).minsample.tolist() == pytest.approx([0.6, 4.0])

    def test_nearly_equal_candidates_do_not_stop_it(self) -> None:
        grid = np.concatenate([0.5 + 1e-13 * np.arange(4), [0.0, 1.0]])
        trace = bayesopt(lambda x: x.item(), on_a_line(grid=grid)).botrace
        assert len(trace.values) == 6

    @pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5x", [1.0, 2.0]])
    def test_a_value_that_is_no_finite_number_is_refused(self, value: Any) -> None:
        with pytest.raises(SettingError, match=r"value at \[.*\]: expected 1 finite number"):
            Optimizer(options()).tell(GRID[0], value)

    @pytest.mark.parametrize("x", [[0.5], [0.5, 9.0], [math.nan, 3.0], [0.5, 3.0, 1.0]])
    def test_a_point_outside_the_box_is_refused(self, x: list) -> None:
        optimizer = Optimizer(options())
        with pytest.raises(SettingError, match="point: expected 2 numbers between"):
            optimizer.tell(x, 1.0)
        assert len(optimizer) == 0

    def test_a_bound_missed_by_rounding_is_the_bound(self) -> None:
        optimizer = Optimizer(options())
        optimizer.tell([np.nextafter(0.99, 1), 8.0], 1.0)
        assert optimizer.trace.samples.tolist() == [[0.99, 8.0]]


class TestConstraints:
    def test_the_best_is_feasible_and_the_search_finds_it(self) -> None:
        def constrained(x: np.ndarray) -> tuple[float, list[float]]:
            return x.item(), [0.5 - x.item(), x.item() - 0.9]

        opt = on_a_line(41, do_cbo=True, lt_const=[0, 0], max_iters=20)
        found = bayesopt(constrained, opt)
        assert found.minsample.item() == pytest.approx(0.5)
        assert found.botrace.con_values.shape == (20, 2)

    def test_without_a_feasible_point_nothing_is_returned_but_the_trace(self) -> None:
        found = bayesopt(lambda x: (x.item(), 1.0), on_a_line(6, do_cbo=True, lt_const=0.0))
        assert found.minsample.size == 0
        assert math.isnan(found.minvalue)
        assert len(found.botrace.values) == 6

    @pytest.mark.parametrize("result", [1.0, (1.0,), (1.0, [1.0, 2.0]), (1.0, math.nan)])
    def test_a_result_without_its_constraints_is_refused(self, result: Any) -> None:
        with pytest.raises(SettingError, match="constraint"):
            bayesopt(lambda x: result, on_a_line(do_cbo=True, lt_const=[0.0]))


class TestOptions:
    def test_sobol_candidates_are_filtered_and_evaluated_max_iters_times(self) -> None:
        seen = []

        def disc(points: np.ndarray) -> np.ndarray:
            return points[(points**2).sum(axis=1) <= 1]

        opt = BayesoptOptions(
            dims=2, mins=[-1, -1], maxes=[1, 1], grid_size=200, max_iters=15, filter_func=disc
        )  # fmt: skip
        trace = bayesopt(lambda x: seen.append(x) or float(x @ x), opt).botrace
        assert len(seen) == len(trace.values) == 15
        assert (np.square(trace.samples).sum(axis=1) <= 1).all()
        assert np.array_equal(seen, trace.samples)
        assert (trace.times >= 0).all()

    def test_initial_points_come_first(self) -> None:
        trace = bayesopt(objective, options(initial_points=[[0.5, 2.5], [0.1, 8]], max_iters=5)).botrace
        assert trace.samples[:2].tolist() == [[0.5, 2.5], [0.1, 8.0]]
        random = bayesopt(objective, options(max_iters=2)).botrace.samples
        assert np.array_equal(trace.samples[2:4], random)

    def test_the_originals_struct_is_understood(self) -> None:
        struct = {
            "dims": 1, "mins": 0, "maxes": 1, "grid_size": 50, "max_iters": 6, "save_trace": False,
            "meanfunc": ["meanConst"], "covfunc": ["@covSEard"], "parallel_jobs": 1, "parallel_mc_iters": 5,
            "optimize_ei": 0, "ei_burnin": 5, "do_cbo": 0,
        }  # fmt: skip
        assert len(bayesopt(lambda x: x.item(), struct).botrace.values) == 6

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"parallel_jobs": 4}, "parallel_jobs: expected 1, got 4: .*one at a time"),
            ({"optimize_ei": True}, "optimize_ei: expected False"),
            ({"covfunc": ["@covMaternard"]}, "covfunc: expected 'covSEard'"),
            ({"max_iter": 5}, "max_iter: unknown"),
        ],
    )
    def test_what_is_not_ported_is_refused(self, changed: dict, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            bayesopt(objective, {"dims": 1, "mins": 0, "maxes": 1} | changed)

    def test_required_options_are_named(self) -> None:
        with pytest.raises(SettingError, match="missing: mins, maxes"):
            BayesoptOptions.from_struct({"dims": 2})

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"dims": 0}, "dims: expected a whole number >= 1"),
            ({"max_iters": 2.5}, "max_iters: expected a whole number"),
            ({"seed": -1}, "seed"),
            ({"mins": [0, 2, 3]}, "mins: expected 2 finite numbers"),
            ({"mins": [0, 9]}, "mins: expected <= maxes"),
            ({"maxes": [0.99, math.inf]}, "maxes: expected 2 finite"),
            ({"grid": [[0.5, 9.0]]}, r"grid: expected rows between .* in row 0"),
            (
                {"grid": [[0.5, 3.0], [0.5, 9.0], [0.5, 10.0]]},
                r"grid: expected rows between .* got \[0.5, 9.0\] in row 1",
            ),
            ({"grid": np.empty((0, 2))}, "grid: expected"),
            ({"grid": [[0.5, math.nan]]}, "grid: expected rows between"),
            ({"initial_points": [[0.5]]}, "initial_points: expected"),
            ({"filter_func": lambda x: x}, "filter_func: expected no explicit grid"),
            ({"lt_const": [0.0]}, "lt_const: expected none with do_cbo=False"),
            ({"do_cbo": True}, "lt_const: expected one bound or more"),
            ({"do_cbo": True, "lt_const": [math.nan]}, "lt_const: expected numbers above -Inf"),
        ],
    )
    def test_values_out_of_range_are_named(self, changed: dict, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            options(**changed)

    def test_a_filter_that_keeps_nothing_is_refused(self) -> None:
        with pytest.raises(SettingError, match="filter_func"):
            bayesopt(objective, options(grid=None, grid_size=8, filter_func=lambda points: points[:0]))


class TestTrace:
    @pytest.mark.parametrize("killed_at", [1, 2, 3, 6])
    def test_a_killed_run_resumes_to_the_same_trace(self, tmp_path: Path, killed_at: int) -> None:
        whole = bayesopt(objective, options()).botrace
        opt = options(save_trace=True, resume_trace=True, trace_file=tmp_path / "trace.mat")
        calls = 0

        def killed(x: np.ndarray) -> float:
            nonlocal calls
            calls += 1
            if calls > killed_at:
                raise KeyboardInterrupt
            return objective(x)

        with pytest.raises(KeyboardInterrupt):
            bayesopt(killed, opt)
        resumed = bayesopt(objective, opt).botrace
        assert np.array_equal(resumed.samples, whole.samples)
        assert np.array_equal(resumed.values, whole.values)
        assert [p.name for p in tmp_path.iterdir()] == ["trace.mat"]

    @given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2**32 - 1))
    @settings(max_examples=20)
    def test_what_is_saved_is_loaded(
        self, tmp_path_factory: pytest.TempPathFactory, n: int, dims: int, k: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        trace = Trace(rng.normal(size=(n, dims)), rng.normal(size=n), rng.normal(size=n), rng.normal(size=(n, k)))
        path = tmp_path_factory.mktemp("trace") / "trace.mat"
        save_trace(path, trace)
        again = load_trace(path, dims, k)
        for name in ("samples", "values", "times", "con_values"):
            assert np.array_equal(getattr(again, name), getattr(trace, name))

    def test_the_originals_trace_is_resumed(self, tmp_path: Path) -> None:
        """Its ``times`` lack the first evaluations."""
        path = tmp_path / "trace.mat"
        samples = GRID[[3, 40, 77]]
        botrace = {"samples": samples, "values": [[1.0], [2.0], [0.5]], "times": [[0.25]]}
        scipy.io.savemat(path, {"botrace": botrace})
        found = bayesopt(objective, options(resume_trace=True, trace_file=path, max_iters=4)).botrace
        assert np.array_equal(found.samples[:3], samples)
        assert found.times[2] == 0.25
        assert np.isnan(found.times[:2]).all()

    @pytest.mark.parametrize("name", ["values", "times"])
    def test_a_matrix_in_place_of_a_vector_is_refused(self, tmp_path: Path, name: str) -> None:
        botrace = {"samples": GRID[:4], "values": np.ones((4, 1)), "times": np.ones((1, 4)), name: np.ones((2, 2))}
        scipy.io.savemat(tmp_path / "trace.mat", {"botrace": botrace})
        with pytest.raises(CheckpointError, match=rf"botrace\.{name}: expected a row or a column, got shape \(2, 2\)"):
            load_trace(tmp_path / "trace.mat", GRID.shape[1])

    def test_a_trace_in_another_format_of_octaves_is_named(self, tmp_path: Path) -> None:
        """As its ``save`` without an option makes it."""
        (tmp_path / "trace.mat").write_text("# Created by Octave 8.4.0\n# name: botrace\n")
        with pytest.raises(CheckpointError, match="expected a trace in the format of save -v7, got Octave's text"):
            load_trace(tmp_path / "trace.mat", GRID.shape[1])

    def test_a_longer_trace_than_max_iters_is_returned_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.mat"
        bayesopt(objective, options(save_trace=True, trace_file=path, max_iters=5))
        again = bayesopt(objective, options(resume_trace=True, trace_file=path, max_iters=3))
        assert len(again.botrace.values) == 5

    def test_a_missing_trace_starts_afresh(self, tmp_path: Path) -> None:
        found = bayesopt(objective, options(resume_trace=True, trace_file=tmp_path / "none.mat", max_iters=2))
        assert len(found.botrace.values) == 2

    def test_a_folder_that_is_not_there_is_refused_before_any_evaluation(self, tmp_path: Path) -> None:
        def never(x: np.ndarray) -> float:
            raise AssertionError("evaluated")

        with pytest.raises(SettingError, match="trace_file: expected a file in an existing folder"):
            bayesopt(never, options(save_trace=True, trace_file=tmp_path / "none" / "trace.mat"))

    def test_every_damage_is_a_checkpoint_error_that_names_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "trace.mat"
        opt = options(save_trace=True, resume_trace=True, trace_file=path, max_iters=4)
        bayesopt(objective, opt)
        whole = path.read_bytes()
        for content in (b"", b"not a trace", whole[: len(whole) // 2], whole[:200], whole[:130] + b"\xff" * 300):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=r"trace\.mat"):
                bayesopt(objective, opt)

    @pytest.mark.parametrize(
        "botrace",
        [
            {"samples": [[0.5]], "values": [[1.0]], "times": [[0.0]]},
            {"samples": [[0.5, 3.0]], "values": [[1.0], [2.0]], "times": [[0.0]]},
            {"samples": [[0.5, 3.0]], "values": [[1.0]], "times": [[0.0, 0.0]]},
            {"samples": [[0.5, 30.0]], "values": [[1.0]], "times": [[0.0]]},
            {"samples": [[0.5, 3.0]], "values": [[math.nan]], "times": [[0.0]]},
            {"samples": [[0.5, 3.0]], "values": "one", "times": [[0.0]]},
            {"samples": [[0.5, 3.0]], "values": [[1.0]]},
            [[1.0]],
        ],
    )
    def test_another_problems_trace_is_refused(self, tmp_path: Path, botrace: Any) -> None:
        path = tmp_path / "trace.mat"
        scipy.io.savemat(path, {"botrace": botrace})
        with pytest.raises(CheckpointError, match=r"trace\.mat"):
            bayesopt(objective, options(resume_trace=True, trace_file=path))
