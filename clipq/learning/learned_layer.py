"""What has been learned of a layer's weights, as it is handed on before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from clipq.learning.host_weights import Near
from clipq.learning.partition import Side


class LearnedLayer(NamedTuple):
    """All on the weights' device; N = 2^b - 1.

    quantized: of the weights' shape, each one's level, or 0.
    find_codes: gives the codes, uint8 of the same shape.
    levels: float32 [N].
    counts: int64 [N], weights in each interval.
    neg, pos: the clipped sides.
    near: for the next step; None from an accelerator.
    """

    quantized: torch.Tensor
    find_codes: Callable[[], torch.Tensor]
    levels: torch.Tensor | np.ndarray
    counts: torch.Tensor | np.ndarray
    neg: Side
    pos: Side
    near: Near | None
