"""Nonlinear conjugate gradients under a budget of evaluations: how GPML's ``minimize.m`` fits a Gaussian process.

The search that the original's optimiser rests on (Rasmussen and Nickisch, GPML 3.5): Polack-Ribiere directions; a line
search that extrapolates, then interpolates, with the cubic or the parabola through two points until the strong
Wolfe-Powell conditions hold; and a first step in each direction that assumes the slope's ratio to the last one's.
Where it stops on a likelihood with several optima or none is part of how the original chooses its next point, so
the published method and its constants are followed, and not a more modern minimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]

CURVATURE = 0.1  # Wolfe-Powell: the slope must fall to this fraction of its first magnitude
DECREASE = CURVATURE / 2  # Wolfe-Powell: the least fraction of the decrease that the first slope promises
NEAREST = 0.1  # stay this fraction of a bracket away from its ends
FURTHEST = 3.0  # one extrapolation's largest factor
MAX_TRIALS = 20  # evaluations in one line search
MAX_RATIO = 10.0  # of the first steps of two successive line searches


@dataclass(frozen=True)
class _Point:
    """A point ``x + step * direction`` of a line search; ``slope`` is the derivative by ``step``."""

    step: float
    value: float
    slope: float
    gradient: Array


class _Line:
    """The objective along one direction, from ``start``; remembers the least value seen."""

    def __init__(self, objective: Objective, x: Array, direction: Array, start: _Point, trials: int) -> None:
        self.objective, self.x, self.direction, self.start = objective, x, direction, start
        self.best, self.trials, self.evaluations = start, trials, 0

    @property
    def spent(self) -> bool:
        return self.evaluations >= self.trials

    def at(self, step: float) -> _Point | None:
        """The point at ``step``; None where the objective or its gradient is not finite there."""
        self.evaluations += 1
        value, gradient = self.objective(self.x + step * self.direction)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return None
        point = _Point(step, value, float(gradient @ self.direction), gradient)
        if value < self.best.value:
            self.best = point
        return point

    def rises(self, point: _Point) -> bool:
        """The value lies above the line of sufficient decrease."""
        return point.value > self.start.value + point.step * DECREASE * self.start.slope

    def accepts(self, point: _Point) -> bool:
        """Both Wolfe-Powell conditions hold."""
        falls = point.value < self.start.value + point.step * DECREASE * self.start.slope
        return falls and abs(point.slope) < -CURVATURE * self.start.slope

    def search(self, step: float) -> _Point:
        """The point that meets the conditions, or the last one tried."""
        point = self._extrapolate(step)
        low, high = self.start, point
        while not self.spent and (self.rises(point) or abs(point.slope) > -CURVATURE * self.start.slope):
            if point.slope > 0 or self.rises(point):
                high = point
            else:
                low = point
            tried = self.at(_between(low, high, self.start.value))
            if tried is None:
                break
            point = tried
        return point

    def _extrapolate(self, step: float) -> _Point:
        """Lengthen the step while the slope is still steep; halve it where the objective is not finite."""
        while True:
            point = None
            while point is None and not self.spent:
                point = self.at(step)
                step = step if point else step / 2
            point = point or self.start
            if point.slope > CURVATURE * self.start.slope or self.rises(point) or self.spent:
                return point
            step = _beyond(self.start, point)


def _beyond(a: _Point, b: _Point) -> float:
    """The minimum of the cubic through both points, past ``b`` (``a.step`` is 0)."""
    with np.errstate(all="ignore"):
        cubic = 6 * (a.value - b.value) + 3 * (b.slope + a.slope) * b.step
        square = 3 * (b.value - a.value) - (2 * a.slope + b.slope) * b.step
        root = np.sqrt(square * square - cubic * a.slope * b.step)
        step = float(np.float64(-a.slope * b.step**2) / (square + root))
    if not np.isfinite(step) or not 0 <= step <= b.step * FURTHEST:
        return b.step * FURTHEST
    return max(step, b.step * (1 + NEAREST))


def _between(a: _Point, b: _Point, start_value: float) -> float:
    """A minimum inside the bracket: of the parabola where ``b`` lies above the start, else of the cubic."""
    width = np.float64(b.step - a.step)
    with np.errstate(all="ignore"):
        if b.value > start_value:
            step = np.float64(a.step) - 0.5 * a.slope * width**2 / (b.value - a.value - a.slope * width)
        else:
            cubic = 6 * (a.value - b.value) / width + 3 * (b.slope + a.slope)
            square = 3 * (b.value - a.value) - (2 * a.slope + b.slope) * width
            step = a.step + (np.sqrt(square * square - cubic * a.slope * width**2) - square) / cubic
    if not np.isfinite(step):
        step = np.float64(a.step + b.step) / 2
    return float(max(min(step, b.step - NEAREST * width), a.step + NEAREST * width))


@np.errstate(all="ignore")
def minimize(objective: Objective, x: Array, max_evaluations: int = 100) -> tuple[Array, float]:
    """A local minimum of ``objective`` from ``x``, or the point reached when the budget is spent.

    objective: float64 [k] -> value and gradient [k]; a value that is not finite marks a point to keep away from.
    max_evaluations: calls of ``objective``, >= 1.

    Returns the point and its value; ``x`` itself where the objective or its slope is not finite there.

    Source: mlcircus ``bayesopt.m`` calls GPML's ``minimize.m`` with a budget of 100 evaluations.
    """
    start, direction = _steepest(*objective(x))
    spent, failed = 1, False
    if not (np.isfinite(start.value) and np.isfinite(start.slope)):
        return x, start.value
    step = 1 / (1 - start.slope)
    while spent < max_evaluations:
        line = _Line(objective, x, direction, start, min(MAX_TRIALS, max_evaluations - spent))
        end = line.search(step)
        spent += line.evaluations
        if line.accepts(end):
            x, failed, last_slope = x + end.step * direction, False, start.slope
            start, direction = _conjugate(end, start.gradient, direction)
            step = end.step * min(MAX_RATIO, last_slope / (start.slope - np.finfo(float).tiny))
        else:
            x = x + line.best.step * direction
            start, direction = _steepest(line.best.value, line.best.gradient)
            step = 1 / (1 - start.slope)
            if failed:
                break
            failed = True
    return x, start.value


def _steepest(value: float, gradient: Array) -> tuple[_Point, Array]:
    """The start of a line search down the gradient, and its direction."""
    return _Point(0.0, value, float(-(gradient @ gradient)), gradient), -gradient


def _conjugate(end: _Point, old: Array, direction: Array) -> tuple[_Point, Array]:
    """The start of the next line search and its Polack-Ribiere direction; down the gradient if that one rises."""
    new = end.gradient
    direction = (new @ new - old @ new) / (old @ old) * direction - new
    slope = float(new @ direction)
    return _steepest(end.value, new) if slope > 0 else (_Point(0.0, end.value, slope, new), direction)
