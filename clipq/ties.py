"""Weights that were quantized before: what pruning by magnitude does to them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

from clipq import distributed
from clipq.conventions import Conventions

SEEN = 65_536  # kept weights of a layer that are looked at, of at most ``SPARSE`` times as many
SPARSE = 16
FEW = 256  # magnitudes, more than a codebook has
SHOWN = 5  # layers at most that the warning names
SHARED = 8  # weights of each magnitude, on average


def warn_of_ties(weights: Iterable[tuple[str, torch.Tensor]], conventions: Conventions) -> None:
    """Where weights have few magnitudes and all of one are pruned at a time, a pruning rate takes far more than asked.

    Source: A04.  weights: names, and tensors of any shape and type.
    """
    if conventions.clip_ties != "prune" or not distributed.is_writer():
        return
    found = [f"{name} ({n})" for name, W in weights if (n := _few_magnitudes(W))]
    if found:
        more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
        warnings.warn(
            f"{', '.join(found[:SHOWN] + more)}: as few magnitudes as in a compressed network; pruning takes all of "
            "one at a time, so far more than p says (A04): clip_ties = first prunes as many as it says",
            stacklevel=5,
        )


def _few_magnitudes(W: torch.Tensor) -> int:
    """How many magnitudes the kept weights have; 0 where these are not few."""
    some = W.detach().flatten()[:: 1 + W.numel() // (SPARSE * SEEN)]
    kept = some[some != 0][:SEEN].abs()
    n = len(kept.unique())
    return n if n <= FEW and len(kept) >= SHARED * n else 0
