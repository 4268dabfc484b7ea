"""In-parallel pruning-quantization and fine-tuning.

Mirrors ``ws_train.m`` of the original release (reconstructed: paper, section 3.1 and Figure 1): for each minibatch,
pruning-quantization of the full-precision weights, forward and backward pass with the quantized ones, update of the
full-precision ones.  In the end only the quantized weights remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clipq.bits import layer_bits
from clipq.conventions import Conventions
from clipq.layers import CompressibleLayer
from clipq.pruning_schedule import PruningSchedule
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.train_config import TrainConfig
from clipq.training import Epochs, History, Measure, fit
from clipq.weight_sharing import WeightSharing, keep_quantized, quantized_net, share_weights


@dataclass(frozen=True, eq=False)
class WsTrainResult:
    """net: the compressed network.  history: of the training.
    full_precision: layer name -> the full-precision weights that the quantized ones were last learned from.
    """

    net: QuantizedNet
    history: History
    full_precision: Mapping[str, torch.Tensor]


def ws_train(
    model: nn.Module,
    layers: Sequence[CompressibleLayer],
    settings: Mapping[str, LayerSetting],
    epochs: Epochs,
    config: TrainConfig,
    *,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    schedule: PruningSchedule = PruningSchedule(),  # noqa: B008 (frozen)
    validate: Callable[[nn.Module], float] | None = None,
    **options: Any,
) -> WsTrainResult:
    """Fine-tunes ``model`` in place with its ``layers`` pruned and quantized anew at every minibatch.

    Whatever ends the training early leaves a plain network with the full-precision weights of that moment.

    layers: from ``compressible_layers``.  settings: layer name -> (p, b).
    schedule: of the pruning rates; whatever it says, ``validate`` sees the network with ``settings``.
    epochs, config, validate and options: as ``clipq.training.fit`` takes them.

    Returns:
        The compressed network, whose weights ``model`` then holds, with the training's history.
    Raises:
        WeightError: weights that became NaN or Inf; names the layer.
        TrainingError: a loss that is not finite.
    """
    with share_weights(layers, settings, conventions) as shared:
        options.setdefault("measure", _measure(shared.by_layer, conventions))

        def prune(progress: float) -> None:
            share = schedule.share(progress)
            for name, theta in settings.items():
                shared.by_layer[name].setting = LayerSetting(share * theta.p, theta.b)

        options |= {"before_step": prune, "validate": validate and _fully_pruned(prune, validate)}
        history = fit(model, epochs, config, **options) if config.epochs else History()
    net = quantized_net(model, layers, settings, conventions)
    full_precision = {layer.name: layer.weight.detach().clone() for layer in layers}
    keep_quantized(layers, net)
    return WsTrainResult(net, history, full_precision)


def _fully_pruned(
    prune: Callable[[float], None], validate: Callable[[nn.Module], float]
) -> Callable[[nn.Module], float]:
    """``validate`` of the network as it is pruned in the end; the next step goes on with its own rate."""

    def validate_fully_pruned(network: nn.Module) -> float:
        prune(1.0)
        return validate(network)

    return validate_fully_pruned


def _measure(sharing: Mapping[str, WeightSharing], conventions: Conventions) -> Measure:
    """Share of pruned weights; at the end of an epoch also the bits per weight that the file would take."""

    def measure(epoch_ends: bool) -> dict[str, float]:
        n = sum(s.codes.numel() for s in sharing.values())
        kept = sum(int(torch.count_nonzero(s.codes)) for s in sharing.values())
        figures = {"sparsity": 1 - kept / max(n, 1)}
        if epoch_ends:
            bits = sum(layer_bits(s.codes, s.setting.b, conventions) for s in sharing.values())
            figures["bits_per_weight"] = bits / max(n, 1)
        return figures

    return measure
