"""mlcircus ``bayesopt.m``'s choice of the next point, in the extension points of the ``bayesian-optimization`` package.

The package keeps the observations, the process, the constraints' processes and the order of a suggestion.  Three of
its parts are replaced: the process (GPML's model instead of Matern 5/2 on standardised values), the acquisition (an
argmax over the remaining candidates instead of a continuous maximisation) and the table of observations (repeats are
kept).  The package maximises, so it is told -F: the process's likelihood and variance do not change, its mean turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from bayes_opt import BayesianOptimization
from bayes_opt.acquisition import AcquisitionFunction
from bayes_opt.constraint import ConstraintModel
from bayes_opt.target_space import TargetSpace
from scipy.optimize import NonlinearConstraint
from sklearn.gaussian_process import GaussianProcessRegressor

from clipq.bayesian.bayesopt_options import BayesoptOptions
from clipq.bayesian.candidates import Candidates
from clipq.bayesian.expected_improvement import (
    expected_improvement,
    feasible,
    first_argmax,
    incumbent,
    probability_of_feasibility,
)
from clipq.bayesian.gaussian_process import fit, posterior

Array = npt.NDArray[Any]  # float64; the package annotates any float


class ConstantMeanProcess(GaussianProcessRegressor):
    """``gaussian_process`` behind scikit-learn's interface; inputs in user's units, scaled to the unit box.

    scikit-learn's own regressor has no constant mean to fit, and its likelihood with gradient takes some eight times
    as long.  Attribute after ``fit``: ``hyp_``, [d + 3].
    """

    def __init__(self, mins: Array, maxes: Array, restarts: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.mins, self.maxes, self.restarts, self.seed = mins, maxes, restarts, seed

    def _scaled(self, X: Array) -> Array:
        return (X - self.mins) / np.where(self.maxes > self.mins, self.maxes - self.mins, 1.0)

    def fit(self, X: Array, y: Array) -> ConstantMeanProcess:
        """Maximum likelihood for ``y`` [n] at ``X`` [n, d]; the further starts depend on the seed and n alone."""
        self.X_train_, self.y_train_ = np.array(X), np.array(y)
        rng = np.random.default_rng([self.seed, len(self.y_train_)])
        self.hyp_ = fit(self._scaled(self.X_train_), self.y_train_, restarts=self.restarts, rng=rng)
        return self

    def predict(self, X: Array, return_std: bool = False, return_cov: bool = False) -> Any:
        """The mean [g] at ``X`` [g, d], and with ``return_std`` the noisy observation's standard deviation [g]."""
        if return_cov:
            raise NotImplementedError("ConstantMeanProcess predicts each point's variance, not covariances")
        mu, s2 = posterior(self.hyp_, self._scaled(self.X_train_), self.y_train_, self._scaled(X))
        return (mu, np.sqrt(s2)) if return_std else mu


class CandidateImprovement(AcquisitionFunction):
    """Expected improvement times the probability of feasibility, maximised over the remaining candidates."""

    def __init__(self, candidates: Candidates) -> None:
        super().__init__()
        self.candidates = candidates
        self.best = np.inf

    def base_acq(self, mean: Array, std: Array) -> Array:
        """EI of -F's prediction (mean, std), [g], on the least F so far."""
        return expected_improvement(-mean, std**2, self.best)

    def suggest(self, gp: ConstantMeanProcess, target_space: TargetSpace, *args: Any, **kwargs: Any) -> Array:
        """The candidate to evaluate next, [dims]; see the package for the arguments."""
        constraint = target_space.constraint
        is_feasible = None
        if constraint is not None:
            con_values = target_space.constraint_values.reshape(len(target_space), -1)
            is_feasible = feasible(con_values, constraint.ub)
        self.best = incumbent(-target_space.target, is_feasible)
        return super().suggest(gp, target_space, *args, **kwargs)

    def _get_acq(self, gp: ConstantMeanProcess, constraint: ConstraintModel | None = None) -> Callable[[Array], Array]:
        def negative_score(x: Array) -> Array:
            score = self.base_acq(*gp.predict(x, return_std=True))
            if constraint is not None:
                for process, bound in zip(constraint.model, constraint.ub, strict=True):
                    mu, s = process.predict(x, return_std=True)
                    score = score * probability_of_feasibility(mu, s**2, bound)
            return -score

        return negative_score

    def _acq_min(self, acq: Callable[[Array], Array], *args: Any, **kwargs: Any) -> Array:
        left = self.candidates.left
        return left[first_argmax(-acq(left))]


class Observations(TargetSpace):
    """The package's table, in which a point may stand more than once, as in the original's trace."""

    def __contains__(self, x: object) -> bool:
        return False


class GridOptimization(BayesianOptimization):
    """The package's ask/tell optimiser with the three parts above; still maximising, so register -F."""

    def __init__(self, options: BayesoptOptions, candidates: Candidates) -> None:
        names = [f"x{i + 1}" for i in range(options.dims)]
        bounds = dict(zip(names, zip(options.mins.tolist(), options.maxes.tolist(), strict=True), strict=True))
        k = len(options.lt_const)
        constraint = NonlinearConstraint(None, np.full(k, -np.inf), options.lt_const) if k else None
        super().__init__(None, bounds, CandidateImprovement(candidates), constraint, options.seed, verbose=0)
        self._space = Observations(None, bounds, constraint, options.seed)

        def process() -> ConstantMeanProcess:
            return ConstantMeanProcess(options.mins, options.maxes, options.restarts, options.seed)

        self._gp = process()
        if self.constraint is not None:
            self.constraint.model[:] = [process() for _ in range(k)]
