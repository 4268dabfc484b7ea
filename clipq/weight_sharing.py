"""Pruning-quantization as a parametrization, with the straight-through gradient (paper, Figure 1).

While a network's weights are shared, every use of a layer's weight sees the quantized one, learned anew from the
full-precision weights; gradients pass straight through to those, which are what the optimizer updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from clipq.conventions import Conventions
from clipq.errors import ModelError
from clipq.layers import CompressibleLayer
from clipq.learning.host_weights import Near
from clipq.learning.learned_together import LearnedTogether, state_of
from clipq.model_check import entries_of
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.ws_learn_one_layer import learn_weights, quantized_layer


def straight_through(W: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
    """The quantized weights, whose gradient is, unchanged, that of the full-precision ones.

    A view of ``W`` with other values: autograd's own nodes, some 30 microseconds a layer faster than a Function's.
    """
    if not (torch.is_grad_enabled() and W.requires_grad):
        return quantized
    output = W.view_as(W)
    output.data = quantized
    return output


class _Held(NamedTuple):
    """The quantized weights, what they were learned from, kept so that no other tensor takes its place in memory, and
    its state then.
    """

    quantized: torch.Tensor
    W: torch.Tensor
    state: tuple


class _LastStep:
    """What a parametrization keeps of its last forward pass.  Not in attributes of the module itself, which looks for
    each name among its parameters, buffers and modules before it sets it.

    codes: gives them.  near: what was found on the host.  learned: where weights are ``held``.
    """

    codes: Callable[[], torch.Tensor] | None = None
    near: Near | None = None
    held = False
    learned: _Held | None = None


class WeightSharing(nn.Module):
    """The parametrization of one weight.

    name: the layer, as errors name it.
    setting: its (p, b); may be changed between two minibatches.
    together: with which other layers it is learned on an accelerator.
    """

    def __init__(self, name: str, setting: LayerSetting, together: LearnedTogether) -> None:
        super().__init__()
        self.name = name
        self.setting = setting
        self._together = together
        self._last = _LastStep()

    def forward(self, W: torch.Tensor) -> torch.Tensor:
        last = self._last
        if not last.held or torch.is_grad_enabled():
            return self._learned(W)
        state, learned = state_of(self, W), last.learned
        if learned is None or learned.state != state:
            learned = last.learned = _Held(self._learned(W), W, state)
        return learned.quantized

    def hold(self, held: bool) -> bool:
        """Whether passes without gradients take the last one's quantized weights from now on, as long as they are of
        the same weights; gives what was."""
        before, self._last.held, self._last.learned = self._last.held, held, None
        return before

    def _learned(self, W: torch.Tensor) -> torch.Tensor:
        if not _on_accelerator(W):
            last = self._last
            layer = learn_weights(W.detach(), self.setting, self._together.conventions, self.name, last.near)
            last.codes, last.near = layer.find_codes, layer.near
            return straight_through(W, layer.quantized)
        quantized, self._last.codes = self._together.take(self, W)
        weights = straight_through(W, quantized)
        if weights.requires_grad:
            weights.register_hook(self._together.expire_after_backward)
        return weights

    @property
    def codes(self) -> torch.Tensor:
        """uint8, of the last forward pass (empty before the first)."""
        return self._last.codes() if self._last.codes else torch.zeros(0, dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": _LastStep()}  # a copy starts anew

    def extra_repr(self) -> str:
        return f"{self.name}, p={self.setting.p:g}, b={self.setting.b}"


def _on_accelerator(W: torch.Tensor) -> bool:
    return W.device.type != "cpu"


@contextmanager
def quantized_once(model: nn.Module) -> Iterator[None]:
    """Until it ends passes without gradients take the same quantized weights: those that the first of them learns.

    Weights that were written to or exchanged meanwhile are learned anew, unless it was done through ``weight.data``,
    which leaves no trace.
    """
    held = [(m, m.hold(True)) for m in model.modules() if isinstance(m, WeightSharing)]
    try:
        yield
    finally:
        for sharing, before in held:
            sharing.hold(before)


class SharedWeights:
    """Weights under pruning-quantization, until ``remove`` or the end of a ``with`` block, whatever ends it.

    by_layer: layer name -> its parametrization.
    """

    def __init__(
        self, layers: Sequence[CompressibleLayer], settings: Mapping[str, LayerSetting], conventions: Conventions
    ) -> None:
        together = LearnedTogether(conventions)
        self.by_layer = {layer.name: WeightSharing(layer.name, settings[layer.name], together) for layer in layers}
        with ExitStack() as undo:
            undo.callback(together.forget)
            for layer in layers:
                together.add(self.by_layer[layer.name], layer.weight)
            for layer in layers:
                for module, attribute in layer.owners:
                    undo.callback(_parametrize(module, attribute, self.by_layer[layer.name]))
            together.expire()  # of what was learned while the parametrizations were put on
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Takes the parametrizations off: the modules are as they were, with the full-precision weights."""
        self._undo.close()

    def __enter__(self) -> SharedWeights:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def share_weights(
    layers: Sequence[CompressibleLayer],
    settings: Mapping[str, LayerSetting],
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
) -> SharedWeights:
    """Puts pruning-quantization on the weights of ``layers``.

    Raises:
        ModelError: a layer without a setting.
        WeightError: NaN or Inf among the weights; names the layer.
    """
    missing = [layer.name for layer in layers if layer.name not in settings]
    if missing:
        raise ModelError(f"no (p, b) given for: {', '.join(missing)}; given for: {', '.join(settings)}")
    return SharedWeights(layers, settings, conventions)


def quantized_net(
    model: nn.Module,
    layers: Sequence[CompressibleLayer],
    settings: Mapping[str, LayerSetting],
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
) -> QuantizedNet:
    """The compressed network that ``model``, its weights not shared, stands for, on the CPU; ``model`` stays as it is.

    Raises:
        WeightError: NaN or Inf among the weights; names the layer.
    """
    learned = {
        layer.name: quantized_layer(layer.name, layer.weight, settings[layer.name], conventions) for layer in layers
    }
    stored = {id(layer.weight): layer.name for layer in layers}
    tensors, aliases = {}, {}
    for name, value in entries_of(model).items():
        first = stored.setdefault(id(value), name)
        if first != name:
            aliases[name] = first
        elif name not in learned:
            tensors[name] = value.detach().to("cpu", copy=True)
    return QuantizedNet(tuple(learned.values()), tensors, aliases)


@torch.no_grad()
def keep_quantized(layers: Sequence[CompressibleLayer], net: QuantizedNet) -> None:
    """Leaves only the quantized weights in the network."""
    weights = {layer.name: layer for layer in net.layers}
    for layer in layers:
        layer.weight.copy_(weights[layer.name].weights())


def _parametrize(module: nn.Module, attribute: str, sharing: WeightSharing) -> Callable[[], None]:
    """Puts the parametrization on; gives what takes it off and puts the module's parameters in their old order.

    The class that torch makes for the module gets its property back, as copies made meanwhile (an average) stay of it.
    """
    order = list(module._parameters)
    parametrize.register_parametrization(module, attribute, sharing)
    kind = type(module)
    weight = kind.__dict__[attribute]

    def undo() -> None:
        alone = _is_ours_alone(module)
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        if alone:  # otherwise the module itself stays of the class
            setattr(kind, attribute, weight)
        for name in [n for n in order if n in module._parameters]:
            module._parameters[name] = module._parameters.pop(name)

    return undo


def _is_ours_alone(module: nn.Module) -> bool:
    """Whether all that is parametrized in the module are weights that are shared."""
    by_attribute: Any = module.parametrizations
    return all(isinstance(p, WeightSharing) for parametrizations in by_attribute.values() for p in parametrizations)
