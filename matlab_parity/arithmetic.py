"""What a reading gives where an implementation computes the edges otherwise: in another order, or in single precision.

An edge that is the same real number is then another floating-point number, and a weight beside it or on it lies in
another interval.  That says nothing of the reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipq.conventions import Conventions
from clipq.learning.partition import Side, centres
from clipq.ws_learn_one_layer import LayerQuantization
from matlab_parity.layer_inputs import LayerInput

Result = LayerQuantization[np.ndarray]
#: The j-th of m parts of a length, in the orders of operations that occur.
_PARTS: tuple[Callable[[Any, Any, Any], Any], ...] = (
    lambda length, j, m: length * j / m,
    lambda length, j, m: length * (j / m),
    lambda length, j, m: j * (length / m),
)


def other_outcomes(layer: LayerInput, conventions: Conventions, result: Result) -> Iterator[dict[str, np.ndarray]]:
    """``quantized``, ``codes`` and ``levels`` by other arithmetic, where these differ from ``result``."""
    seen = {result.codes.tobytes()}
    for number in (np.float64, np.float32):
        for part in _PARTS:
            codes = _codes(layer.W, conventions, result, part, number)
            if codes.tobytes() not in seen:
                seen.add(codes.tobytes())
                yield _outcome(layer.W, conventions, result, codes)


def _codes(
    W: np.ndarray, conventions: Conventions, result: Result, part: Callable[..., Any], number: Any
) -> np.ndarray:
    """uint8, of the shape of ``W``: the weights that the reading keeps, in intervals with these edges."""
    edges = _edges(result, conventions, part, number).astype(np.float64)
    w = W.astype(np.float64)[..., None]
    on_edge = {"outer": w > 0, "inner": w < 0, "upper": w == w, "lower": w != w}[conventions.edge]
    codes = 1 + ((w > edges) | (w == edges) & on_edge).sum(-1)
    return np.where(result.codes > 0, codes, 0).astype(np.uint8)


def _edges(result: Result, conventions: Conventions, part: Callable[..., Any], number: Any) -> np.ndarray:
    """Between the intervals, on the axis of weight values."""
    neg, pos = (_as(side, number) for side in (result.neg, result.pos))
    length_neg, length_pos = neg.e - neg.c, pos.e - pos.c
    if conventions.partition == "per_sign":
        of_neg = neg.c + _parts(length_neg, 2 ** (result.b - 1), part, number)
        of_pos = pos.c + _parts(length_pos, 2 ** (result.b - 1) - 1, part, number)
        return np.concatenate([-of_neg[::-1], np.zeros(1, number), of_pos])
    t = _parts(length_neg + length_pos, 2**result.b - 1, part, number)
    return np.where(t < length_neg, t - neg.e, pos.c + (t - length_neg))


def _parts(length: Any, m: int, part: Callable[..., Any], number: Any) -> np.ndarray:
    return np.asarray(part(length, np.arange(1, m).astype(number), number(m)))


def _as(side: Side, number: Any) -> Side:
    return Side(*(number(float(value)) for value in side))


def _outcome(W: np.ndarray, conventions: Conventions, result: Result, codes: np.ndarray) -> dict[str, np.ndarray]:
    n, flat = 2**result.b, codes.ravel()
    counts = np.bincount(flat, minlength=n)
    levels = np.bincount(flat, W.ravel(), n) / np.maximum(counts, 1)
    empty = np.zeros(n - 1)
    if conventions.empty_level == "centre":
        empty = centres(_as(result.neg, float), _as(result.pos, float), result.b, conventions)
    levels[1:] = np.where(counts[1:] > 0, levels[1:], empty)
    levels[0] = 0
    return {"codes": codes, "levels": levels[1:].astype(np.float32), "quantized": levels.astype(np.float32)[codes]}
