"""Pruning-quantization of one layer: clip, partition, quantize.

Mirrors ``ws_learn_one_layer.m`` of the original release (reconstructed: paper, section 3.1 and Figures 1 and 2).
``docs/method.md`` is the definition, step by step; ids such as A03 name a field of ``Conventions``.  Training and
the MATLAB parity tests call the same function.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch

from clipq.conventions import Conventions
from clipq.device_weights import DeviceWeights
from clipq.errors import WeightError
from clipq.host_weights import HostWeights, Survey
from clipq.order_statistic import Rank
from clipq.partition import Side, partition, thresholds
from clipq.quantized_net import LayerSetting

Array = TypeVar("Array", torch.Tensor, np.ndarray)
Weights = HostWeights | DeviceWeights
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


@overload
def ws_learn_one_layer(
    W: torch.Tensor,
    p: float,
    b: int,
    conventions: Conventions = ...,
    name: str = ...,
    near: tuple[float, float] | None = ...,
) -> LayerQuantization[torch.Tensor]: ...
@overload
def ws_learn_one_layer(
    W: np.ndarray,
    p: float,
    b: int,
    conventions: Conventions = ...,
    name: str = ...,
    near: tuple[float, float] | None = ...,
) -> LayerQuantization[np.ndarray]: ...
def ws_learn_one_layer(
    W: torch.Tensor | np.ndarray,
    p: float,
    b: int,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    name: str = "layer",
    near: tuple[float, float] | None = None,
) -> LayerQuantization[torch.Tensor] | LayerQuantization[np.ndarray]:
    """Prunes and quantizes the weights of one layer (paper, section 3.1; Figure 2).

    W: full-precision weights of any shape, float64, float32, float16 or bfloat16; not changed.
    p: pruning rate in [0, 1].  b: bits of a code, 2..8.
    name: the layer, as errors name it.
    near: (c_neg, c_pos) of weights that are nearly the same, such as the last step's: speeds the search for the
        clips, never changes a result.

    Raises:
        SettingError: p or b outside its range.
        WeightError: NaN or Inf among the weights, or not a floating type; names the layer.
    """
    setting = LayerSetting(p, b)
    if not isinstance(W, np.ndarray):
        return _learn(W.detach(), setting, conventions, name, near)
    learned = _learn(_as_tensor(W, name), setting, conventions, name, near)
    return LayerQuantization(
        learned.quantized.numpy(), learned.codes.numpy(), learned.levels.numpy(), learned.counts.numpy(),
        learned.c_neg, learned.c_pos, learned.intervals,
    )  # fmt: skip


def _learn(
    W: torch.Tensor, setting: LayerSetting, conventions: Conventions, name: str, near: tuple[float, float] | None
) -> LayerQuantization[torch.Tensor]:
    if not W.is_floating_point():
        raise WeightError(f"layer {name}: expected floating-point weights, got {W.dtype}")
    x = W.reshape(-1)
    x = x if x.dtype in _NUMPY else x.float()
    weights: Weights = HostWeights(x, near) if x.device.type == "cpu" else DeviceWeights(x)
    number: Any = _NUMPY[x.dtype]
    neg, pos = _clip(weights, len(x), number, setting.p, conventions, name)
    split = partition(neg, pos, setting.b, conventions)
    edges = thresholds(split.edges, number, conventions)
    sums, counts = weights.assign((neg.keep_from, pos.keep_from), edges, len(split.centres))
    empty = split.centres if conventions.empty_level == "centre" else np.zeros_like(split.centres)
    levels = np.where(counts > 0, sums / np.maximum(counts, 1), empty).astype(np.float32)
    quantized, codes = weights.write(levels)
    return LayerQuantization(
        quantized=quantized.to(W.dtype).view(W.shape),
        codes=codes.view(W.shape),
        levels=torch.from_numpy(levels).to(W.device),
        counts=torch.from_numpy(counts).to(W.device),
        c_neg=-neg.c,
        c_pos=pos.c,
        intervals=split.intervals,
    )


def _clip(weights: Weights, n: int, number: Any, p: float, conventions: Conventions, name: str) -> tuple[Side, Side]:
    """The negative and the positive side, clipped (A01 to A04)."""
    survey: Survey = weights.survey()
    if survey.n_bad:
        raise WeightError(f"layer {name}: expected finite weights, got {survey.n_bad} of {n} that are NaN or Inf")
    if conventions.clip_scope == "all_weights":
        ranks = [_rank(0, n, p, conventions)]
        extremes = [max(survey.e_neg, survey.e_pos)]
    else:
        ranks = [_rank(-1, survey.n_neg, p, conventions), _rank(1, survey.n_pos, p, conventions)]
        extremes = [survey.e_neg, survey.e_pos]
    pairs = _neighbours(weights, ranks, extremes, conventions.clip_value != "last_clipped")
    sides = [
        _side(weights, rank, e, pair, p, number, conventions)
        for rank, e, pair in zip(ranks, extremes, pairs, strict=True)
    ]
    neg, pos = (sides[0], sides[-1])
    return neg._replace(c=min(neg.c, survey.e_neg), e=survey.e_neg), pos._replace(
        c=min(pos.c, survey.e_pos), e=survey.e_pos
    )


def _rank(sign: int, n: int, p: float, conventions: Conventions) -> Rank:
    """k of A02, from the float64 product p*n."""
    product = p * n
    match conventions.clip_count:
        case "ceil":
            k = ceil(product)
        case "floor":
            k = floor(product)
        case "round":
            k = floor(product) + (product - floor(product) >= 0.5)  # MATLAB's; floor(product + 0.5) errs below 1/2
    return Rank(sign, n, min(k, n))


def _neighbours(
    weights: Weights, ranks: list[Rank], extremes: list[float], need_next: bool
) -> list[tuple[float, float]]:
    """m_k and m_{k+1} of each rank, with m_0 = 0 and m_{n+1} = m_n; for k = 0, m_1 only if ``need_next``."""
    inner = [rank for rank in ranks if 0 < rank.k < rank.n]
    least = [Rank(rank.sign, rank.n, 1) for rank in ranks if need_next and rank.k == 0 and rank.n > 1]
    found = dict(zip(inner + least, weights.magnitudes(inner + least), strict=True))
    pairs = []
    for rank, e in zip(ranks, extremes, strict=True):
        if rank.k == rank.n:
            pairs.append((e, e))
        elif rank.k == 0:
            pairs.append((0.0, found[Rank(rank.sign, rank.n, 1)][0] if need_next and rank.n > 1 else e))
        else:
            pairs.append(found[rank])
    return pairs


def _side(
    weights: Weights,
    rank: Rank,
    e: float,
    pair: tuple[float, float],
    p: float,
    number: Any,
    conventions: Conventions,
) -> Side:
    """The clip's value (A03), and from which magnitude on weights are kept (A04)."""
    m_k, m_next = pair
    match conventions.clip_value:
        case "last_clipped":
            c = m_k
        case "first_kept":
            c = m_next
        case "midpoint":
            c = (m_k + m_next) / 2
        case "quantile":
            c = m_k + (p * rank.n + 0.5 - rank.k) * (m_next - m_k)
    tied = 0 < rank.k < rank.n and m_k == m_next and m_k > 0
    if not tied or conventions.clip_ties == "prune":
        return Side(c, e, float(np.nextafter(number(m_k), number(inf))))
    if conventions.clip_ties == "first":
        weights.prune_first(rank, m_k)
    return Side(c, e, m_k)


def _as_tensor(W: np.ndarray, name: str) -> torch.Tensor:
    if W.dtype.kind != "f":
        raise WeightError(f"layer {name}: expected floating-point weights, got {W.dtype}")
    return torch.from_numpy(np.ascontiguousarray(W))
