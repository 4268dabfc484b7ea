"""Holds ``clipq.bayesopt``'s parts against traces of the release's own optimiser, mlcircus ``bayesopt.m``.

Each stage is fed the recorded output of the stage before: hyperparameters -> likelihood, mean and variance ->
expected improvement -> the candidate picked.  (The fit of the hyperparameters itself has no unique end; the tests of
``bayesopt`` hold it to the recorded likelihood.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipq.bayesian.expected_improvement import (
    expected_improvement,
    feasible,
    first_argmax,
    incumbent,
    probability_of_feasibility,
)
from clipq.bayesian.gaussian_process import nlml, posterior
from matlab_parity.mat_files import Case, Var, check_case, load_mat
from matlab_parity.tolerances import EPS, Check, check

FUNCTION = "bayesopt"
TRACES = ("clipq", "branin", "constrained")
DOUBLE = Var(("double",))
SCHEMA = dict.fromkeys(
    ("grid", "mins", "maxes", "samples", "values", "con_values", "lt_const", "hyp_mean", "hyp_cov", "hyp_lik", "nlml",
     "MU", "S2", "EI", "PF", "pick"),
    DOUBLE,
)  # fmt: skip
CONSTRAINT_SCHEMA = dict.fromkeys(("CH_mean", "CH_cov", "CH_lik", "CMU", "CS2"), DOUBLE)


def checks(folder: Path) -> Iterator[Check]:
    """Every step of the three traces in ``folder``.

    Raises:
        FixtureError: a trace is missing, or not as it should be.
    """
    for name in TRACES:
        path = folder / f"mlcircus_{name}.mat"
        trace = load_mat(path)
        check_case(trace, SCHEMA, f"{path}: variable ")
        if trace["lt_const"].size:
            check_case(trace, CONSTRAINT_SCHEMA, f"{path}: variable ")
        for t in range(3, len(trace["samples"]) + 1):
            yield from compare_step(trace, t, f"{name}, step {t}")


def compare_step(trace: Case, t: int, case: str) -> list[Check]:
    """Step ``t`` of a trace, counted from 1 as there: what the first t - 1 observations lead to."""
    mins, maxes, seen = trace["mins"], trace["maxes"], slice(0, t - 1)
    X, G = (trace["samples"][seen] - mins) / (maxes - mins), (trace["grid"] - mins) / (maxes - mins)
    MU, S2, found = _gaussian_process(trace, t, case, X, G, constraint=False)
    found.append(check(FUNCTION, case, "nlml", np.array(nlml(_hyp(trace, t, "hyp"), X, trace["values"][seen, 0])),
                       trace["nlml"][t - 1, 0], _slack(_hyp(trace, t, "hyp"), X)))  # fmt: skip
    best = incumbent(trace["values"][seen, 0])
    left = np.setdiff1d(np.arange(len(G)), [_row(trace["grid"], x) for x in trace["samples"][seen]])
    weight: np.ndarray | float = 1.0
    if trace["lt_const"].size:
        bound = trace["lt_const"].item()
        best = incumbent(trace["values"][seen, 0], feasible(trace["con_values"][seen], trace["lt_const"].ravel()))
        CMU, CS2, more = _gaussian_process(trace, t, case, X, G, constraint=True)
        weight = probability_of_feasibility(CMU, CS2, bound)
        found += [*more, check(FUNCTION, case, "PF", weight[left], trace["PF"][t - 1][left])]
    EI = expected_improvement(MU, S2, best) * weight
    pick = left[first_argmax(EI[left])] + 1.0
    return [
        *found,
        check(FUNCTION, case, "EI", EI[left], trace["EI"][t - 1][left]),
        check(FUNCTION, case, "pick", np.array(pick), trace["pick"][t - 1, 0]),
    ]


def _gaussian_process(
    trace: Case, t: int, case: str, X: np.ndarray, G: np.ndarray, *, constraint: bool
) -> tuple[np.ndarray, np.ndarray, list[Check]]:
    """The recorded mean and variance on the grid, and how Python's compare with them."""
    hyp = _hyp(trace, t, "CH" if constraint else "hyp")
    y = trace["con_values" if constraint else "values"][: t - 1, 0]
    names = ("CMU", "CS2") if constraint else ("MU", "S2")
    recorded = [trace[name][t - 1] for name in names]
    signal, noise = np.exp(2 * hyp[-2]), np.exp(2 * hyp[-1])
    units = (np.sqrt(signal) + abs(hyp[0]), signal + noise)
    moments = posterior(hyp, X, y, G)
    slack = _slack(hyp, X)
    found = [
        check(FUNCTION, case, name, actual, expected, slack * unit)
        for name, actual, expected, unit in zip(names, moments, recorded, units, strict=True)
    ]
    return recorded[0], recorded[1], found


def _hyp(trace: Case, t: int, prefix: str) -> np.ndarray:
    return np.concatenate([trace[f"{prefix}_{part}"][t - 1] for part in ("mean", "cov", "lik")])


def _slack(hyp: np.ndarray, X: np.ndarray) -> float:
    """1e-12 + eps cond(K): what a solve with the covariance K of the observations can lose."""
    Z = X / np.exp(hyp[1:-2])
    K = np.exp(2 * hyp[-2] - 0.5 * ((Z[:, None] - Z) ** 2).sum(-1)) + np.exp(2 * hyp[-1]) * np.eye(len(X))
    return 1e-12 + EPS * float(np.linalg.cond(K))


def _row(grid: np.ndarray, sample: np.ndarray) -> int:
    return int(np.flatnonzero((grid == sample).all(axis=1))[0])
