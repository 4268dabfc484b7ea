"""The trace of mlcircus ``bayesopt.m``: every evaluation in order, and the ``.mat`` file that keeps it.

The file holds one struct, ``botrace``, with the original's fields, so that each side can resume what the other saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io

from clipq.atomic_file import atomic_write
from clipq.errors import CheckpointError
from clipq.mat_elements import read_variables
from clipq.mat_format import other_format_of

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trace:
    """n evaluations of k constraints in the order in which they were made.

    samples: [n, dims], user's units.  values: [n].  times: [n], seconds that F took, NaN where not measured.
    con_values: [n, k]; k = 0 without constraints.
    """

    samples: Array
    values: Array
    times: Array
    con_values: Array


def save_trace(path: str | Path, trace: Trace) -> None:
    """Write ``botrace`` as the original saves it (``times`` a row, the others columns or matrices), atomically."""
    fields = {"samples": trace.samples, "values": trace.values[:, None], "times": trace.times[None, :]}
    if trace.con_values.shape[1]:
        fields["con_values"] = trace.con_values
    with atomic_write(path) as file:
        scipy.io.savemat(file, {"botrace": fields})


def load_trace(path: str | Path, dims: int, constraints: int = 0) -> Trace:
    """The trace in ``path``; one that the original saved has no times for the first evaluations (NaN).

    Raises:
        CheckpointError: the file cannot be read, or is no trace over ``dims`` parameters and ``constraints``.
    """
    try:
        if not (other := other_format_of(path)):
            with open(path, "rb") as file:
                content = read_variables(file, struct_as_record=False, squeeze_me=False)
    except Exception as error:  # scipy raises nearly anything on damaged bytes: ValueError, zlib.error, IndexError ..
        raise CheckpointError(f"{path}: expected a trace in a .mat file, it cannot be read: {error}") from error
    if other:
        raise CheckpointError(f"{path}: expected a trace in the format of save -v7, got {other}")
    botrace = content.get("botrace")
    if not isinstance(botrace, np.ndarray) or botrace.size != 1 or not hasattr(botrace.flat[0], "_fieldnames"):
        raise CheckpointError(f"{path}: expected a struct botrace, got {', '.join(content) or 'nothing'}")
    struct = botrace.flat[0]
    samples = _numbers(path, struct, "samples")
    n = len(samples)
    values, times = _vector(path, struct, "values"), _vector(path, struct, "times", finite=False)
    con_values = _numbers(path, struct, "con_values") if constraints else np.empty((n, 0))
    expected = ((n, dims), (n,), (n, constraints))
    got = (samples.shape, values.shape, con_values.shape)
    if got != expected or len(times) > n:
        raise CheckpointError(
            f"{path}: expected samples, values and con_values of shapes {expected} and up to {n} times, "
            f"got {got} and {len(times)}"
        )
    return Trace(samples, values, np.append(np.full(n - len(times), np.nan), times), con_values)


def _vector(path: str | Path, struct: object, name: str, finite: bool = True) -> Array:
    """A row or a column."""
    value = _numbers(path, struct, name, finite)
    if min(value.shape) > 1:
        raise CheckpointError(f"{path}: botrace.{name}: expected a row or a column, got shape {value.shape}")
    return value.ravel()


def _numbers(path: str | Path, struct: object, name: str, finite: bool = True) -> Array:
    value = getattr(struct, name, None)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.ndim != 2:
        raise CheckpointError(f"{path}: botrace.{name}: expected a matrix of numbers, got {value!r}")
    if finite and not np.isfinite(value).all():
        raise CheckpointError(f"{path}: botrace.{name}: expected finite numbers, got NaN or Inf")
    return value.astype(np.float64)
