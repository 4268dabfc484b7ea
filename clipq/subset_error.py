"""The error that the search minimises, measured without computing twice what a layer under search cannot change.

While one layer's (p, b) are searched, the activations before it stay the same.  The network is traced once and cut in
two before the layer: the values that the second part needs are kept, and only that part is run again.
A network that cannot be traced (control flow that depends on values), or that does something else then, is run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from clipq.batch import copied, equal, inputs_and_labels, lengths, part_of
from clipq.errors import SettingError
from clipq.layers import CompressibleLayer
from clipq.max_pooling import pool_by_views
from clipq.tracing import to_trace
from clipq.training import error_rate, mistaken, to_device, top1_error

_SAMPLES = 500  # a CPU runs so many at a time: memory for more is got anew each time, and leaves its cache
#: So much of its outputs may a network differ from itself in two parts, where the order of sums is another one.
_ROUNDING = 1e-3


class _TooMuchError(Exception):
    """More activations would have to be kept than may be."""


class SubsetError:
    """model -> top-1 error in [0, 1] on a fixed subset.

    batches: of (inputs, labels), a sequence: it is gone through again and again.
    max_bytes: kept activations may take so much; a layer that needs more is measured with whole runs.

    Raises:
        SettingError: batches that can be gone through but once, or none.
    """

    def __init__(self, batches: Sequence[Any], max_bytes: int = 4 << 30) -> None:
        if not isinstance(batches, Sized) or not len(batches):
            none = " of none" if isinstance(batches, Sized) else ""
            raise SettingError(
                f"SubsetError: expected a sequence of one batch or more, got {type(batches).__name__}{none}"
            )
        self._batches = batches
        self._max_bytes = max_bytes
        self._graphs = WeakKeyDictionary[nn.Module, fx.GraphModule]()

    def __call__(self, model: nn.Module) -> float:
        return top1_error(model, self._batches)

    def from_layer(self, model: nn.Module, layer: CompressibleLayer) -> Callable[[], float]:
        """The same error, as a function of this layer's weight alone: nothing before it may change any more."""
        model.eval()
        known = model in self._graphs
        try:
            kept = self._kept_if_any(model, layer)
            if kept is None and known:  # something of the network may have been replaced since
                del self._graphs[model]
                kept = self._kept_if_any(model, layer)
        except _TooMuchError:
            kept = None
        if kept is None:
            return lambda: self(model)
        rest, parts = kept

        @torch.inference_mode()
        def error() -> float:
            counts = torch.stack([torch.stack(mistaken(rest(*values), y)) for values, y in parts])
            return error_rate(*counts.sum(0).tolist())

        return error

    def _kept_if_any(
        self, model: nn.Module, layer: CompressibleLayer
    ) -> tuple[nn.Module, list[tuple[Any, Any]]] | None:
        try:
            return self._kept(model, layer)
        except _TooMuchError:
            raise
        except Exception:  # tracing runs the model's own code, which may fail in any way on symbolic values
            return None

    def _graph(self, model: nn.Module) -> fx.GraphModule:
        """The network's, once for all of its layers."""
        if model not in self._graphs:
            traced = fx.symbolic_trace(to_trace(model))
            pool_by_views(traced)
            self._graphs[model] = traced
        return self._graphs[model]

    @torch.no_grad()  # not in inference mode: what the network makes at its first use, and keeps, may be trained with
    def _kept(self, model: nn.Module, layer: CompressibleLayer) -> tuple[nn.Module, list[tuple[Any, Any]]] | None:
        """The network from the layer on, and for each part of the subset what that takes, and the labels.

        None if that is not what the network computes.

        Raises:
            _TooMuchError: it would be too much.
        """
        traced = self._graph(model)
        before, rest = _cut(traced, _first_use(traced, layer))
        if not self._computes_the_same(model, before, rest, layer.weight):
            return None
        kept: list[tuple[Any, Any]] = []
        size, device = 0, next(model.parameters()).device
        tested = _is_cut(next(iter(self._batches)), device)
        for x, y in (inputs_and_labels(part) for batch in self._batches for part in _parts(batch, device, tested)):
            values = before(x)
            size += sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))
            if size > self._max_bytes:
                raise _TooMuchError
            kept.append((values, y))
        return rest, kept

    def _computes_the_same(self, model: nn.Module, before: nn.Module, rest: nn.Module, weight: torch.Tensor) -> bool:
        """Whether the network's two parts give its outputs for some samples, once more, too, and with another weight.

        They do not where it looks at what is symbolic in a trace, draws at random, or where a sample's outputs depend
        on those beside it, of which others are there when a batch is cut.  Nor may the second part change what it is
        given, by however little.
        """
        device, batch = next(model.parameters()).device, next(iter(self._batches))
        some = part_of(batch, slice(0, 2 * _SAMPLES)) if _may_be_cut(batch, device) else batch
        values = [copied(before(copied(inputs_and_labels(part)[0]))) for part in _parts(some, device, True)]
        given = copied(values)
        with _another(weight):
            expected = model(inputs_and_labels(copied(to_device(some, device)))[0])
            limit = _ROUNDING * float(expected.abs().max())
            return all(
                torch.allclose(torch.cat([rest(*v) for v in values]), expected, rtol=_ROUNDING, atol=limit)
                and equal(values, given)
                for _ in range(2)
            )


def _may_be_cut(batch: Any, device: torch.device) -> bool:
    return device.type == "cpu" and len(lengths(batch)) == 1


def _is_cut(batch: Any, device: torch.device) -> bool:
    return _may_be_cut(batch, device) and max(lengths(batch)) > _SAMPLES


def _parts(batch: Any, device: torch.device, cut: bool) -> Iterator[Any]:
    """The batch on the device, in parts that suit it if it is to be ``cut``."""
    if cut and _may_be_cut(batch, device):
        for start in range(0, max(lengths(batch)), _SAMPLES):
            yield part_of(batch, slice(start, start + _SAMPLES))
    else:
        yield to_device(batch, device)


def _first_use(traced: fx.GraphModule, layer: CompressibleLayer) -> fx.Node:
    """The first node that sees the layer's weight."""
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "call_module" and any(p is layer.weight for p in modules[node.target].parameters()):
            return node
        if node.op == "get_attr" and attrgetter(node.target)(traced) is layer.weight:
            return node
    raise LookupError(layer.name)


@contextmanager
def _another(weight: torch.Tensor) -> Iterator[None]:
    """Until it ends the weight has other values."""
    own = weight.clone()
    weight.mul_(-0.5)
    try:
        yield
    finally:
        weight.copy_(own)


def _cut(traced: fx.GraphModule, at: fx.Node) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The network in two: what comes before ``at`` gives a tuple of what the rest takes."""
    nodes = list(traced.graph.nodes)
    first, second = nodes[: nodes.index(at)], nodes[nodes.index(at) :]
    later = set(second)
    needed = [node for node in first if not later.isdisjoint(node.users)]
    before, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in first:
        copies[node] = before.node_copy(node, copies.__getitem__)
    before.output(tuple(copies[node] for node in needed))
    rest = fx.Graph()
    copies = {node: rest.placeholder(node.name) for node in needed}
    for node in second:
        copies[node] = rest.node_copy(node, copies.__getitem__)
    return fx.GraphModule(traced, before), fx.GraphModule(traced, rest)
