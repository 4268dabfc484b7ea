"""The options of mlcircus ``bayesopt.m``, by its names; what is not ported is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipq.bayesian.candidates import Candidates, sobol
from clipq.errors import SettingError

Array = npt.NDArray[np.float64]

#: Options of the original that are not ported: the one value that asks for what this port does, and why no other.
REFUSED: Mapping[str, tuple[Any, str]] = {
    "parallel_jobs": (1, "the original draws random fantasy values for pending evaluations; here one at a time"),
    "optimize_ei": (False, "it moves candidates off the grid, where b is no whole number"),
    "meanfunc": ("meanConst", "only the constant mean, the original's default"),
    "covfunc": ("covSEard", "only the ARD squared-exponential covariance, the original's default"),
}
#: Options that only steer a refused one, and so say nothing here.
WITHOUT_EFFECT = {"parallel_mc_iters": "parallel_jobs", "ei_burnin": "optimize_ei"}


@dataclass(frozen=True)
class BayesoptOptions:
    """What ``bayesopt`` searches and how; user's units throughout.  Sequences of numbers are kept as float64 arrays.

    dims: number of parameters, >= 1.
    mins, maxes: [dims], the box; mins <= maxes, a parameter with mins = maxes is constant.
    grid_size: Sobol candidates, where ``grid`` is not given, >= 1.
    max_iters: evaluations of F in all, >= 1.
    grid: [g, dims], explicit candidates inside the box; None: Sobol points.
    filter_func: of Sobol candidates only: takes them [grid_size, dims], returns the rows to keep, [g, dims].
    initial_points: [k, dims], evaluated before the two random candidates.
    resume_trace: continue from ``trace_file`` where it exists.
    save_trace: write ``trace_file`` after every evaluation.
    trace_file: a ``.mat`` file.
    do_cbo: constrained: F also returns its constraints' values, a row of k.
    lt_const: [k], what those must be at most.
    seed: of the random candidates and the further starts, >= 0 (not in the original).
    restarts: further starts of each fit of the process, >= 0 (not in the original: 0).

    Raises:
        SettingError: a value outside these ranges, or two options that exclude each other.
    """

    dims: int
    mins: Array
    maxes: Array
    grid_size: int = 20000
    max_iters: int = 100
    grid: Array | None = None
    filter_func: Callable[[Array], npt.ArrayLike] | None = None
    initial_points: Array | None = None
    resume_trace: bool = False
    save_trace: bool = False
    trace_file: str | Path = "trace.mat"
    do_cbo: bool = False
    lt_const: Array = field(default_factory=lambda: np.empty(0))
    seed: int = 0
    restarts: int = 0

    def __post_init__(self) -> None:
        for name, least in (("dims", 1), ("grid_size", 1), ("max_iters", 1), ("seed", 0), ("restarts", 0)):
            self._set(name, _whole_number(name, getattr(self, name), least))
        for name in ("mins", "maxes"):
            self._set(name, _row(name, getattr(self, name), self.dims))
        if (self.mins > self.maxes).any():
            raise SettingError(
                f"bayesopt option mins: expected <= maxes {self.maxes.tolist()}, got {self.mins.tolist()}"
            )
        for name in ("grid", "initial_points"):
            if getattr(self, name) is not None:
                self._set(name, self._points(name, getattr(self, name)))
        if self.grid is not None and self.filter_func is not None:
            raise SettingError(
                "bayesopt option filter_func: expected no explicit grid beside it, as it filters Sobol candidates "
                "only; filter the grid itself"
            )
        self._set("lt_const", self._bounds())

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _points(self, name: str, value: npt.ArrayLike) -> Array:
        points = np.array(value, dtype=np.float64)
        if points.ndim == 1:
            points = points.reshape((-1, 1) if self.dims == 1 else (1, -1))
        if points.ndim != 2 or points.shape[1] != self.dims or not len(points):
            raise SettingError(f"bayesopt option {name}: expected [n >= 1, {self.dims}], got shape {points.shape}")
        outside = ~((points >= self.mins) & (points <= self.maxes)).all(axis=1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise SettingError(
                f"bayesopt option {name}: expected rows between mins {self.mins.tolist()} and maxes "
                f"{self.maxes.tolist()}, got {points[row].tolist()} in row {row}"
            )
        return points

    def _bounds(self) -> Array:
        bounds = np.array(self.lt_const, dtype=np.float64, ndmin=1).ravel()
        if self.do_cbo != bool(bounds.size):
            raise SettingError(
                f"bayesopt option lt_const: expected {'one bound or more' if self.do_cbo else 'none'} with "
                f"do_cbo={self.do_cbo}, got {bounds.tolist()}"
            )
        if not (bounds > -np.inf).all():
            raise SettingError(f"bayesopt option lt_const: expected numbers above -Inf, got {bounds.tolist()}")
        return bounds

    def candidates(self) -> Candidates:
        """The candidates that these options name, all remaining.

        Raises:
            SettingError: ``filter_func`` returns something else than rows inside the box.
        """
        points = self.grid
        if points is None:
            points = self.mins + sobol(self.grid_size, self.dims) * (self.maxes - self.mins)
            if self.filter_func is not None:
                points = self._points("filter_func", self.filter_func(points))
        return Candidates(points, self.mins, self.maxes)

    @classmethod
    def from_struct(cls, opt: Mapping[str, Any]) -> BayesoptOptions:
        """The options in a mapping with the fields of the original's struct ``opt``.

        Raises:
            SettingError: an option that is not ported (with the reason), unknown, or missing.
        """
        known = {f.name for f in fields(cls)}
        for name, value in opt.items():
            if name in REFUSED and not _asks_for(value, REFUSED[name][0]):
                allowed, reason = REFUSED[name]
                raise SettingError(f"bayesopt option {name}: expected {allowed!r}, got {value!r}: {reason}")
            if name not in known and name not in REFUSED and name not in WITHOUT_EFFECT:
                raise SettingError(f"bayesopt option {name}: unknown; expected one of {', '.join(sorted(known))}")
        missing = [name for name in ("dims", "mins", "maxes") if name not in opt]
        if missing:
            raise SettingError(f"bayesopt options: expected dims, mins and maxes, missing: {', '.join(missing)}")
        return cls(**{name: value for name, value in opt.items() if name in known})


def _asks_for(value: Any, allowed: Any) -> bool:
    """``value`` is ``allowed``; a function's name may stand in a cell, as in MATLAB's ``{@covSEard}``."""
    if isinstance(allowed, str) and isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    return bool(value == allowed or value == f"@{allowed}")


def _whole_number(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value).is_integer() or value < least:
        raise SettingError(f"bayesopt option {name}: expected a whole number >= {least}, got {value!r}")
    return int(float(value))


def _row(name: str, value: npt.ArrayLike, dims: int) -> Array:
    row = np.array(value, dtype=np.float64, ndmin=1).ravel()
    if row.shape != (dims,) or not np.isfinite(row).all():
        raise SettingError(f"bayesopt option {name}: expected {dims} finite numbers, got {row.tolist()}")
    return row
