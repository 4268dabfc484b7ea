"""A network's graph by ``torch.fx``, which runs the network's own code on symbolic values."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

from torch import nn

#: What the names of a network's modules and tensors begin with in its graph.
PREFIX = "network."


class Whole(nn.Module):
    """A network with everything around its ``forward``: the defaults of its arguments, and its hooks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        return self.network(x)


def to_trace(model: nn.Module) -> Whole:
    """A copy with the network's own parameters and buffers: whatever else its code sets, symbolic values among it, is
    set in the copy."""
    tensors: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return Whole(copy.deepcopy(model, tensors))


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """One of these kinds itself, with its own ``forward``, without hooks that may change what goes in or comes out."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) in kinds and not changed
