"""``bayesopt(F, opt)``: mlcircus ``bayesopt.m``, with which CLIP-Q's release chose each layer's (p, b).

Bayesian optimisation with inequality constraints (Gardner et al., ICML 2014), **minimising**, over a finite set of
candidates.  The first evaluations are the initial points and two random candidates; every later one fits a Gaussian
process from scratch and takes the remaining candidate of largest expected improvement (``clipq.bayesian``).
``Optimizer`` is the same one step at a time, for a caller that evaluates F itself.

Deviations from the original:

- its two random indices can be 0, an error, or twice the same; here two different candidates are drawn;
- it counts ``max_iters`` from the third evaluation on and can exceed it with ``initial_points``; here it is the most
  evaluations in all;
- it runs into an error when no candidate remains; here the search ends with the evaluations made;
- initial points and a resumed trace's points that are candidates leave the grid, where it can evaluate them again;
- it saves the trace from the third evaluation on and does not time those before; here each is timed and saved;
- a candidate is passed to F as it stands in ``grid``; the original's goes through the unit box and back;
- a covariance matrix that is singular in float64 is jittered, where it predicts NaN and takes the first candidate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clipq.bayesian.bayesopt_options import BayesoptOptions
from clipq.bayesian.bayesopt_trace import Trace, load_trace, save_trace
from clipq.bayesian.candidates import SAME_POINT
from clipq.bayesian.expected_improvement import feasible
from clipq.bayesian.grid_optimization import GridOptimization
from clipq.errors import CheckpointError, SettingError

__all__ = ["BayesoptOptions", "BayesoptResult", "Optimizer", "Trace", "bayesopt"]

Array = npt.NDArray[np.float64]

#: Random candidates evaluated before there is a process to ask.
RANDOM_START = 2


class BayesoptResult(NamedTuple):
    """What the original returns.

    minsample: [dims], user's units, and minvalue: the least observed value (the first of equals), of the feasible
        evaluations; an empty array and NaN where none is feasible.
    botrace: every evaluation.
    """

    minsample: Array
    minvalue: float
    botrace: Trace


class Optimizer:
    """The search of ``bayesopt`` by ask and tell.

    The next point depends on the options and on what was told so far, in its order, and on nothing else: telling a
    new optimizer the logged evaluations of an old one continues that search exactly.

    Raises:
        SettingError: see ``BayesoptOptions``; also every point or value told that it cannot use.
    """

    def __init__(self, opt: BayesoptOptions) -> None:
        self.opt = opt
        self._candidates = opt.candidates()
        self._package = GridOptimization(opt, self._candidates)
        self._first = self._first_points()
        self._times: list[float] = []
        self._next: Array | None = None

    def _first_points(self) -> list[Array]:
        """Initial points, then random candidates; drawn now, so that replaying evaluations cannot change them."""
        points = self._candidates.points
        rng = np.random.default_rng(self.opt.seed)
        rows = rng.choice(len(points), min(RANDOM_START, len(points)), replace=False)
        return [*(self.opt.initial_points if self.opt.initial_points is not None else ()), *points[rows]]

    def __len__(self) -> int:
        """How many evaluations were told."""
        return len(self._times)

    @property
    def exhausted(self) -> bool:
        """No candidate remains, and no initial point is open: ``ask`` has nothing to offer."""
        return self._due() is None and not self._candidates.remaining.any()

    def ask(self) -> Array:
        """The point to evaluate next, [dims], user's units; the same one until something is told.

        Raises:
            SettingError: ``exhausted``.
        """
        if self._next is None:
            if self.exhausted:
                raise SettingError(
                    f"bayesopt: expected a remaining candidate, all {len(self._candidates.points)} are evaluated"
                )
            due = self._due()
            self._next = self._suggest() if due is None else due
        return self._next.copy()

    def _due(self) -> Array | None:
        """The first point to evaluate before the process is asked; points told out of turn count as evaluations."""
        if len(self) >= len(self._first):
            return None
        seen = self._package.space.params
        return next((x for x in self._first if not (seen == x).all(axis=1).any()), None)

    def _suggest(self) -> Array:
        return np.asarray(self._package.space.params_to_array(self._package.suggest()), dtype=np.float64)

    def tell(self, x: npt.ArrayLike, value: float, con_values: npt.ArrayLike = (), seconds: float = math.nan) -> None:
        """Record an evaluation: ``value`` (and ``con_values`` [k]) at ``x`` [dims], which took ``seconds``.

        ``x`` need not be the point asked for, nor a candidate; a candidate leaves the grid.  Repeats are kept.
        """
        x = self._point(x)
        value = self._finite("value", x, value, 1)[0]
        k = len(self.opt.lt_const)
        bounds = self._finite("constraint values", x, con_values, k)
        self._package.register(x, -value, bounds if k > 1 else bounds[0] if k else None)
        self._candidates.take(x)
        self._times.append(float(seconds))
        self._next = None

    @staticmethod
    def _finite(what: str, x: Array, given: npt.ArrayLike, count: int) -> Array:
        try:
            numbers = np.ravel(np.asarray(given, dtype=np.float64))
        except (TypeError, ValueError):
            numbers = np.full(1 + count, np.nan)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise SettingError(f"bayesopt: {what} at {x.tolist()}: expected {count} finite numbers, got {given!r}")
        return numbers

    def _point(self, x: npt.ArrayLike) -> Array:
        """``x`` checked, and put on the box's side that it misses by rounding."""
        point = np.ravel(np.asarray(x, dtype=np.float64))
        mins, maxes = self.opt.mins, self.opt.maxes
        slack = SAME_POINT * (maxes - mins)
        if point.shape != mins.shape or not ((point >= mins - slack) & (point <= maxes + slack)).all():
            raise SettingError(
                f"bayesopt: point: expected {len(mins)} numbers between {mins.tolist()} and {maxes.tolist()}, "
                f"got {point.tolist()}"
            )
        return np.clip(point, mins, maxes)

    @property
    def best(self) -> tuple[Array, float] | None:
        """The (feasible) evaluation of least value, the first of equals: point [dims] and value; None without one."""
        trace = self.trace
        rows = np.flatnonzero(feasible(trace.con_values, self.opt.lt_const))
        if not len(rows):
            return None
        row = rows[int(np.argmin(trace.values[rows]))]
        return trace.samples[row], float(trace.values[row])

    @property
    def trace(self) -> Trace:
        """Every evaluation told, in order."""
        space, n, k = self._package.space, len(self), len(self.opt.lt_const)
        con_values = space.constraint_values if k else np.empty(0)
        samples, values = space.params.astype(np.float64), -space.target.astype(np.float64)
        return Trace(samples, values, np.array(self._times), con_values.reshape(n, k).astype(np.float64))


def bayesopt(F: Callable[[Array], Any], opt: BayesoptOptions | Mapping[str, Any]) -> BayesoptResult:
    """Minimise ``F`` over a box, as mlcircus ``[minsample, minvalue, botrace] = bayesopt(F, opt)``.

    F: takes a point [dims] in user's units, returns its value; with ``do_cbo`` the value and [k] constraint values.
    opt: options, or a mapping with the fields of the original's struct.

    Ends after ``max_iters`` evaluations, or once every candidate is evaluated.

    Raises:
        SettingError: options or results of F that cannot be used.
        CheckpointError: with ``resume_trace``, a trace file that is damaged or from another problem.
    """
    options = opt if isinstance(opt, BayesoptOptions) else BayesoptOptions.from_struct(opt)
    if options.save_trace and not Path(options.trace_file).parent.is_dir():
        raise SettingError(
            f"bayesopt option trace_file: expected a file in an existing folder, got {options.trace_file}"
        )
    optimizer = Optimizer(options)
    if options.resume_trace and Path(options.trace_file).exists():
        _replay(optimizer, options)
    while len(optimizer) < options.max_iters and not optimizer.exhausted:
        x = optimizer.ask()
        started = time.perf_counter()
        result = F(x.copy())
        seconds = time.perf_counter() - started
        value, con_values = _value_and_constraints(result) if options.do_cbo else (result, ())
        optimizer.tell(x, value, con_values, seconds)
        if options.save_trace:
            save_trace(options.trace_file, optimizer.trace)
    return BayesoptResult(*(optimizer.best or (np.empty(0), math.nan)), optimizer.trace)


def _value_and_constraints(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise SettingError(f"bayesopt: F with do_cbo: expected a value and its constraints' values, got {result!r}")
    return result[0], result[1]


def _replay(optimizer: Optimizer, options: BayesoptOptions) -> None:
    """Tell the optimizer what the trace file holds."""
    trace = load_trace(options.trace_file, options.dims, len(options.lt_const))
    rows = zip(trace.samples, trace.values, trace.con_values, trace.times, strict=True)
    for number, (x, value, con_values, seconds) in enumerate(rows, start=1):
        try:
            optimizer.tell(x, value, con_values, seconds)
        except SettingError as error:
            raise CheckpointError(f"{options.trace_file}: evaluation {number}: {error}") from error
