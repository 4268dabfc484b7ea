"""Units that do nothing: not in the paper (DEVIATIONS.md, D17).

Where pruning has left a unit of a fully connected layer no incoming weight, its output is the same for every input and
belongs to the next layer's bias; where it has left it no outgoing weight, it is of no use.  What remains of such units
then is zero and costs nothing in the file.  The network computes what it did, but for the rounding of those biases.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from clipq.batch import copied, tensors_of
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.tracing import PREFIX, Whole, is_plain, to_trace

ROUNDING = 1000  # units in the last place of the largest output, by which outputs may differ
ROUNDING_AT_MOST = 0.05  # of it
_ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardtanh,
    nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Identity, nn.Dropout,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = (
    torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.gelu, functional.silu, functional.sigmoid,
    functional.tanh,
)  # fmt: skip
_ELEMENTWISE_METHODS = ("relu", "sigmoid", "tanh")


class _Pair(NamedTuple):
    """Two fully connected layers, by the names of their modules, of which the first's units reach the second alone.

    between: what each unit's value goes through, with dropout off.
    """

    first: str
    between: Callable[[torch.Tensor], torch.Tensor]
    second: str


@torch.no_grad()
def fold_dead_units(model: nn.Module, net: QuantizedNet, x: Any = None) -> QuantizedNet:
    """``net`` without what its dead units cost.

    model: the network that ``net`` compresses; it is only looked at.  Where it cannot be traced (control flow that
        depends on values), nothing is folded.
    x: inputs for which the trace must give what ``model`` gives, and the result what ``net`` gives, or nothing is
        folded.  A network whose code asks what its inputs are (``isinstance``), or reaches its weights by other ways
        than its modules' attributes, may do something else while it is traced, and needs them.
    """
    try:
        pairs = list(_pairs(to_trace(model).eval(), x))
    except Exception:  # tracing runs the model's own code, which may fail in any way on symbolic values
        return net
    tied = {*net.aliases, *net.aliases.values()}
    layers, tensors = {layer.name: layer for layer in net.layers}, dict(net.tensors)
    pairs = [
        pair
        for pair in pairs
        if all(f"{name}.weight" in layers and f"{name}.bias" not in layers for name in (pair.first, pair.second))
        and tied.isdisjoint(f"{name}.{what}" for name in (pair.first, pair.second) for what in ("weight", "bias"))
    ]
    if not pairs:
        return net
    for pair in reversed(pairs):
        _drop_unused(pair, layers, tensors)
    for pair in pairs:
        _move_constants(pair, layers, tensors)
    folded = replace(net, layers=tuple(layers[layer.name] for layer in net.layers), tensors=tensors)
    return folded if x is None or _give_the_same(model, net, folded, x) else net


def _give_the_same(model: nn.Module, net: QuantizedNet, folded: QuantizedNet, x: Any) -> bool:
    """But for the rounding of biases."""
    twin, outputs = copy.deepcopy(model).eval(), []
    for state in (net.state_dict(), folded.state_dict()):
        twin.load_state_dict(state)
        outputs.append([part.detach().clone() for part in tensors_of(twin(copied(x)))])
    for before, after in zip(*outputs, strict=True):
        limit = 0.0
        if before.is_floating_point() and before.numel():
            limit = min(ROUNDING * torch.finfo(before.dtype).eps, ROUNDING_AT_MOST) * float(before.abs().max())
        if not torch.allclose(before, after, rtol=0, atol=limit, equal_nan=True):
            return False
    return True


def _drop_unused(pair: _Pair, layers: dict[str, QuantizedLayer], tensors: dict[str, torch.Tensor]) -> None:
    """Prunes all of the units that no weight takes further."""
    unused = np.logical_not(layers[f"{pair.second}.weight"].codes.any(axis=0))
    first = layers[f"{pair.first}.weight"]
    layers[first.name] = replace(first, codes=np.where(unused[:, None], np.uint8(0), first.codes))
    _clear_bias(pair.first, unused, tensors)


def _move_constants(pair: _Pair, layers: dict[str, QuantizedLayer], tensors: dict[str, torch.Tensor]) -> None:
    """Moves what units without incoming weights give into the second layer's bias."""
    second, bias = layers[f"{pair.second}.weight"], tensors.get(f"{pair.second}.bias")
    own = tensors.get(f"{pair.first}.bias")
    output = pair.between(torch.zeros(second.codes.shape[1], device="cpu") if own is None else own)
    dead = np.logical_not(layers[f"{pair.first}.weight"].codes.any(axis=1))
    if bias is None:
        dead &= (output == 0).numpy()  # there is nowhere to move another value to
    else:
        which = torch.from_numpy(dead)
        moved = second.weights()[:, which].double() @ output[which].double()
        tensors[f"{pair.second}.bias"] = (bias.double() + moved).to(bias.dtype)
    layers[second.name] = replace(second, codes=np.where(dead, np.uint8(0), second.codes))
    _clear_bias(pair.first, dead, tensors)


def _clear_bias(module: str, units: np.ndarray, tensors: dict[str, torch.Tensor]) -> None:
    if (bias := tensors.get(f"{module}.bias")) is not None:
        tensors[f"{module}.bias"] = bias.masked_fill(torch.from_numpy(units), 0)


def _pairs(whole: Whole, x: Any) -> Iterator[_Pair]:
    """In the network's order; none where the graph is not that of what happens with inputs ``x``."""
    graph = fx.Tracer().trace(whole)
    if x is not None:
        torch.testing.assert_close(fx.GraphModule(whole, graph)(copied(x)), whole(copied(x)), equal_nan=True)
    elif any("_tensor_constant" in str(node.target) for node in graph.nodes):
        return  # of weights, perhaps
    modules = dict(whole.named_modules(remove_duplicate=False))
    uses = _uses(graph, modules)

    def linear(node: fx.Node) -> bool:
        """A fully connected layer that is used here alone."""
        module = modules[str(node.target)] if node.op == "call_module" else None
        return module is not None and is_plain(module, nn.Linear) and uses[id(module)] == 1

    for start in filter(linear, graph.nodes):
        steps: list[Callable[[torch.Tensor], torch.Tensor]] = []
        node = start
        while len(node.users) == 1:
            (node,) = node.users
            if linear(node):
                first, second = (str(n.target).removeprefix(PREFIX) for n in (start, node))
                yield _Pair(first, _composed(steps), second)
                break
            step = _elementwise(node, modules)
            if step is None:
                break
            steps.append(step)


def _uses(graph: fx.Graph, modules: dict[str, nn.Module]) -> Counter[int]:
    """How often each module (by its id) is called, by itself or as a part of another, or a tensor of it is taken."""
    uses: Counter[int] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            uses.update(id(module) for module in modules[str(node.target)].modules())
        elif node.op == "get_attr":
            uses[id(modules[str(node.target).rpartition(".")[0]])] += 1
    return uses


def _elementwise(node: fx.Node, modules: dict[str, nn.Module]) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What the node does to each value by itself; None where it does anything else."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return module if is_plain(module, *_ELEMENTWISE_MODULES) else None
    if len(node.all_input_nodes) != 1 or len(node.args) != 1:
        return None
    options = dict(node.kwargs)
    if node.op == "call_function" and node.target in _ELEMENTWISE_FUNCTIONS:
        return lambda x: node.target(x, **options)  # type: ignore[operator]
    if node.op == "call_method" and node.target in _ELEMENTWISE_METHODS and not options:
        return lambda x: getattr(x, str(node.target))()
    return None


def _composed(steps: list[Callable[[torch.Tensor], torch.Tensor]]) -> Callable[[torch.Tensor], torch.Tensor]:
    def all_of_them(x: torch.Tensor) -> torch.Tensor:
        for step in steps:
            x = step(x.clone())  # some work in place
        return x

    return all_of_them
