"""Pruning-quantization of one layer: clip, partition, quantize.

Mirrors ``ws_learn_one_layer.m`` of the original release (reconstructed: paper, section 3.1 and Figures 1 and 2).
``docs/method.md`` is the definition, step by step; ids such as A03 name a field of ``Conventions``.  Training and
the MATLAB parity tests call the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, inf
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
import torch

from clipq.conventions import Conventions
from clipq.errors import WeightError
from clipq.order_statistic import adjacent_order_statistics, chunks
from clipq.quantized_net import LayerSetting

Array = TypeVar("Array", torch.Tensor, np.ndarray)
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True, eq=False)
class LayerQuantization(Generic[Array]):
    """What pruning-quantization makes of one layer.  N = 2^b - 1.

    quantized: W's shape, type and device: each weight's quantization level, or 0.
    codes: uint8 of W's shape: 0 pruned, 1..N the interval, ascending by value.
    levels: float32 [N], on W's device.
    counts: int64 [N], weights in each interval.
    c_neg, c_pos: the clips, c_neg <= 0 <= c_pos, float64 values.
    intervals: float64 [N, 2], lower and upper end of each interval on the axis of weight values (host memory).
    """

    quantized: Array
    codes: Array
    levels: Array
    counts: Array
    c_neg: float
    c_pos: float
    intervals: np.ndarray


class Side(NamedTuple):
    """One sign's magnitudes: clip ``c``, largest magnitude ``e``, and the smallest magnitude that is kept."""

    c: float
    e: float
    keep_from: float


@overload
def ws_learn_one_layer(
    W: torch.Tensor, p: float, b: int, conventions: Conventions = ..., name: str = ...
) -> LayerQuantization[torch.Tensor]: ...
@overload
def ws_learn_one_layer(
    W: np.ndarray, p: float, b: int, conventions: Conventions = ..., name: str = ...
) -> LayerQuantization[np.ndarray]: ...
def ws_learn_one_layer(
    W: torch.Tensor | np.ndarray,
    p: float,
    b: int,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    name: str = "layer",
) -> LayerQuantization[torch.Tensor] | LayerQuantization[np.ndarray]:
    """Prunes and quantizes the weights of one layer (paper, section 3.1; Figure 2).

    W: full-precision weights of any shape, float64, float32, float16 or bfloat16; not changed.
    p: pruning rate in [0, 1].  b: bits of a code, 2..8.
    name: the layer, as errors name it.

    Raises:
        SettingError: p or b outside its range.
        WeightError: NaN or Inf among the weights, or not a floating type; names the layer.
    """
    setting = LayerSetting(p, b)
    if isinstance(W, np.ndarray):
        return _as_numpy(_learn(_as_tensor(W, name), setting, conventions, name))
    return _learn(W.detach(), setting, conventions, name)


def _learn(W: torch.Tensor, setting: LayerSetting, conventions: Conventions, name: str) -> LayerQuantization:
    if not W.is_floating_point():
        raise WeightError(f"layer {name}: expected floating-point weights, got {W.dtype}")
    x = W.reshape(-1)
    if x.dtype not in _NUMPY:
        x = x.float()
    neg, pos, also_pruned = _clip(x, setting.p, conventions, name)
    n_levels = 2**setting.b - 1
    edges, intervals, centres = _partition(neg, pos, setting.b, conventions)
    codes, sums, counts = _assign(x, neg, pos, also_pruned, _thresholds(edges, conventions, x), n_levels)
    empty = torch.from_numpy(centres if conventions.empty_level == "centre" else np.zeros(n_levels)).to(x.device)
    levels = torch.where(counts > 0, sums / counts, empty).float()
    return LayerQuantization(
        quantized=_look_up(codes, levels, W.dtype).view(W.shape),
        codes=codes.view(W.shape),
        levels=levels,
        counts=counts,
        c_neg=-neg.c,
        c_pos=pos.c,
        intervals=intervals,
    )


# 1. Clipping


def _clip(x: torch.Tensor, p: float, conventions: Conventions, name: str) -> tuple[Side, Side, torch.Tensor | None]:
    """The two sides, and for A04 = ``first`` a mask of the tied weights that are pruned all the same."""
    n_neg, n_pos, e_neg, e_pos = _survey(x, name)
    if conventions.clip_scope == "all_weights":
        side, also = _clip_side(x.abs(), 1, x.numel(), max(e_neg, e_pos), p, conventions)
        return side._replace(c=min(side.c, e_neg), e=e_neg), side._replace(c=min(side.c, e_pos), e=e_pos), also
    neg, also_neg = _clip_side(x, -1, n_neg, e_neg, p, conventions)
    pos, also_pos = _clip_side(x, 1, n_pos, e_pos, p, conventions)
    if also_neg is not None and also_pos is not None:
        return neg, pos, also_neg | also_pos
    return neg, pos, also_pos if also_neg is None else also_neg


def _survey(x: torch.Tensor, name: str) -> tuple[int, int, float, float]:
    """Counts of negative and positive weights, and the largest magnitude of each sign (0 for none)."""
    n_neg = n_pos = 0
    lowest = highest = 0.0
    for part in chunks(x) if x.numel() else ():
        low, high = (float(v) for v in torch.aminmax(part))
        if not (-inf < low and high < inf):
            n_bad = int(torch.count_nonzero(~torch.isfinite(x)))
            raise WeightError(f"layer {name}: expected finite weights, got {n_bad} of {x.numel()} that are NaN or Inf")
        n_neg += int(torch.count_nonzero(part < 0))
        n_pos += int(torch.count_nonzero(part > 0))
        lowest, highest = min(lowest, low), max(highest, high)
    return n_neg, n_pos, -lowest, highest


def _clip_side(
    x: torch.Tensor, sign: int, n: int, e: float, p: float, conventions: Conventions
) -> tuple[Side, torch.Tensor | None]:
    """Clips the side of ``sign``: the ``n`` largest of ``x`` (sign 1), or the ``n`` smallest (sign -1)."""
    k = _count(p * n, n, conventions)
    need_next = conventions.clip_value != "last_clipped"
    m_k, m_next = _magnitudes_at(x, sign, n, k, e, need_next)
    match conventions.clip_value:
        case "last_clipped":
            c = m_k
        case "first_kept":
            c = m_next
        case "midpoint":
            c = (m_k + m_next) / 2
        case "quantile":
            c = m_k + (p * n + 0.5 - k) * (m_next - m_k)
    tied = 0 < k < n and m_k == m_next and m_k > 0
    if not tied or conventions.clip_ties == "prune":
        return Side(c, e, _next_up(m_k, x.dtype)), None
    also_pruned = _first_tied(x, sign, n, sign * m_k, k) if conventions.clip_ties == "first" else None
    return Side(c, e, m_k), also_pruned


def _count(product: float, n: int, conventions: Conventions) -> int:
    """k of A02, from the float64 product p*n."""
    rules: dict[str, Callable[[float], int]] = {"ceil": ceil, "floor": floor, "round": _round_half_away}
    return min(rules[conventions.clip_count](product), n)


def _round_half_away(value: float) -> int:
    """MATLAB's round of a number >= 0; floor(value + 0.5) would take 0.49999999999999994 to 1."""
    whole = floor(value)
    return whole + (value - whole >= 0.5)


def _magnitudes_at(x: torch.Tensor, sign: int, n: int, k: int, e: float, need_next: bool) -> tuple[float, float]:
    """m_k and m_{k+1} of a side; m_0 = 0 and m_{n+1} = m_n.  For k = 0, m_1 only if ``need_next``."""
    if k == n:
        return e, e
    if k == 0 and not need_next:
        return 0.0, inf
    rank = x.numel() - n + k if sign > 0 else n - k
    if not 1 <= rank < x.numel():  # k = 0 and every weight on this side
        return 0.0, float(x.min() if sign > 0 else -x.max())
    lower, upper = adjacent_order_statistics(x, rank)
    m_k, m_next = (lower, upper) if sign > 0 else (-upper, -lower)
    return (m_k if k else 0.0), m_next


def _first_tied(x: torch.Tensor, sign: int, n: int, value: float, k: int) -> torch.Tensor:
    """Mask of the first weights equal to ``value``, as many as make k with the side's smaller ones."""
    smaller = int(torch.count_nonzero(x < value if sign > 0 else x > value)) - (x.numel() - n)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[(x == value).nonzero().flatten()[: k - smaller]] = True
    return mask


def _next_up(value: float, dtype: torch.dtype) -> float:
    number: Any = _NUMPY[dtype]
    return float(np.nextafter(number(value), number(inf)))


# 2. Partitioning


def _partition(neg: Side, pos: Side, b: int, conventions: Conventions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The N - 1 edges between neighbouring intervals, ascending; the intervals [N, 2]; their centres [N].  float64.

    With A05 = ``per_sign`` the edge between the two sides is 0, which no kept weight touches.
    """
    if conventions.partition == "joined":
        return _partition_joined(neg, pos, 2**b - 1)
    edges_neg = -_split_side(neg, 2 ** (b - 1))[::-1]
    edges_pos = _split_side(pos, 2 ** (b - 1) - 1)
    lower = np.concatenate([edges_neg[:-1], edges_pos[:-1]])
    upper = np.concatenate([edges_neg[1:], edges_pos[1:]])
    between = np.concatenate([edges_neg[1:-1], [0.0], edges_pos[1:-1]])
    return between, np.stack([lower, upper], axis=1), (lower + upper) / 2


def _split_side(side: Side, m: int) -> np.ndarray:
    """The m + 1 ends of a side's m uniform intervals, as magnitudes from the clip outwards."""
    ends = side.c + (side.e - side.c) * np.arange(m + 1, dtype=np.float64) / m
    ends[-1] = side.e
    return ends


def _partition_joined(neg: Side, pos: Side, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    length_neg = neg.e - neg.c
    length = length_neg + (pos.e - pos.c)

    def on_axis(t: np.ndarray) -> np.ndarray:
        return np.where(t < length_neg, t - neg.e, pos.c + (t - length_neg))

    ends = length * np.arange(n + 1, dtype=np.float64) / n
    signed = on_axis(ends)
    signed[-1] = pos.e
    return signed[1:-1], np.stack([signed[:-1], signed[1:]], axis=1), on_axis((ends[:-1] + ends[1:]) / 2)


# 3. Quantizing


def _thresholds(edges: np.ndarray, conventions: Conventions, x: torch.Tensor) -> torch.Tensor:
    """The edges in x's type, such that a weight w lies above edge i exactly where w >= thresholds[i].

    A weight on an edge goes away from zero or towards it (A06), so an edge counts as ``w >= edge`` on one side of
    zero and as ``w > edge`` on the other.
    """
    number: Any = _NUMPY[x.dtype]
    rounded = edges.astype(number)
    at_least = (edges > 0) == (conventions.edge == "outer")
    short = np.where(at_least, rounded.astype(np.float64) < edges, rounded.astype(np.float64) <= edges)
    return torch.from_numpy(np.where(short, np.nextafter(rounded, number(inf)), rounded)).to(x.device)


def _assign(
    x: torch.Tensor,
    neg: Side,
    pos: Side,
    also_pruned: torch.Tensor | None,
    thresholds: torch.Tensor,
    n_levels: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes (uint8, as x), and the float64 sum and int64 count of the weights in each interval."""
    codes = torch.zeros_like(x, dtype=torch.uint8)
    sums = torch.zeros(n_levels, dtype=torch.float64, device=x.device)
    counts = torch.zeros(n_levels, dtype=torch.int64, device=x.device)
    skip = chunks(also_pruned) if also_pruned is not None else None
    for part, out in zip(chunks(x), chunks(codes), strict=True):
        kept = (part >= pos.keep_from).logical_or_(part <= -neg.keep_from)
        if skip is not None:
            kept.logical_and_(next(skip).logical_not())
        where = kept.nonzero().flatten()
        values = part[where]
        interval = torch.bucketize(values, thresholds, out_int32=True, right=True)
        sums += torch.bincount(interval, weights=values.double(), minlength=n_levels)
        counts += torch.bincount(interval, minlength=n_levels)
        out[where] = interval.add_(1).to(torch.uint8)
    return codes, sums, counts


def _look_up(codes: torch.Tensor, levels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each code's level, in ``dtype``; code 0 is 0."""
    table = torch.cat([levels.new_zeros(1), levels]).to(dtype)
    quantized = torch.empty_like(codes, dtype=dtype)
    for part, out in zip(chunks(codes), chunks(quantized), strict=True):
        torch.index_select(table, 0, part.int(), out=out)
    return quantized


def _as_tensor(W: np.ndarray, name: str) -> torch.Tensor:
    if W.dtype.kind != "f":
        raise WeightError(f"layer {name}: expected floating-point weights, got {W.dtype}")
    return torch.from_numpy(np.ascontiguousarray(W))


def _as_numpy(r: LayerQuantization[torch.Tensor]) -> LayerQuantization[np.ndarray]:
    return LayerQuantization(
        r.quantized.numpy(), r.codes.numpy(), r.levels.numpy(), r.counts.numpy(), r.c_neg, r.c_pos, r.intervals
    )
