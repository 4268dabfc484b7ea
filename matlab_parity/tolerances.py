"""How far Python and MATLAB may lie apart: one table, each limit with its mechanism and the reason for it.

Discrete quantities (codes, counts, gaps, streams, sizes) are exact.  Every other limit is a bound derived from how
the two computations differ, scaled by the data, never a number tuned until the comparison passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EPS = float(np.finfo(np.float64).eps)
#: (expected values as float64, scale) -> the limit of each element.
Limit = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Tolerance:
    """A limit on ``|actual - expected|``; ``formula`` is the limit in words, with ``scale`` as it is defined there."""

    mechanism: str
    formula: str
    reason: str
    limit: Limit


def _exact(expected: np.ndarray, scale: float) -> np.ndarray:
    return np.zeros(expected.shape)


def _one_shot(expected: np.ndarray, scale: float) -> np.ndarray:
    return np.full(expected.shape, 4 * EPS * scale)


def _level(expected: np.ndarray, scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        ulp = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
    return np.where(np.isfinite(ulp), ulp, np.inf) + 64 * EPS * scale


def _conditioning(expected: np.ndarray, scale: float) -> np.ndarray:
    return np.full(expected.shape, scale)


def _tail(expected: np.ndarray, scale: float) -> np.ndarray:
    return np.full(expected.shape, 1e-12 * scale)


def _trajectory(expected: np.ndarray, scale: float) -> np.ndarray:
    return np.full(expected.shape, 1e-12 * scale)


EXACT = Tolerance(
    "exact", "0", "integers, text, and values that both sides only copy: there is nothing to round", _exact
)
ONE_SHOT = Tolerance(
    "one shot", "4 eps s, eps = 2^-52, s the largest magnitude of the layer, or of the quantity",
    "a handful of float64 operations on the same operands; the same formula grouped in another way differs by a few "
    "units in the last place of its largest term", _one_shot,
)  # fmt: skip
LEVEL = Tolerance(
    "sum order", "1 ulp of float32 + 64 eps s, s the layer's largest magnitude",
    "a mean summed in float64 in another order differs in float64's last digits, so its rounding to float32 can fall "
    "on the neighbour; where terms of both signs cancel, what remains of the sum is those last digits", _level,
)  # fmt: skip
TRAJECTORY = Tolerance(
    "accumulated rounding", "1e-12 s, s the largest magnitude of the quantity over the run",
    "products of matrices summed in another order (BLAS) differ in float64's last digits at every iteration, and the "
    "iterations carry the differences on; a weight that takes another code shows in the codes, which are exact",
    _trajectory,
)  # fmt: skip
CONDITIONING = Tolerance(
    "conditioning", "(1e-12 + eps cond(K)) u; u = 1 (nlml), sf + |mean| (MU), sf^2 + sn^2 (S2)",
    "GPML expands |a-b|^2 into a^2 + b^2 - 2ab, which rounds otherwise, and the solve with the covariance K amplifies "
    "it by its condition number; where the fitted noise vanishes, K is nearly singular", _conditioning,
)  # fmt: skip
TAIL = Tolerance(
    "normal distribution", "1e-12 of the step's largest value",
    "two implementations of Phi; u Phi(u) + phi(u) cancels where an improvement is unlikely", _tail,
)  # fmt: skip

#: quantity -> tolerance.  A quantity that is not here cannot be compared.
TOLERANCES: dict[str, Tolerance] = {
    **dict.fromkeys(
        (
            "class", "codes", "counts",  # ws_learn_one_layer
            "index_bits", "gaps", "entry_codes", "codebook", "n_fillers", "packed_gaps", "packed_codes", "section",
            "bits", "name", "decoded", "weights",  # the codec
            "codes1", "codes2", "final_codes",  # ws_train
            "theta", "layer_bits",  # ws_search
            "pick",  # bayesopt
        ),
        EXACT,
    ),
    **dict.fromkeys(("c_neg", "c_pos", "intervals", "edges_neg", "edges_pos", "eps", "value"), ONE_SHOT),
    **dict.fromkeys(("levels", "quantized", "final_levels"), LEVEL),
    **dict.fromkeys(("loss", "W1", "b1", "W2", "b2"), TRAJECTORY),
    **dict.fromkeys(("nlml", "MU", "S2", "CMU", "CS2"), CONDITIONING),
    **dict.fromkeys(("EI", "PF"), TAIL),
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One quantity of one case: the worst deviation, its limit and where it is.

    deviation: ``|actual - expected|`` where it is largest as a multiple of its limit; for exact quantities the number
        of elements that differ; inf where sizes differ.
    where: the 0-based index of the worst element in Python's layout, or how the sizes differ.
    digits: decimal digits of agreement, relative to the largest of the expected values (inf where equal).
    """

    function: str
    case: str
    quantity: str
    mechanism: str
    deviation: float
    limit: float
    digits: float
    where: str

    @property
    def passed(self) -> bool:
        return self.deviation <= self.limit


def check(
    function: str, case: str, quantity: str, actual: np.ndarray, expected: np.ndarray, scale: float | None = None
) -> Check:
    """Compare ``actual`` (Python's) with ``expected`` (MATLAB's) in the tolerance of ``quantity``.

    scale: the magnitude that the tolerance's formula calls s; by default the largest of ``expected``.
    """
    tolerance = TOLERANCES[quantity]
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        where = f"size {_size(actual)} where MATLAB has {_size(expected)}"
        return Check(function, case, quantity, tolerance.mechanism, np.inf, 0.0, 0.0, where)
    if tolerance is EXACT:
        return _exact_check(function, case, quantity, actual, expected)
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    s = float(np.max(np.abs(e), initial=0.0)) if scale is None else scale
    if not e.size:
        return Check(function, case, quantity, tolerance.mechanism, 0.0, 0.0, np.inf, "")
    deviations, limits = np.abs(a - e), tolerance.limit(e, s)
    deviations = np.where(np.isnan(deviations), np.inf, deviations)
    excess = np.where(deviations > 0, deviations / np.maximum(limits, np.finfo(np.float64).tiny), 0.0)
    worst = int(np.argmax(excess))
    deviation, limit = float(deviations.ravel()[worst]), float(limits.ravel()[worst])
    largest = float(np.max(np.abs(e)))
    digits = np.inf if deviation == 0 else -np.log10(deviation / largest) if largest else 0.0
    where = str(tuple(int(i) for i in np.unravel_index(worst, e.shape))) if deviation else ""
    return Check(function, case, quantity, tolerance.mechanism, deviation, limit, float(digits), where)


def _exact_check(function: str, case: str, quantity: str, actual: np.ndarray, expected: np.ndarray) -> Check:
    differ = np.argwhere(np.atleast_1d(actual != expected))
    where = f"{tuple(int(i) for i in differ[0])}" if len(differ) else ""
    digits = 0.0 if len(differ) else np.inf
    return Check(function, case, quantity, EXACT.mechanism, float(len(differ)), 0.0, digits, where)


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "1"
