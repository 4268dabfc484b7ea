"""The error that the search minimises, measured without computing twice what a layer under search cannot change.

While one layer's (p, b) are searched, the activations before it stay the same.  The network is traced once and cut in
two before the layer: the values that the second part needs are kept, and only that part is run again.
A network that cannot be traced (control flow that depends on values) is run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from clipq.batch import lengths, part_of
from clipq.layers import CompressibleLayer
from clipq.max_pooling import pool_by_views
from clipq.training import to_device, top1_error

_SAMPLES = 250  # a CPU runs so many at a time: activations of more leave its cache


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

    def from_layer(self, model: nn.Module, layer: CompressibleLayer) -> Callable[[], float]:
        """The same error, as a function of this layer's weight alone: nothing before it may change any more."""
        model.eval()
        try:
            traced = fx.symbolic_trace(model)
            pool_by_views(traced)
            before, rest = _cut(traced, _first_use(traced, layer))
        except Exception:  # tracing runs the model's own code, which may fail in any way on symbolic values
            return lambda: self(model)
        kept, size = [], 0
        with torch.inference_mode():
            for x, y in self._parts(next(model.parameters()).device):
                values = before(x)
                size += sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))
                if size > self._max_bytes:
                    return lambda: self(model)
                kept.append((values, y))

        @torch.inference_mode()
        def error() -> float:
            model.eval()
            wrong = [(rest(*values).argmax(1) != y).sum() for values, y in kept]
            return int(sum(wrong)) / sum(len(y) for _, y in kept)

        return error

    def _parts(self, device: torch.device) -> Iterator[Any]:
        """The batches on the device, in parts that suit it."""
        for batch in self._batches:
            sizes = lengths(batch)
            if device.type == "cpu" and len(sizes) == 1:
                for start in range(0, max(sizes), _SAMPLES):
                    yield part_of(batch, slice(start, start + _SAMPLES))
            else:
                yield to_device(batch, device)


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


def _cut(traced: fx.GraphModule, at: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The network in two: what comes before ``at`` gives a tuple of what the rest takes."""
    nodes = list(traced.graph.nodes)
    first, second = nodes[: nodes.index(at)], nodes[nodes.index(at) :]
    needed = [node for node in first if not set(second).isdisjoint(node.users)]
    before, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in first:
        copies[node] = before.node_copy(node, copies.__getitem__)
    before.output(tuple(copies[node] for node in needed))
    rest = fx.Graph()
    copies = {node: rest.placeholder(node.name) for node in needed}
    for node in second:
        copies[node] = rest.node_copy(node, copies.__getitem__)
    return fx.GraphModule(traced, before), fx.GraphModule(traced, rest)
