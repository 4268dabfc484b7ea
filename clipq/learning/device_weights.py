"""Pruning-quantization on an accelerator, of several layers together: the host's result, but the host never waits.

No number comes back to the host, no size depends on a value, and the operations are as many for any number of layers
that fit in a block (``device_rows``); each further block takes some thirty more.  Magnitudes are selected by counting
16 bits of their binary form at a time.  Means are summed in fixed point: to 2^-41 of the layer's largest weight or
finer in layers of up to 100 million weights, and to 2^-56 in small ones.

Weights with NaN or Inf among them, or beyond float32's range, give NaN for all of their layer's quantized weights: the
loss, which a training reads anyway, tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
from torch.nn import functional

from clipq.conventions import Conventions
from clipq.learning.device_passes import passes, step
from clipq.learning.device_rows import BINS, DeviceRows, Layout, Survey, layout
from clipq.learning.partition import Side, clip_value, device_thresholds, edges_and_centres
from clipq.quantized_net import WEIGHT_MAX, LayerSetting

_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


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


class Numbers(NamedTuple):
    """Of layers that were learned together: levels float32, counts int64, [L, N] with the largest N; sides float64
    [6, L], ``Side`` of the negative and of the positive one."""

    levels: torch.Tensor
    counts: torch.Tensor
    sides: torch.Tensor


class DeviceLayers(NamedTuple):
    """Layers that were learned together, ``order`` says which is where.

    quantized, codes: of all, laid out by row.
    """

    order: Sequence[int]
    layout: Layout
    quantized: torch.Tensor
    codes: torch.Tensor
    numbers: Callable[[], Numbers]

    def span(self, layer: int) -> slice:
        """Where it is in the quantized weights and in the codes, laid end to end."""
        return self.layout.span(self.order.index(layer))

    def layer(self, layer: int, b: int) -> DeviceLayer:
        """Everything of a layer."""
        at, n, span = self.order.index(layer), 2**b - 1, self.span(layer)
        levels, counts, sides = self.numbers()
        neg, pos = Side(*sides[:3, at]), Side(*sides[3:, at])
        quantized, codes = self.quantized.view(-1)[span], self.codes.view(-1)[span]
        return DeviceLayer(quantized, codes, levels[at, :n], counts[at, :n], neg, pos)


class _Clip(NamedTuple):
    """Of each side, or of all weights together, float64 [L, 2 or 1].

    dropped: bool, by row, those that are pruned although their magnitude is ``keep_from``.
    """

    c: torch.Tensor
    keep_from: torch.Tensor
    dropped: torch.Tensor | None


def learn_on_device(x: torch.Tensor, setting: LayerSetting, conventions: Conventions) -> DeviceLayer:
    """Prunes and quantizes x, of any floating type [n]: docs/method.md."""
    return learn_together([x], [setting], conventions).layer(0, setting.b)


def learn_together(
    weights: Sequence[torch.Tensor], settings: Sequence[LayerSetting], conventions: Conventions
) -> DeviceLayers:
    """Prunes and quantizes each of the weights, all [n], of one floating type and on one device, with its setting."""
    device, dtype = weights[0].device, weights[0].dtype
    learn_step = step(device, dtype, learn_by) if conventions.learn_by_default else None
    if learn_step and not torch.cuda.is_current_stream_capturing():  # it would start a graph within a graph
        return learn_step(weights, settings)
    return learn_by(passes(device, dtype, learn_by), weights, settings, conventions)


def learn_by(
    make: type[DeviceRows],
    weights: Sequence[torch.Tensor],
    settings: Sequence[LayerSetting],
    conventions: Conventions,
) -> DeviceLayers:
    """``learn_together`` with the passes over the weights that ``make`` does."""
    order = sorted(range(len(weights)), key=lambda i: settings[i].b)
    bits = tuple(settings[i].b for i in order)
    device = weights[0].device
    rows = make([weights[i] for i in order], layout(tuple(len(weights[i]) for i in order), device))
    survey = rows.survey() if rows.dtype == torch.float32 else _none_too_large(rows.survey())
    clip = _clip(rows, survey, _rates(tuple(settings[i].p for i in order), device), conventions)
    c, keep_from = torch.minimum(clip.c, survey.extremes), clip.keep_from.expand(-1, 2)
    neg, pos = (Side(c[:, i], survey.extremes[:, i], keep_from[:, i]) for i in (0, 1))
    between, centres = _partition(neg, pos, bits, conventions)
    bounds, code_of = _buckets(device_thresholds(between, rows.dtype, conventions), neg, pos)
    n_codes = 2 ** bits[-1]
    sums, counts = rows.assign(bounds, code_of, n_codes, survey.extremes.amax(1), clip.dropped)
    counts = counts[:, 1:]
    empty = centres if conventions.empty_level == "centre" else torch.zeros_like(centres)
    levels = torch.where(counts > 0, sums[:, 1:] / counts.clamp(min=1), empty)
    values = functional.pad(levels.float(), (1, 0))  # of the codes from 0 on
    values.masked_fill_(survey.bad[:, None], float("nan"))
    rows.write(values.to(weights[0].dtype))
    numbers = Numbers(values[:, 1:], counts, torch.stack([*neg, *pos]))
    return DeviceLayers(order, rows.layout, rows.quantized, rows.codes, lambda: numbers)


def _none_too_large(survey: Survey) -> Survey:
    """The same with layers of larger weights than ``WEIGHT_MAX`` among the bad ones."""
    bad = survey.bad | (survey.extremes > WEIGHT_MAX).any(1)
    return survey._replace(bad=bad, extremes=survey.extremes.masked_fill(bad[:, None], float("nan")))


@lru_cache(maxsize=16)
def _rates(p: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """The pruning rates, float64 [L, 1]: sent where they have changed, without waiting for the device."""
    return torch.tensor(p, dtype=torch.float64, device="cpu").to(device, non_blocking=True)[:, None]


def _clip(rows: DeviceRows, survey: Survey, p: torch.Tensor, conventions: Conventions) -> _Clip:
    """A01 to A04."""
    bins, n, extremes, _ = survey
    if conventions.clip_scope == "all_weights":
        bins, n, extremes = bins.sum(1, keepdim=True), rows.layout.n[:, None], extremes.amax(1, keepdim=True)
    product = p * n
    k = torch.minimum(_round(product, conventions), n)
    m_k = _largest(rows, bins, n - k).masked_fill(k == 0, 0.0)
    if conventions.clip_value == "last_clipped" and conventions.clip_ties == "prune":
        return _Clip(m_k, _next_larger(m_k, rows.dtype), None)
    m_next = torch.where(k < n, _largest(rows, bins, n - k - 1), extremes)
    c = clip_value(m_k, m_next, product, k, conventions)
    if conventions.clip_value == "quantile" and conventions.clip_ties != "first":
        return _Clip(c, _kept_from(c, rows.dtype, conventions.clip_ties == "prune"), None)
    beyond = _next_larger(m_k, rows.dtype)
    if conventions.clip_ties == "prune":
        return _Clip(c, beyond, None)
    tied = (k > 0) & (k < n) & (m_k == m_next) & (m_k > 0)
    at = torch.where(tied, m_k, float("inf"))
    dropped = rows.drop_first(at, n, k) if conventions.clip_ties == "first" else None
    return _Clip(c, torch.where(tied, m_k, beyond), dropped)


def _kept_from(c: torch.Tensor, dtype: torch.dtype, beyond: bool) -> torch.Tensor:
    """The smallest positive numbers of the weights' type from ``c`` on, or ``beyond`` it, as float64."""
    rounded = c.to(dtype).double()
    too_low = (rounded < c) | ((rounded == c) & ((c == 0) | beyond))
    return torch.where(too_low, _next_larger(rounded, dtype), rounded)


def _next_larger(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The next larger number of ``dtype`` after these of it, none negative, as float64."""
    return (x.to(dtype).view(_BITS[dtype]) + 1).view(dtype).double()


def _round(product: torch.Tensor, conventions: Conventions) -> torch.Tensor:
    """k of A02."""
    match conventions.clip_count:
        case "ceil":
            return product.ceil().long()
        case "floor":
            return product.floor().long()
        case "round":
            return product.floor().long() + (product - product.floor() >= 0.5)


def _largest(rows: DeviceRows, bins: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """The magnitude of each side that ``rank`` others are larger than or equal to, float64.

    bins: of the first digit, [L, sides, BINS / 2].
    rank: int64 [L, sides].  The result means nothing where it is outside 0 .. size - 1.
    """
    n_layers, n_sides = rank.shape
    n_bins = (1 + rank.numel()) * BINS
    middle = rows.layout.sides(n_sides) * BINS + BINS // 2
    digit, rank = _digit(bins, rank.int())
    prefix, tables = digit, [_table(n_layers * BINS, digit.expand(-1, 2), middle.expand(-1, 2), 0)]
    for left in reversed(range(torch.finfo(rows.dtype).bits // 16 - 1)):
        bins = rows.count(tables, n_bins).view(-1, 2, BINS // 2)[1:].flip(1)  # signed digits as unsigned ones
        digit, rank = _digit(bins.view(n_layers, n_sides, BINS), rank)
        prefix = (prefix << 16) | digit
        if left:
            tables.append(_table(n_bins, digit ^ (BINS // 2), middle, 1))
    return prefix.to(_BITS[rows.dtype]).view(rows.dtype).double()


def _digit(bins: torch.Tensor, rank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The digit of the weight that ``rank`` others are before, from the largest on; and how many of that digit are.

    bins: weights by digit in the last dimension, int32.  rank: int32.
    """
    at_most = bins.cumsum(-1, dtype=torch.int32)
    at = at_most[..., -1] - rank
    digit = torch.searchsorted(at_most, at[..., None]).clamp_(max=bins.shape[-1] - 1)
    return digit[..., 0], at_most.gather(-1, digit)[..., 0] - at


def _table(n_bins: int, digit: torch.Tensor, middle: torch.Tensor, skip: int) -> torch.Tensor:
    """int32 [n_bins]: from a digit's bin to the middle of the next digit's; that of the first bins, which nobody reads,
    but for each side's ``digit``.  skip: so many sides of nobody's come first.
    """
    table = torch.full((n_bins,), BINS // 2, dtype=torch.int32, device=digit.device)
    by_side = table[skip * BINS :].view(digit.shape + (-1,))
    by_side.scatter_(-1, digit[..., None], middle[..., None])
    return table


def _buckets(above: torch.Tensor, neg: Side, pos: Side) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds and codes as ``DeviceRows.assign`` takes them, of the intervals and of what is pruned.

    above: of the weights' type [L, edges], ascending: from which number on a weight is above each edge.
    """
    low = (-neg.keep_from).to(above.dtype)[:, None]
    low, high = torch.nextafter(low, torch.full_like(low, float("inf"))), pos.keep_from.to(above.dtype)[:, None]
    bounds, order = torch.cat([above, low, high], 1).sort(dim=1, stable=True)
    kept = (bounds < low) | (bounds >= high)
    codes = functional.pad(((order < above.shape[1]).cumsum(1) + 1) * kept, (1, 1))
    codes[:, :1].fill_(1)
    return bounds, codes.to(torch.uint8)


def _partition(
    neg: Side, pos: Side, bits: Sequence[int], conventions: Conventions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges and centres of the intervals, float64, one layer a row; filled up with Inf, and with 0.

    Layers of the same number of bits stand together.
    """
    found, start = [], 0
    for b, group in groupby(bits):
        own = slice(start, start + len(list(group)))
        own_neg, own_pos = (Side(*(number[own] for number in side)) for side in (neg, pos))
        found.append((b, *edges_and_centres(own_neg, own_pos, b, conventions)))
        start = own.stop
    if len(found) == 1:
        return found[0][1].T, found[0][2].T
    wider = [(0, 2 ** bits[-1] - 2**b) for b, _, _ in found]
    between = [functional.pad(e.T, w, value=float("inf")) for (_, e, _), w in zip(found, wider, strict=True)]
    middles = [functional.pad(m.T, w) for (_, _, m), w in zip(found, wider, strict=True)]
    return torch.cat(between), torch.cat(middles)
