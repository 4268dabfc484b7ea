"""Quantization intervals on the axis of weight values (paper, section 3.1 and Figure 2; docs/method.md, step 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clipq.conventions import Conventions


class Side(NamedTuple):
    """One sign's magnitudes: the clip ``c``, the largest ``e``, and the smallest that is kept (more than c, or c)."""

    c: float
    e: float
    keep_from: float


class Partition(NamedTuple):
    """N = 2^b - 1 intervals, ascending.  All float64.

    edges: [N - 1], between neighbouring intervals; with A05 = ``per_sign`` 0 stands between the two sides.
    intervals: [N, 2], lower and upper end.
    centres: [N].
    """

    edges: np.ndarray
    intervals: np.ndarray
    centres: np.ndarray


def partition(neg: Side, pos: Side, b: int, conventions: Conventions) -> Partition:
    """Splits the non-clipped portion of the axis into 2^b - 1 uniform intervals, as A05 says."""
    if conventions.partition == "joined":
        return _joined(neg, pos, 2**b - 1)
    ends_neg = -_split(neg, 2 ** (b - 1))[::-1]
    ends_pos = _split(pos, 2 ** (b - 1) - 1)
    lower = np.concatenate([ends_neg[:-1], ends_pos[:-1]])
    upper = np.concatenate([ends_neg[1:], ends_pos[1:]])
    edges = np.concatenate([ends_neg[1:-1], [0.0], ends_pos[1:-1]])
    return Partition(edges, np.stack([lower, upper], axis=1), (lower + upper) / 2)


def _split(side: Side, m: int) -> np.ndarray:
    """The m + 1 ends of a side's m intervals, as magnitudes from the clip outwards."""
    ends = side.c + (side.e - side.c) * np.arange(m + 1, dtype=np.float64) / m
    ends[-1] = side.e
    return ends


def _joined(neg: Side, pos: Side, n: int) -> Partition:
    length_neg = neg.e - neg.c
    length = length_neg + (pos.e - pos.c)

    def on_axis(t: np.ndarray) -> np.ndarray:
        return np.where(t < length_neg, t - neg.e, pos.c + (t - length_neg))

    ends = length * np.arange(n + 1, dtype=np.float64) / n
    signed = on_axis(ends)
    signed[-1] = pos.e
    return Partition(signed[1:-1], np.stack([signed[:-1], signed[1:]], axis=1), on_axis((ends[:-1] + ends[1:]) / 2))


def thresholds(edges: np.ndarray, dtype: type[np.floating], conventions: Conventions) -> np.ndarray:
    """The edges as values of ``dtype``, such that a weight w lies above edge i exactly where w >= thresholds[i].

    A weight on an edge goes away from zero or towards it (A06), so an edge means ``w >= edge`` on one side of zero
    and ``w > edge`` on the other.
    """
    number: Any = dtype
    rounded = edges.astype(number)
    as_float64 = rounded.astype(np.float64)
    at_least = (edges > 0) == (conventions.edge == "outer")
    too_low = np.where(at_least, as_float64 < edges, as_float64 <= edges)
    return np.where(too_low, np.nextafter(rounded, number(np.inf)), rounded)
