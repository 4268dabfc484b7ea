"""Pruning-quantization of one layer: clip, partition, quantize.

Mirrors ``ws_learn_one_layer.m`` of the original release (reconstructed: paper, section 3.1 and Figures 1 and 2).
``docs/method.md`` is the definition, step by step; ids such as A03 name a field of ``Conventions``.  Training and
the MATLAB parity tests call the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor, inf, isfinite
from typing import Any, Generic, TypeVar, overload

import numpy as np
import torch

from clipq.conventions import Conventions
from clipq.errors import WeightError
from clipq.learning.device_weights import learn_on_device
from clipq.learning.host_weights import HostWeights, Near, Rank
from clipq.learning.layer_step import layer_step
from clipq.learning.learned_layer import LearnedLayer
from clipq.learning.partition import Side, centres, clip_value, intervals, thresholds
from clipq.quantized_net import DTYPE_NAMES, WEIGHT_MAX, LayerSetting, QuantizedLayer

Array = TypeVar("Array", torch.Tensor, np.ndarray)
CodesOf = Callable[[], Array]
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True, eq=False)
class LayerQuantization(Generic[Array]):
    """What pruning-quantization makes of one layer.  N = 2^b - 1.

    quantized: W's shape, type (NumPy's in native byte order) and device: each weight's quantization level, or 0.
    find_codes: gives the ``codes``, which a training step does not need.
    levels: float32 [N], on W's device.
    counts: int64 [N], weights in each interval.
    neg, pos: the clipped sides, as magnitudes, on W's device.
    near: for the next step; None from an accelerator, which does not need it.
    """

    quantized: Array
    find_codes: CodesOf[Array]
    levels: Array
    counts: Array
    neg: Side
    pos: Side
    b: int
    conventions: Conventions
    near: Near | None = None

    @cached_property
    def codes(self) -> Array:
        """uint8 of W's shape: 0 pruned, 1..N the interval, ascending by value."""
        return self.find_codes()

    @property
    def c_neg(self) -> float:
        """The negative side's clip, <= 0, a float64 value.  Waits for the device."""
        return -float(self.neg.c)

    @property
    def c_pos(self) -> float:
        """The positive side's clip, >= 0, a float64 value.  Waits for the device."""
        return float(self.pos.c)

    @property
    def intervals(self) -> np.ndarray:
        """float64 [N, 2], lower and upper end of each interval on the axis of weight values.  Waits for the device."""
        return intervals(_on_host(self.neg), _on_host(self.pos), self.b, self.conventions)


@overload
def ws_learn_one_layer(
    W: torch.Tensor,
    p: float,
    b: int,
    conventions: Conventions = ...,
    name: str = ...,
    near: Near | tuple[float, float] | None = ...,
) -> LayerQuantization[torch.Tensor]: ...
@overload
def ws_learn_one_layer(
    W: np.ndarray,
    p: float,
    b: int,
    conventions: Conventions = ...,
    name: str = ...,
    near: Near | tuple[float, float] | None = ...,
) -> LayerQuantization[np.ndarray]: ...
def ws_learn_one_layer(
    W: torch.Tensor | np.ndarray,
    p: float,
    b: int,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    name: str = "layer",
    near: Near | tuple[float, float] | None = None,
) -> LayerQuantization[torch.Tensor] | LayerQuantization[np.ndarray]:
    """Prunes and quantizes the weights of one layer (paper, section 3.1; Figure 2).

    W: full-precision weights of any shape, float64, float32, float16 or bfloat16, in float32's range; not changed.
    p: pruning rate in [0, 1].  b: bits of a code, 2..8.
    name: the layer, as errors name it.
    near: what came of weights that are nearly the same, such as the last step's, or their (c_neg, c_pos): speeds the
        search for the clips, never changes a result.

    Raises:
        SettingError: p or b outside its range.
        WeightError: NaN, Inf or magnitudes above ``WEIGHT_MAX`` among the weights, or not a floating type of up to 64
            bits; names the layer.
    """
    setting = LayerSetting(p, b)
    weights = W.detach() if isinstance(W, torch.Tensor) else _as_tensor(W, name)
    learned = learn(weights, setting, conventions, name, near)
    if not isfinite(float(learned.neg.e + learned.pos.e)):  # an accelerator's, known here only now
        raise _out_of_range(name, weights)
    if isinstance(W, torch.Tensor):
        return learned
    return LayerQuantization(
        learned.quantized.numpy(), lambda: learned.codes.numpy(), learned.levels.numpy(), learned.counts.numpy(),
        learned.neg, learned.pos, setting.b, conventions, learned.near,
    )  # fmt: skip


def quantized_layer(name: str, W: torch.Tensor, theta: LayerSetting, conventions: Conventions) -> QuantizedLayer:
    """The layer ``name`` as a compressed network has it; with ``ws_learn_one_layer``'s errors."""
    learned = ws_learn_one_layer(W, theta.p, theta.b, conventions, name)
    codes, levels = (of.cpu().numpy() for of in (learned.codes, learned.levels))
    return QuantizedLayer(name, theta.b, codes, levels, DTYPE_NAMES[W.dtype])


def learn(
    W: torch.Tensor,
    setting: LayerSetting,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    name: str = "layer",
    near: Near | tuple[float, float] | None = None,
) -> LayerQuantization[torch.Tensor]:
    """``ws_learn_one_layer`` without waiting for an accelerator; what is out of range then gives quantized weights of
    NaN."""
    found = learn_weights(W, setting, conventions, name, Near(*near) if near else None)
    levels, counts = (torch.as_tensor(value, device=W.device) for value in (found.levels, found.counts))
    return LayerQuantization(
        found.quantized, found.find_codes, levels, counts, found.neg, found.pos, setting.b, conventions, found.near
    )


def learn_weights(
    W: torch.Tensor, setting: LayerSetting, conventions: Conventions, name: str, near: Near | None = None
) -> LearnedLayer:
    """The bare result of ``learn``: all that a training step needs, and no more."""
    if near and W.is_cpu and conventions.learn_by_default and (step := layer_step(W.dtype, _learn_on_host)):
        found = step(W, setting, near)
        if found is not None:
            return found
    if not W.is_floating_point():
        raise WeightError(f"layer {name}: expected floating-point weights, got {W.dtype}")
    x = W.reshape(-1)
    x = x if x.dtype in _NUMPY else x.float()
    found, shape = (_learn_on_host if x.is_cpu else _learn_on_device)(x, setting, conventions, name, near), W.shape
    codes = found.find_codes
    return found._replace(quantized=found.quantized.to(W.dtype).view(shape), find_codes=lambda: codes().view(shape))


def _learn_on_device(
    x: torch.Tensor, setting: LayerSetting, conventions: Conventions, name: str, near: Near | None
) -> LearnedLayer:
    learned = learn_on_device(x, setting, conventions)
    return LearnedLayer(learned.quantized, lambda: learned.codes, *learned[2:], None)


@np.errstate(over="ignore")  # what comes after the largest number is Inf, which no weight reaches
def _learn_on_host(
    x: torch.Tensor,
    setting: LayerSetting,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    name: str = "layer",
    near: Near | None = None,
) -> LearnedLayer:
    """By every reading, and whatever the weights are."""
    weights = HostWeights(x, setting.p, conventions.clip_scope == "all_weights", near)
    number: Any = _NUMPY[x.dtype]
    neg, pos = _clip(weights, x, number, setting.p, conventions, name)
    bounds = thresholds(neg, pos, setting.b, number, conventions)
    codes, sums, counts = weights.assign((neg.keep_from, pos.keep_from), bounds)
    levels = sums / np.maximum(counts, 1)
    if conventions.empty_level == "centre" and not counts.all():
        levels = np.where(counts > 0, levels, centres(neg, pos, setting.b, conventions))
    levels = levels.astype(np.float32)
    quantized = codes.decoded(np.concatenate((np.zeros(1, number), levels), dtype=number))
    found = Near(-neg.c, pos.c, codes.where())
    return LearnedLayer(quantized, codes.plain, levels, counts, neg, pos, found)


def _clip(
    weights: HostWeights, x: torch.Tensor, number: Any, p: float, conventions: Conventions, name: str
) -> tuple[Side, Side]:
    """The negative and the positive side, clipped (A01 to A04)."""
    survey = weights.survey()
    if survey.bad:
        raise _out_of_range(name, x)
    if conventions.clip_scope == "all_weights":
        ranks = [_rank(0, len(x), p, conventions)]
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
    weights: HostWeights, ranks: list[Rank], extremes: list[float], need_next: bool
) -> list[tuple[float, float]]:
    """m_k and m_{k+1} of each rank, with m_0 = 0 and m_{n+1} = m_n; for k = 0, m_1 only if ``need_next``."""
    pairs = []
    for rank, e in zip(ranks, extremes, strict=True):
        if rank.k == rank.n:
            pairs.append((e, e))
        elif rank.k == 0:
            pairs.append((0.0, weights.magnitudes(rank._replace(k=1))[0] if need_next and rank.n > 1 else e))
        else:
            pairs.append(weights.magnitudes(rank))
    return pairs


def _side(
    weights: HostWeights,
    rank: Rank,
    e: float,
    pair: tuple[float, float],
    p: float,
    number: Any,
    conventions: Conventions,
) -> Side:
    """The clip's value (A03), and from which magnitude on weights are kept (A04)."""
    m_k, m_next = pair
    c = clip_value(m_k, m_next, p * rank.n, rank.k, conventions)
    if conventions.clip_value == "quantile" and conventions.clip_ties != "first":
        return Side(c, e, _kept_from(c, number, conventions.clip_ties == "prune"))
    tied = 0 < rank.k < rank.n and m_k == m_next and m_k > 0
    if not tied or conventions.clip_ties == "prune":
        return Side(c, e, float(np.nextafter(number(m_k), number(inf))))
    if conventions.clip_ties == "first":
        weights.prune_first(rank, m_k)
    return Side(c, e, m_k)


def _kept_from(c: float, number: Any, beyond: bool) -> float:
    """The smallest positive number of the weights' type from ``c`` on, or ``beyond`` it."""
    rounded = number(c)
    if float(rounded) < c or (float(rounded) == c and (beyond or not c)):
        rounded = np.nextafter(rounded, number(inf))
    return float(rounded)


def _as_tensor(W: np.ndarray, name: str) -> torch.Tensor:
    dtype = W.dtype.newbyteorder("=")
    if dtype not in (np.float64, np.float32, np.float16):
        raise WeightError(f"layer {name}: expected floating-point weights of up to 64 bits, got {W.dtype}")
    array = np.require(W, dtype, ["C", "W", "E"])  # a copy of what torch cannot share, but for strides of single rows
    return torch.from_numpy(array.copy() if min(array.strides, default=0) < 0 else array)


def _on_host(side: Side) -> Side[float]:
    return Side(float(side.c), float(side.e), float(side.keep_from))


def _out_of_range(name: str, W: torch.Tensor) -> WeightError:
    if n_bad := int((~torch.isfinite(W)).sum()):
        return WeightError(f"layer {name}: expected finite weights, got {n_bad} of {W.numel()} that are NaN or Inf")
    n_large = int((W.abs() > WEIGHT_MAX).sum())
    return WeightError(
        f"layer {name}: expected weights of magnitude at most {WEIGHT_MAX:g}, as levels are float32, got {n_large} of "
        f"{W.numel()} that are larger"
    )
