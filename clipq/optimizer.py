"""What updates the weights, and at which rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from clipq.train_config import TrainConfig

#: Of quotients, so that whole ones are not taken for the next smaller number.
_ROUNDING = 1e-9
#: Modules whose parameters scale and shift what they have normalized.
_NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or Adam on the trainable parameters; the full-precision ones of layers whose weights are shared."""
    exempt = set() if config.decay_biases else _biases_and_normalization(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p not in exempt]
    others = [p for p in parameters if p in exempt]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def _biases_and_normalization(model: nn.Module) -> set[nn.Parameter]:
    """Parameters of normalization of any shape, parametrized or not, those named as biases, and all others of one
    dimension, as what users' own modules scale and shift by has."""
    exempt = {p for module in model.modules() if isinstance(module, _NORMALIZATION) for p in module.parameters()}
    return exempt | {p for name, p in model.named_parameters() if p.ndim <= 1 or "bias" in name.rpartition(".")[2]}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step ``step`` (from 0), warm-up included."""
    total = max(1, config.epochs * steps_per_epoch)
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    t = min(1.0, (step - warmup) / max(1.0, total - warmup))  # a loader's len may be an estimate
    match config.schedule:
        case "step":
            return config.lr * config.gamma ** math.floor(step / steps_per_epoch / config.step_epochs + _ROUNDING)
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * t))
        case "linear":
            return config.lr * (1 - t)
        case "inv":
            return config.lr * (1 + config.gamma * step) ** -0.75
        case _:
            return config.lr
