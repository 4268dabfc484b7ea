"""A layer's weights on an accelerator: what pruning-quantization asks of them, in torch's own operations.

The twin of ``clipq.host_weights``, with the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np
import torch

from clipq.host_weights import Survey
from clipq.order_statistic import Rank, magnitude_pair


class DeviceWeights:
    """The weights of one layer.  x: float32 or float64 [n]."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x
        self._also_pruned: torch.Tensor | None = None
        self._where = self._codes = torch.zeros(0, dtype=torch.int64)

    def survey(self) -> Survey:
        """Counts and extremes."""
        if not len(self._x):
            return Survey(0, 0, 0.0, 0.0, 0)
        lowest, highest = (float(v) for v in torch.aminmax(self._x))
        finite = isfinite(lowest) and isfinite(highest)
        n_bad = 0 if finite else int(torch.count_nonzero(~torch.isfinite(self._x)))
        n_neg, n_pos = int(torch.count_nonzero(self._x < 0)), int(torch.count_nonzero(self._x > 0))
        return Survey(n_neg, n_pos, max(0.0, -lowest), max(0.0, highest), n_bad)

    def magnitudes(self, ranks: Sequence[Rank]) -> list[tuple[float, float]]:
        """m_k and m_{k+1} of each rank."""
        return [magnitude_pair(self._x, rank) for rank in ranks]

    def prune_first(self, rank: Rank, value: float) -> None:
        """Marks as pruned the first of the weights of magnitude ``value``, as many as make k with the smaller ones."""
        magnitude = self._x.abs()
        side = magnitude > 0 if rank.sign == 0 else self._x * rank.sign > 0
        smaller = rank.n - int(torch.count_nonzero(side & (magnitude >= value)))
        if self._also_pruned is None:
            self._also_pruned = torch.zeros_like(self._x, dtype=torch.bool)
        self._also_pruned[(side & (magnitude == value)).nonzero().flatten()[: rank.k - smaller]] = True

    def assign(
        self, keep_from: tuple[float, float], thresholds: np.ndarray, n_levels: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gives every kept weight its interval; the float64 sum and int64 count of each interval's weights, [N]."""
        kept = (self._x >= keep_from[1]).logical_or_(self._x <= -keep_from[0])
        if self._also_pruned is not None:
            kept.logical_and_(self._also_pruned.logical_not())
        self._where = kept.nonzero().flatten()
        values = self._x[self._where]
        edges = torch.from_numpy(thresholds).to(self._x.device)
        interval = torch.bucketize(values, edges, right=True)
        self._codes = interval + 1
        sums = torch.bincount(interval, weights=values.double(), minlength=n_levels)
        return sums.cpu().numpy(), torch.bincount(interval, minlength=n_levels).cpu().numpy()

    def write(self, levels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The quantized weights, of the weights' type, and the codes (uint8), [n]."""
        table = torch.from_numpy(np.concatenate([np.zeros(1), levels])).to(self._x)
        quantized, codes = torch.zeros_like(self._x), torch.zeros_like(self._x, dtype=torch.uint8)
        quantized[self._where] = table[self._codes]
        codes[self._where] = self._codes.to(torch.uint8)
        return quantized, codes
