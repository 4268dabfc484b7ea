"""Order statistics of many values without sorting them.

A sorted sample gives a narrow band that holds the wanted ranks almost surely; one pass counts what lies below the
band and takes out what lies in it.  The counts prove the band right or wrong, so the result is always exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, sqrt
from typing import NamedTuple

import torch


class Rank(NamedTuple):
    """The k-th smallest magnitude of the n weights of one ``sign`` (-1, 1), or of all n (0), 1 <= k < n."""

    sign: int
    n: int
    k: int


#: Values handled at a time: a chunk and its work space stay in a core's cache.
CHUNK = 1 << 18
_SORT_UP_TO = 4096
_SAMPLE = 1 << 16


def chunks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """``x`` in consecutive views: small ones on a CPU, where they stay in cache; all of it on an accelerator."""
    return iter(x.split(CHUNK)) if x.device.type == "cpu" else iter((x,))


def adjacent_order_statistics(x: torch.Tensor, rank: int) -> tuple[float, float]:
    """The values of rank ``rank`` and ``rank + 1`` of ``x`` in ascending order.

    x: 1-D floating tensor without NaN, n >= 2 values.
    rank: 1-based, 1 <= rank < n.
    """
    n = x.numel()
    if not 1 <= rank < n:
        raise ValueError(f"rank: expected 1 <= rank < {n}, got {rank}")
    if n <= _SORT_UP_TO:
        return _pair(x, rank)
    low, high = _likely_band(x, rank)
    below, band = _split(x, low, high)
    if low == high and below < rank and rank + 1 <= below + band.numel():
        return low, low
    if below < rank and rank + 1 <= below + band.numel():
        return _pair(band, rank - below)
    return _pair(x, rank)


def _likely_band(x: torch.Tensor, rank: int) -> tuple[float, float]:
    n = x.numel()
    sample = x[:: max(1, n // min(_SAMPLE, n // 16))].sort().values
    size, q = sample.numel(), rank / n
    margin = 4 * sqrt(size * q * (1 - q)) + 4
    first, last = floor(q * size - margin), ceil(q * size + margin)
    return (
        float(sample[first]) if first >= 0 else -float("inf"),
        float(sample[last]) if last < size else float("inf"),
    )


def _split(x: torch.Tensor, low: float, high: float) -> tuple[int, torch.Tensor]:
    """How many values lie below ``low``, and those in [low, high]."""
    below, band = 0, []
    for part in chunks(x):
        at_least = part >= low
        below += part.numel() - int(torch.count_nonzero(at_least))
        band.append(part[at_least.logical_and_(part <= high)])
    return below, torch.cat(band)


def _pair(x: torch.Tensor, rank: int) -> tuple[float, float]:
    if x.numel() <= _SORT_UP_TO:
        ordered = x.sort().values
        return float(ordered[rank - 1]), float(ordered[rank])
    lower = float(torch.kthvalue(x, rank).values)
    if int(torch.count_nonzero(x <= lower)) > rank:
        return lower, lower
    return lower, float(x[x > lower].min())


def magnitude_pair(x: torch.Tensor, rank: Rank) -> tuple[float, float]:
    """m_k and m_{k+1} among the magnitudes of one sign of ``x`` (or of all): order statistics of x itself."""
    if rank.sign == 0:
        return adjacent_order_statistics(x.abs(), rank.k)
    if rank.sign > 0:
        return adjacent_order_statistics(x, len(x) - rank.n + rank.k)
    lower, upper = adjacent_order_statistics(x, rank.n - rank.k)
    return -upper, -lower
