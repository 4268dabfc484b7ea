"""Pruning-quantization of one layer on an accelerator: the same result as on the host, which never waits for it.

No number comes back to the host, no size depends on a value, and the operations are as many for any layer.  Magnitudes
are selected by counting 16 bits of their binary form at a time; means are summed in fixed point.  Both count integers,
whose sum is the same in any order, so the result is the same in every run.

Weights with NaN or Inf among them give NaN for all of the layer's quantized weights: the loss, which a training reads
anyway, tells.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from clipq.conventions import Conventions
from clipq.partition import Side, centres, clip_value, device_thresholds, edges
from clipq.quantized_net import LayerSetting

_DIGIT = 16  # bits counted at a time
_REPLICAS = 256  # of the sums, that neighbouring weights do not wait for the same one
_FRACTION = 31  # bits of each of the two words of a fixed-point number
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


class DeviceLayer(NamedTuple):
    """Tensors on the weights' device.

    quantized: of the weights' type, [n].  codes: uint8 [n].  levels: float32 [N].  counts: int64 [N].
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    levels: torch.Tensor
    counts: torch.Tensor
    neg: Side[torch.Tensor]
    pos: Side[torch.Tensor]


class _Clip(NamedTuple):
    """Of each side, or of all weights together, float64 [1 or 2]; ``dropped``: bool [n], pruned although kept_from."""

    c: torch.Tensor
    keep_from: torch.Tensor
    dropped: torch.Tensor | None


def learn_on_device(x: torch.Tensor, setting: LayerSetting, conventions: Conventions) -> DeviceLayer:
    """Prunes and quantizes x, float32 or float64 [n]: docs/method.md."""
    if not len(x):
        nothing = learn_on_device(x.new_zeros(1), setting, conventions)
        return nothing._replace(quantized=nothing.quantized[:0], codes=nothing.codes[:0])
    lowest, highest = torch.aminmax(x)
    extremes = torch.stack([-lowest, highest]).double().clamp(min=0) + 0.0  # NaN stays; no negative zero
    clip = _clip(x, extremes, setting.p, conventions)
    c = torch.minimum(clip.c, extremes)
    keep_from = clip.keep_from.expand(2)
    neg, pos = (Side(c[i], extremes[i], keep_from[i]) for i in (0, 1))
    bounds = device_thresholds(edges(neg, pos, setting.b, conventions), x.dtype, conventions)
    kept = (x <= -keep_from[0].to(x.dtype)).logical_or_(x >= keep_from[1].to(x.dtype))
    if clip.dropped is not None:
        kept.logical_and_(clip.dropped.logical_not())
    codes = torch.bucketize(x, bounds, right=True, out_int32=True).add_(1).mul_(kept)
    sums, counts = _sums(x, codes, extremes.amax(), 2**setting.b)
    empty = centres(neg, pos, setting.b, conventions) if conventions.empty_level == "centre" else torch.zeros_like(sums)
    levels = torch.where(counts > 0, sums / counts.clamp(min=1), empty)
    poison = (lowest - lowest) + (highest - highest)  # 0, or NaN
    levels = (levels + poison).float()
    table = torch.cat([poison.view(1), levels.to(x.dtype)])
    return DeviceLayer(table.index_select(0, codes), codes.to(torch.uint8), levels, counts, neg, pos)


def _clip(x: torch.Tensor, extremes: torch.Tensor, p: float, conventions: Conventions) -> _Clip:
    """A01 to A04."""
    if conventions.clip_scope == "all_weights":
        side = torch.zeros_like(x, dtype=torch.int64)
        n = torch.full_like(extremes[:1], len(x), dtype=torch.int64)
        extremes = extremes.amax().view(1)
    else:
        side = torch.where(x < 0, 0, torch.where(x > 0, 1, 2))
        n = torch.stack([(x < 0).sum(), (x > 0).sum()])
    magnitude, product = x.abs(), p * n.double()
    k = torch.minimum(_round(product, conventions), n)
    m_k = torch.where(k > 0, _largest(magnitude, side, n - k), 0.0)
    beyond = torch.nextafter(m_k.to(x.dtype), torch.full_like(m_k, float("inf"), dtype=x.dtype)).double()
    if conventions.clip_value == "last_clipped" and conventions.clip_ties == "prune":
        return _Clip(m_k, beyond, None)
    m_next = torch.where(k < n, _largest(magnitude, side, n - k - 1), extremes)
    c = clip_value(m_k, m_next, product, k, conventions)
    if conventions.clip_ties == "prune":
        return _Clip(c, beyond, None)
    tied = (k > 0) & (k < n) & (m_k == m_next) & (m_k > 0)
    dropped = _first(magnitude, side, torch.where(tied, m_k, -1.0), n, k) if conventions.clip_ties == "first" else None
    return _Clip(c, torch.where(tied, m_k, beyond), dropped)


def _round(product: torch.Tensor, conventions: Conventions) -> torch.Tensor:
    """k of A02."""
    match conventions.clip_count:
        case "ceil":
            return product.ceil().long()
        case "floor":
            return product.floor().long()
        case "round":
            return product.floor().long() + (product - product.floor() >= 0.5)


def _largest(magnitude: torch.Tensor, side: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """The magnitude of each side that ``rank`` others are larger than or equal to, float64 [sides].

    side: int64 [n], of each weight; a number from ``sides`` on is none.
    rank: int64 [sides].  The result means nothing where it is outside 0 .. size - 1.
    """
    keys, sides, digits = magnitude.view(_INTEGERS[magnitude.dtype]), len(rank), 1 << _DIGIT
    bits = 8 * keys.element_size()
    one = torch.ones_like(keys[:1], dtype=torch.int32).expand(len(keys))
    prefix = torch.zeros_like(rank, dtype=keys.dtype)
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        if shift < bits - _DIGIT:  # from the second digit on, only the weights that begin with the first
            wanted = torch.cat([prefix, torch.full_like(prefix[:1], -1)]).index_select(0, side)
            side = torch.where((keys >> (shift + _DIGIT)) == wanted, side, sides)
        digit = (keys >> shift) & (digits - 1)
        found = torch.zeros((sides + 1) * digits, dtype=torch.int32, device=keys.device)
        found.scatter_add_(0, side.clamp(max=sides) * digits + digit, one)
        at_least = found.view(sides + 1, digits)[:sides].flip(1).cumsum(1)
        place = (at_least <= rank[:, None]).sum(1).clamp(max=digits - 1)
        above = at_least.gather(1, (place - 1).clamp(min=0)[:, None])[:, 0]
        rank = rank - torch.where(place > 0, above, 0)
        prefix = (prefix << _DIGIT) | (digits - 1 - place).to(keys.dtype)
    return prefix.view(magnitude.dtype).double()


def _first(
    magnitude: torch.Tensor, side: torch.Tensor, tied_at: torch.Tensor, n: torch.Tensor, k: torch.Tensor
) -> torch.Tensor:
    """bool [n]: of each side's weights of magnitude ``tied_at`` the first, as many as make k with the smaller ones."""
    dropped = torch.zeros_like(magnitude, dtype=torch.bool)
    for i in range(len(n)):
        tied = (side == i) & (magnitude.double() == tied_at[i])
        smaller = n[i] - ((side == i) & (magnitude.double() >= tied_at[i])).sum()
        dropped.logical_or_(tied & (tied.cumsum(0) <= k[i] - smaller))
    return dropped


def _sums(x: torch.Tensor, codes: torch.Tensor, extreme: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum (float64) and count (int64) of the weights of each code 1 .. n - 1.

    Each weight is two integers of ``_FRACTION`` bits, in units of the largest one's power of two.
    """
    exponent = torch.frexp(extreme).exponent.long()
    scaled = x.double() * _power_of_two(_FRACTION - exponent)
    high = scaled.trunc()
    low = ((scaled - high) * 2.0**_FRACTION).round()
    place = torch.arange(len(x), device=x.device).bitwise_and_(_REPLICAS - 1).mul_(n).add_(codes)

    def total(values: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(_REPLICAS * n, dtype=torch.int64, device=x.device)
        return sums.scatter_add_(0, place, values).view(_REPLICAS, n).sum(0)[1:]

    counts = total(torch.ones_like(place[:1]).expand(len(x)))
    sums = total(high.long()).double() + total(low.long()).double() * 2.0**-_FRACTION
    return sums * _power_of_two(exponent - _FRACTION), counts


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent, exactly, float64; int64 exponents beyond the normal numbers' are brought to them."""
    return ((exponent.clamp(-1022, 1023) + 1023) << 52).view(torch.float64)
