"""Quantization intervals on the axis of weight values (paper, section 3.1 and Figure 2; docs/method.md, step 2).

Arrays are written once for the computer's memory and for an accelerator: ``xp`` is NumPy or torch.  What a training
step asks for on the host is computed number by number, as there are few.
"""

from __future__ import annotations

from functools import cache
from math import inf, nextafter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from clipq.conventions import Conventions

#: Whether a weight on an edge is not above it: where edges are negative or 0, and where they are positive (A06).
_EXCLUDED = {"outer": (True, False), "inner": (False, True), "upper": (False, False), "lower": (True, True)}
Number = TypeVar("Number", float, torch.Tensor)


class Side(NamedTuple, Generic[Number]):
    """One sign's magnitudes: the clip ``c``, the largest ``e``, and the smallest that is kept (more than c, or c).

    Floats, or torch's float64 tensors on a device, of one layer or of several: results that list intervals list them
    along the first dimension then, and layers along the last.
    """

    c: Number
    e: Number
    keep_from: Number


def clip_value(m_k: Any, m_next: Any, product: Any, k: Any, conventions: Conventions) -> Any:
    """The clip (A03) at the largest pruned magnitude ``m_k`` or above, up to the next one.  product: p*n, before A02.

    All floats, or all torch's float64 on a device.
    """
    match conventions.clip_value:
        case "last_clipped":
            return m_k
        case "first_kept":
            return m_next
        case "midpoint":
            return (m_k + m_next) / 2
        case "quantile":
            between = m_k + (product + 0.5 - k) * (m_next - m_k)
            if isinstance(k, torch.Tensor):
                return torch.where(k == 0, m_next, between)
            return between if k else m_next


def side_ends(side: Side[float], m: int) -> list[float]:
    """The m + 1 ends of a side's m intervals, as magnitudes from the clip outwards.

    Numba compiles this and the next two functions, too.
    """
    length = side.e - side.c
    return [side.c + length * j / m for j in range(m)] + [side.e]


def inner_edges(ends_neg: list[float], ends_pos: list[float]) -> list[float]:
    """Between neighbouring intervals, ascending, of both sides' ends: 0 between the sides."""
    return [-end for end in ends_neg[-2:0:-1]] + [0.0] + ends_pos[1:-1]


def middles(ends_neg: list[float], ends_pos: list[float]) -> list[float]:
    """Of both sides' intervals, ascending, of the sides' ends."""
    of_neg = [-(ends_neg[i] + ends_neg[i + 1]) / 2 for i in range(len(ends_neg) - 2, -1, -1)]
    return of_neg + [(ends_pos[i] + ends_pos[i + 1]) / 2 for i in range(len(ends_pos) - 1)]


def intervals(neg: Side, pos: Side, b: int, conventions: Conventions) -> Any:
    """float64 [N, 2]: lower and upper end of each interval."""
    xp = _library(neg)
    if conventions.partition == "joined":
        signed = _on_axis(neg, pos, _joined_ends(neg, pos, b))
        signed[-1] = pos.e
        return xp.stack([signed[:-1], signed[1:]], 1)
    ends_neg, ends_pos = -_reversed(_split(neg, 2 ** (b - 1))), _split(pos, 2 ** (b - 1) - 1)
    lower, upper = ([ends_neg[:-1], ends_pos[:-1]], [ends_neg[1:], ends_pos[1:]])
    return xp.stack([xp.concatenate(lower), xp.concatenate(upper)], 1)


def edges_and_centres(neg: Side, pos: Side, b: int, conventions: Conventions) -> tuple[Any, Any]:
    """float64 [N - 1], N = 2^b - 1: between neighbouring intervals, ascending, as A05 says, with ``per_sign`` 0 between
    the two sides; and [N], each interval's middle, joined intervals' on the joined axis."""
    if conventions.partition == "joined":
        ends = _joined_ends(neg, pos, b)
        return _on_axis(neg, pos, ends)[1:-1], _on_axis(neg, pos, (ends[:-1] + ends[1:]) / 2)
    ends = intervals(neg, pos, b, conventions)
    centres = (ends[:, 0] + ends[:, 1]) / 2
    ends[2 ** (b - 1) : 2 ** (b - 1) + 1, 0] *= 0  # the first positive interval's edge
    return ends[1:, 0], centres


def centres(neg: Side[float], pos: Side[float], b: int, conventions: Conventions) -> np.ndarray:
    """Those of ``edges_and_centres``.  So few are computed faster one by one than as arrays."""
    if conventions.partition == "joined":
        return edges_and_centres(neg, pos, b, conventions)[1]
    return np.array(middles(side_ends(neg, 2 ** (b - 1)), side_ends(pos, 2 ** (b - 1) - 1)))


def thresholds(
    neg: Side[float], pos: Side[float], b: int, dtype: type[np.floating], conventions: Conventions
) -> np.ndarray:
    """The edges as values of ``dtype``, such that a weight w lies above edge i exactly where w >= thresholds[i].

    A weight on an edge goes to one of its neighbours (A06), so an edge means ``w >= edge``, or ``w > edge``: from the
    next float64 on.
    """
    if conventions.partition == "joined":
        between = edges_and_centres(neg, pos, b, conventions)[0].tolist()
    else:
        between = inner_edges(side_ends(neg, 2 ** (b - 1)), side_ends(pos, 2 ** (b - 1) - 1))
    below, above = _EXCLUDED[conventions.edge]
    least = np.array([nextafter(edge, inf) if (above if edge > 0 else below) else edge for edge in between])
    number: Any = dtype
    rounded = least.astype(number)
    return np.nextafter(rounded, number(inf), out=rounded, where=rounded < least)


def device_thresholds(edges: torch.Tensor, dtype: torch.dtype, conventions: Conventions) -> torch.Tensor:
    """What ``thresholds`` gives, of edges on a device."""
    rounded = edges.to(dtype)
    exact = rounded.double()
    below, above = _EXCLUDED[conventions.edge]
    more = (edges > 0) & above | (edges <= 0) & below
    too_low = (exact < edges) | ((exact == edges) & more)
    return torch.where(too_low, torch.nextafter(rounded, torch.full_like(rounded, float("inf"))), rounded)


def _library(side: Side) -> Any:
    return torch if isinstance(side.e, torch.Tensor) else np


def _reversed(x: Any) -> Any:
    return x.flip(0) if isinstance(x, torch.Tensor) else x[::-1]


def _fractions(length: Any, m: int) -> Any:
    """length * j / m, j = 0 .. m, float64, where ``length`` is.

    A GPU divides by a tensor, but multiplies by the reciprocal of a number from the host, which rounds twice.
    """
    if not isinstance(length, torch.Tensor):
        return length * _to(m) / m
    count = torch.arange(m + 1, dtype=torch.float64, device=length.device).view(-1, *[1] * length.ndim)
    return length * count / count[-1]


@cache
def _to(m: int) -> np.ndarray:
    numbers = np.arange(m + 1.0)
    numbers.flags.writeable = False
    return numbers


def _split(side: Side, m: int) -> Any:
    """What ``side_ends`` gives, as an array."""
    ends = side.c + _fractions(side.e - side.c, m)
    ends[-1] = side.e
    return ends


def _joined_ends(neg: Side, pos: Side, b: int) -> Any:
    """The N + 1 ends on the joined axis."""
    return _fractions((neg.e - neg.c) + (pos.e - pos.c), 2**b - 1)


def _on_axis(neg: Side, pos: Side, t: Any) -> Any:
    """Places on the joined axis as values of weights."""
    length_neg = neg.e - neg.c
    return _library(neg).where(t < length_neg, t - neg.e, pos.c + (t - length_neg))
