"""Weights that were quantized before: what pruning by magnitude does to them."""

from __future__ import annotations

import warnings

import torch

from clipq import distributed
from clipq.conventions import Conventions

SEEN = 65_536  # kept weights of a layer that are looked at, of at most ``SPARSE`` times as many
SPARSE = 16
FEW = 256  # magnitudes, more than a codebook has
SHARED = 8  # weights of each magnitude, on average


def warn_of_ties(name: str, W: torch.Tensor, conventions: Conventions) -> None:
    """Where weights have few magnitudes and all of one are pruned at a time, a pruning rate takes far more than asked.

    Source: A04.  W: of any shape and type.
    """
    if conventions.clip_ties != "prune" or not distributed.is_writer():
        return
    some = W.detach().flatten()[:: 1 + W.numel() // (SPARSE * SEEN)]
    kept = some[some != 0][:SEEN].abs()
    n = len(kept.unique())
    if 0 < n <= FEW and len(kept) >= SHARED * n:
        warnings.warn(
            f"{name}: its weights have {n} magnitudes, as those of a compressed network; pruning takes all of one at a "
            "time, so far more than p says (A04): clip_ties = first prunes as many as it says",
            stacklevel=5,
        )
