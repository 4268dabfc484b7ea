"""Pruning-quantization as a parametrization, with the straight-through gradient (paper, Figure 1).

While a network's weights are shared, every use of a layer's weight sees the quantized one, learned anew from the
full-precision weights; gradients pass straight through to those, which are what the optimizer updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from clipq.conventions import Conventions
from clipq.errors import ModelError
from clipq.layers import CompressibleLayer
from clipq.quantized_net import WEIGHT_DTYPES, LayerSetting, QuantizedLayer, QuantizedNet
from clipq.ws_learn_one_layer import ws_learn_one_layer

_DTYPE_NAMES = {dtype: name for name, dtype in WEIGHT_DTYPES.items()}


class StraightThrough(torch.autograd.Function):
    """Forward: the quantized weights.  Backward: the gradient, unchanged, for the full-precision ones."""

    @staticmethod
    def forward(ctx: Any, W: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        return quantized

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class WeightSharing(nn.Module):
    """The parametrization of one weight.

    name: the layer, as errors name it.
    setting: its (p, b); may be changed between two minibatches.
    codes: uint8, of the last forward pass (empty before the first).
    """

    def __init__(self, name: str, setting: LayerSetting, conventions: Conventions) -> None:
        super().__init__()
        self.name = name
        self.setting = setting
        self.conventions = conventions
        self.codes = torch.zeros(0, dtype=torch.uint8)
        self._clips: tuple[float, float] | None = None  # of the last step: where to look for the next ones

    def forward(self, W: torch.Tensor) -> torch.Tensor:
        layer = ws_learn_one_layer(W, self.setting.p, self.setting.b, self.conventions, self.name, self._clips)
        self.codes, self._clips = layer.codes, (layer.c_neg, layer.c_pos)
        return StraightThrough.apply(W, layer.quantized)

    def extra_repr(self) -> str:
        return f"{self.name}, p={self.setting.p:g}, b={self.setting.b}"


def share_weights(
    layers: Sequence[CompressibleLayer],
    settings: Mapping[str, LayerSetting],
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
) -> dict[str, WeightSharing]:
    """Puts pruning-quantization on the weights of ``layers``; returns the parametrizations by layer name.

    Raises:
        ModelError: a layer without a setting.
    """
    missing = [layer.name for layer in layers if layer.name not in settings]
    if missing:
        raise ModelError(f"no (p, b) given for: {', '.join(missing)}; given for: {', '.join(settings)}")
    sharing = {}
    for layer in layers:
        sharing[layer.name] = WeightSharing(layer.name, settings[layer.name], conventions)
        for module, attribute in layer.owners:
            parametrize.register_parametrization(module, attribute, sharing[layer.name])
    return sharing


@torch.no_grad()
def quantized_net(
    model: nn.Module,
    layers: Sequence[CompressibleLayer],
    settings: Mapping[str, LayerSetting],
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
) -> QuantizedNet:
    """The compressed network that ``model`` stands for, on the CPU; the model, shared or not, is left as it is."""
    names = {id(layer.weight): layer.name for layer in layers}
    learned = {layer.name: _quantized_layer(layer, settings[layer.name], conventions) for layer in layers}
    tensors, aliases = {}, {}
    for key, value in model.state_dict(keep_vars=True).items():
        name = _plain_name(key)
        stored = names.setdefault(id(value), name)
        if stored != name:
            aliases[name] = stored
        elif name not in learned:
            tensors[name] = value.detach().to("cpu", copy=True)
    return QuantizedNet(tuple(learned.values()), tensors, aliases)


def _quantized_layer(layer: CompressibleLayer, theta: LayerSetting, conventions: Conventions) -> QuantizedLayer:
    learned = ws_learn_one_layer(layer.weight, theta.p, theta.b, conventions, layer.name)
    dtype = _DTYPE_NAMES[layer.weight.dtype]
    return QuantizedLayer(layer.name, theta.b, learned.codes.cpu().numpy(), learned.levels.cpu().numpy(), dtype)


def _plain_name(key: str) -> str:
    """The state dict's name of a weight before it was parametrized."""
    if ".original" not in key or "parametrizations." not in key:
        return key
    return key.replace("parametrizations.", "").removesuffix(".original")


@torch.no_grad()
def keep_quantized(layers: Sequence[CompressibleLayer], net: QuantizedNet) -> None:
    """Ends the sharing: takes the parametrizations off and leaves only the quantized weights in the network."""
    weights = {layer.name: layer for layer in net.layers}
    for layer in layers:
        for module, attribute in layer.owners:
            if parametrize.is_parametrized(module, attribute):
                parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
        layer.weight.copy_(weights[layer.name].weights())
