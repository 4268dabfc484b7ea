"""What passes over the weights on the host: Numba's kernels where they have proved themselves, or else NumPy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from clipq.learning.host_part import Gap, Part
from clipq.proved import unless_it_fails

WITHOUT_NUMBA = "pruning-quantization goes without Numba's kernels"


@cache
def part_kind(dtype: np.dtype) -> type[Part]:
    """For weights of one type, float32 or float64."""

    def proved() -> type[Part] | None:
        from clipq.learning.host_kernels import CompiledPart

        return CompiledPart if gives_the_same(CompiledPart, dtype.type) else None

    return unless_it_fails(proved, WITHOUT_NUMBA) or Part


def gives_the_same(kind: type[Part], number: Any) -> bool:
    """Whether every bit is that of NumPy's: with ties, zeros of both signs, tiny weights and NaN."""
    random = np.random.default_rng(0)
    x = np.concatenate([random.standard_normal(5000).round(2), random.standard_normal(5000) ** 9, [0.0, -0.0, np.nan]])
    x = x.astype(number)
    for share, n_thresholds in ((0.0, 2), (0.8, 14), (0.99, 254)):
        edge = number(np.nanquantile(np.abs(x), share))
        gap, nearer = Gap(-edge, edge), Gap(-edge, edge).narrowed()
        thresholds = np.linspace(-2, 2, n_thresholds).astype(number)
        for known in (None, np.flatnonzero(~nearer.holds(x)), np.arange(10)):
            if _results(kind(x), gap, known, thresholds) != _results(Part(x), gap, known, thresholds):
                return False
    return True


def _results(part: Part, gap: Gap, known: np.ndarray | None, thresholds: np.ndarray) -> list[object]:
    """Everything that follows from the weights alone, in bytes."""
    part.take_candidates(gap, known)
    codes, sums, counts = part.assigned(thresholds, gap, None)
    out = np.zeros_like(part.x)
    part.put(np.arange(256, dtype=out.dtype), part.where, codes, out)
    return [part.count_signs(), *(a.tobytes() for a in (out, sums[1:], counts[1:]))]
