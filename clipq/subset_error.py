"""The error that the search minimises, measured without computing twice what a layer under search cannot change.

While one layer's (p, b) are searched, the activations before it stay the same.  The network is traced once; for each
layer the values that the rest of the network needs are kept, and only the nodes from that layer on are run again.
A network that cannot be traced (control flow that depends on values) is run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn

from clipq.layers import CompressibleLayer
from clipq.training import to_device, top1_error


class SubsetError:
    """model -> top-1 error in [0, 1] on a fixed subset.

    batches: of (inputs, labels), a sequence.
    max_bytes: kept activations may take so much; a layer that needs more is measured with whole runs.
    """

    def __init__(self, batches: Sequence[Any], max_bytes: int = 4 << 30) -> None:
        self._batches = batches
        self._max_bytes = max_bytes

    def __call__(self, model: nn.Module) -> float:
        return top1_error(model, self._batches)

    @torch.no_grad()
    def from_layer(self, model: nn.Module, layer: CompressibleLayer) -> Callable[[], float]:
        """The same error, as a function of this layer's weight alone: nothing before it may change any more."""
        model.eval()
        device = next(model.parameters()).device
        try:
            traced = fx.symbolic_trace(model)
            first = _first_use(traced, layer)
        except Exception:  # tracing runs the model's own code, which may fail in any way on symbolic values
            return lambda: self(model)
        kept, size = [], 0
        for batch in self._batches:
            x, y = to_device(batch, device)
            values = _run_until(traced, first, x)
            size += sum(v.numel() * v.element_size() for v in values.values() if isinstance(v, torch.Tensor))
            if size > self._max_bytes:
                return lambda: self(model)
            kept.append((values, y))

        @torch.no_grad()
        def error() -> float:
            model.eval()
            wrong = n = 0
            for values, y in kept:
                output = fx.Interpreter(traced).run(initial_env=dict(values))
                wrong += int((output.argmax(1) != y).sum())
                n += len(y)
            return wrong / n

        return error


def _first_use(traced: fx.GraphModule, layer: CompressibleLayer) -> fx.Node:
    """The first node that sees the layer's weight."""
    owners = {id(module) for module, _ in layer.owners}
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "call_module" and any(id(m) in owners for m in modules[node.target].modules()):
            return node
        if node.op == "get_attr" and traced.get_parameter(node.target) is layer.weight:
            return node
    raise LookupError(layer.name)


def _run_until(traced: fx.GraphModule, stop: fx.Node, x: Any) -> dict[fx.Node, Any]:
    """Runs the nodes before ``stop``; their values, None for those that nothing from ``stop`` on uses."""
    before = [node for node in traced.graph.nodes if node < stop]
    later = set(traced.graph.nodes) - set(before)
    runner = _Until(traced, stop)
    with suppress(_Reached):
        runner.run(x)
    return {node: runner.env.get(node) if later & set(node.users) else None for node in before}


class _Reached(Exception):
    pass


class _Until(fx.Interpreter):
    """Runs a graph up to, but without, one node."""

    def __init__(self, traced: fx.GraphModule, stop: fx.Node) -> None:
        super().__init__(traced)
        self._stop = stop

    def run_node(self, n: fx.Node) -> Any:
        if n is self._stop:
            raise _Reached
        return super().run_node(n)
