"""The Gaussian process of mlcircus ``bayesopt.m``: constant mean, ARD squared-exponential covariance, Gaussian noise.

    y = f(x) + noise,  f ~ GP(mean, sf^2 exp(-1/2 sum_i ((x_i - x'_i) / ell_i)^2)),  noise ~ N(0, sn^2)

Pure float64 numerics.  ``hyp`` is one vector [d + 3] in GPML's order: ``mean``, ``log ell_1 .. log ell_d``, ``log sf``,
``log sn``.  Symbols: ``n`` observations ``X`` [n, d], ``y`` [n]; ``g`` points ``Xs`` [g, d] to predict.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack, solve_triangular

from clipq.bayesian.conjugate_gradient import minimize
from clipq.errors import SettingError
from clipq.one_blas_thread import one_blas_thread

Array = npt.NDArray[np.float64]

LOG_2PI = float(np.log(2 * np.pi))


def starting_hyperparameters(d: int) -> Array:
    """Where the original starts every fit, [d + 3]: all logarithms and the mean 0, but the log noise log(0.1)."""
    return np.append(np.zeros(d + 2), np.log(0.1))


class NegativeLogLikelihood:
    """The negative log marginal likelihood of fixed observations as a function of the hyperparameters.

    Calling it gives the value and its gradient by ``hyp``; both NaN where the covariance is not positive definite or
    overflows, which keeps a minimiser away.  Squared differences are computed once: a fit is some 100 calls.
    """

    def __init__(self, X: npt.ArrayLike, y: npt.ArrayLike) -> None:
        self.X, self.y = _observations(X, y)
        n, d = self.X.shape
        self.squares = ((self.X[:, None] - self.X[None]) ** 2).reshape(n * n, d).T.copy()  # [d, n*n]
        self.undefined = np.nan, np.full(d + 3, np.nan)

    @np.errstate(all="ignore")
    def __call__(self, hyp: Array) -> tuple[float, Array]:
        n = len(self.y)
        scales, noise = np.exp(-2 * hyp[1:-2]), np.exp(2 * hyp[-1])
        signal = np.exp(2 * hyp[-2] - 0.5 * (scales @ self.squares)).reshape(n, n)
        covariance = signal + 0.0
        covariance.flat[:: n + 1] += noise
        if not np.isfinite(covariance).all():
            return self.undefined
        factor, failed = lapack.dpotrf(covariance, lower=1)
        if failed:
            return self.undefined
        residual = self.y - hyp[0]
        alpha = lapack.dpotrs(factor, residual, lower=1)[0]
        value = 0.5 * (residual @ alpha) + np.log(factor.diagonal()).sum() + 0.5 * n * LOG_2PI
        inverse = lapack.dpotri(factor, lower=1)[0]
        # dK/dhyp enters through trace((K^-1 - alpha alpha') dK) / 2; K^-1 came as its lower triangle.
        inner = inverse + np.tril(inverse, -1).T - alpha[:, None] * alpha
        weighted = (inner * signal).ravel()
        gradient = np.empty_like(hyp)
        gradient[0] = -alpha.sum()
        gradient[1:-2] = 0.5 * scales * (self.squares @ weighted)
        gradient[-2] = weighted.sum()
        gradient[-1] = noise * inner.trace()
        return float(value), gradient


def nlml(hyp: npt.ArrayLike, X: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Negative log marginal likelihood of ``y`` [n] at ``X`` [n, d] under ``hyp`` [d + 3] (module docstring).

    NaN where the covariance matrix is not positive definite in float64.  GPML's ``gp.m`` with ``infExact``.

    Raises:
        SettingError: shapes that do not fit, or values that are not finite.
    """
    return nlml_and_gradient(hyp, X, y)[0]


def nlml_and_gradient(hyp: npt.ArrayLike, X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, Array]:
    """``nlml`` and its analytic gradient by ``hyp``, [d + 3]."""
    likelihood = NegativeLogLikelihood(X, y)
    return likelihood(_hyperparameters(hyp, likelihood.X.shape[1]))


@one_blas_thread()
def posterior(hyp: npt.ArrayLike, X: npt.ArrayLike, y: npt.ArrayLike, Xs: npt.ArrayLike) -> tuple[Array, Array]:
    """Predictive mean and variance, each [g], of the noisy observation at ``Xs`` [g, d].

    The variance includes the noise, as what ``gp.m`` returns for y does; it is never below sn^2.  A covariance matrix
    that is singular in float64 gets the least jitter on its diagonal, from machine epsilon up, that lets it be
    factored; the original predicts NaN there.

    Raises:
        SettingError: shapes that do not fit, values that are not finite, or a covariance that overflows.
    """
    X, y = _observations(X, y)
    hyp = _hyperparameters(hyp, X.shape[1])
    Xs = _matrix("Xs", Xs)
    if Xs.shape[1] != X.shape[1]:
        raise SettingError(f"Gaussian process: Xs: expected {X.shape[1]} columns, got {Xs.shape[1]}")
    with np.errstate(all="ignore"):
        noise, amplitude = np.exp(2 * hyp[-1]), np.exp(2 * hyp[-2])
        factor = _cholesky(_covariance(hyp, X, X) + noise * np.eye(len(X)))
        cross = _covariance(hyp, X, Xs)  # [n, g]
    if factor is None or not np.isfinite(cross).all():
        raise SettingError(f"Gaussian process: hyp: expected a covariance that is finite, got {hyp.tolist()}")
    alpha = lapack.dpotrs(factor, y - hyp[0], lower=1)[0]
    explained = solve_triangular(factor, cross, lower=True, check_finite=False)
    s2 = np.maximum(amplitude - np.einsum("ng,ng->g", explained, explained), 0.0) + noise
    return hyp[0] + cross.T @ alpha, s2


@one_blas_thread()
def fit(
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    start: npt.ArrayLike | None = None,
    max_evaluations: int = 100,
    restarts: int = 0,
    rng: np.random.Generator | None = None,
) -> Array:
    """Hyperparameters [d + 3] of maximum marginal likelihood for ``y`` [n] at ``X`` [n, d] (inputs in [0, 1]).

    start: hyperparameters to begin at; None: the original's, ``starting_hyperparameters``.
    max_evaluations: of the likelihood, for each start.
    restarts: further starts, drawn around the data's own scales with ``rng``; the most likely end is taken.  The
        original has none.

    The likelihood may have no maximum (constant values, two points): the result is then where the budget ended.

    Raises:
        SettingError: shapes that do not fit, or values that are not finite.
    """
    likelihood = NegativeLogLikelihood(X, y)
    d = likelihood.X.shape[1]
    first = starting_hyperparameters(d) if start is None else _hyperparameters(start, d)
    starts = [first, *_random_starts(likelihood.y, d, restarts, rng or np.random.default_rng())]
    ends = [minimize(likelihood, s, max_evaluations) for s in starts]
    values = [value if np.isfinite(value) else np.inf for _, value in ends]
    return ends[int(np.argmin(values))][0]


def _random_starts(y: Array, d: int, count: int, rng: np.random.Generator) -> list[Array]:
    """Means within the values, length-scales from 0.05 to 2, amplitudes near the spread, noise from 1 % to 100 %."""
    spread = float(np.log(y.std())) if y.std() > 0 else 0.0
    starts = []
    for _ in range(count):
        amplitude = spread + rng.normal(0.0, 0.5)
        scales = rng.uniform(np.log(0.05), np.log(2.0), d)
        noise = amplitude + rng.uniform(np.log(0.01), 0.0)
        starts.append(np.concatenate([[rng.uniform(y.min(), y.max())], scales, [amplitude, noise]]))
    return starts


def _covariance(hyp: Array, A: Array, B: Array) -> Array:
    """sf^2 exp(-1/2 squared distance in length-scales), [len(A), len(B)]; one dimension at a time, for long ``B``."""
    scales = np.exp(-2 * hyp[1:-2])
    distance = np.zeros((len(A), len(B)))
    for scale, a, b in zip(scales, A.T, B.T, strict=True):
        distance += scale * (a[:, None] - b) ** 2
    return np.exp(2 * hyp[-2] - 0.5 * distance)


def _cholesky(K: Array) -> Array | None:
    """The lower Cholesky factor of ``K``, jittered as far as it must be; None where ``K`` overflows."""
    scale = float(K.diagonal().max()) or 1.0
    for jitter in (0.0, *np.finfo(float).eps * 10.0 ** np.arange(18)):
        factor, failed = lapack.dpotrf(K + jitter * scale * np.eye(len(K)), lower=1)
        if not failed and np.isfinite(factor).all():
            return factor
    return None


def _matrix(name: str, value: npt.ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise SettingError(f"Gaussian process: {name}: expected a finite matrix, got shape {array.shape}, {array!r}")
    return array


def _observations(X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array]:
    X, y = _matrix("X", X), np.asarray(y, dtype=np.float64)
    if y.shape != (len(X),) or not len(X) or not np.isfinite(y).all():
        raise SettingError(f"Gaussian process: y: expected {len(X)} >= 1 finite values, got shape {y.shape}, {y!r}")
    return X, y


def _hyperparameters(hyp: npt.ArrayLike, d: int) -> Array:
    array = np.asarray(hyp, dtype=np.float64)
    if array.shape != (d + 3,) or not np.isfinite(array).all():
        raise SettingError(
            f"Gaussian process: hyp: expected {d + 3} finite numbers (mean, {d} log length-scales, log amplitude, "
            f"log noise), got {array.tolist()}"
        )
    return array
