"""How mlcircus ``bayesopt.m`` scores a candidate: expected improvement times the probability of feasibility.

For a value to minimise, predicted as N(mu, s2), with the best value so far ``best``:

    EI = s (u Phi(u) + phi(u)),  u = (best - mu) / s

There is no exploration term.  Pure float64 numerics.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Array = npt.NDArray[np.float64]

#: What the original adds to the largest value for ``best`` while no observation is feasible.
INFEASIBLE_MARGIN = 999.0


def expected_improvement(mu: npt.ArrayLike, s2: npt.ArrayLike, best: float) -> Array:
    """Expected improvement on ``best`` where the value is N(``mu``, ``s2``); arrays of one shape, EI >= 0.

    s2 = 0 is the limit, max(best - mu, 0); NaN in gives NaN.
    """
    gain, s = np.subtract(best, mu, dtype=np.float64), np.sqrt(np.asarray(s2, dtype=np.float64))
    with np.errstate(all="ignore"):
        u = gain / s
        density = np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
        spread = s * (u * ndtr(u) + density)
    certain = (s == 0) | np.isinf(u)
    return np.where(certain, np.maximum(gain, 0.0), np.maximum(spread, 0.0))


def probability_of_feasibility(mu: npt.ArrayLike, s2: npt.ArrayLike, bound: float) -> Array:
    """Phi((bound - mu) / s): how likely a constraint's value N(``mu``, ``s2``) is at most ``bound``; in [0, 1].

    s2 = 0 is the limit: 1 where mu <= bound, else 0.
    """
    slack, s = np.subtract(bound, mu, dtype=np.float64), np.sqrt(np.asarray(s2, dtype=np.float64))
    with np.errstate(all="ignore"):
        certain = np.where(slack >= 0, 1.0, 0.0) + 0.0 * slack
        return np.where(s == 0, certain, ndtr(slack / s))


def feasible(con_values: npt.ArrayLike, lt_const: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which rows of ``con_values`` [n, k] are at most ``lt_const`` [k] in every column; [n]."""
    return np.all(np.asarray(con_values) <= np.asarray(lt_const), axis=1, keepdims=True)[:, 0]


def incumbent(values: npt.ArrayLike, is_feasible: npt.ArrayLike | None = None) -> float:
    """``best`` of the expected improvement: the least of the feasible ``values`` [n], n >= 1.

    Where none is feasible, max(values) + 999, so that every candidate improves and feasibility decides.
    """
    values = np.asarray(values, dtype=np.float64)
    allowed = values if is_feasible is None else values[np.asarray(is_feasible, dtype=bool)]
    return float(allowed.min()) if allowed.size else float(values.max() + INFEASIBLE_MARGIN)


def first_argmax(scores: npt.ArrayLike) -> int:
    """The index of the largest of ``scores`` [g], g >= 1, as MATLAB's ``max`` finds it.

    The first of equals; NaN is passed over; the first of all where every score is NaN.
    """
    scores = np.asarray(scores, dtype=np.float64)
    return int(np.argmax(np.where(np.isnan(scores), -np.inf, scores)))
