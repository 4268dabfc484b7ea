"""The knobs of one training: of the dense network, or of CLIP-Q's fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipq.errors import SettingError
from clipq.option_types import check_types


@dataclass(frozen=True)
class TrainConfig:
    """Standard knobs; the paper's own values are not known (A13), so experiments state theirs.  All numbers are finite.

    epochs: passes over the training set, >= 0.
    batch_size: images a minibatch (over all processes), >= 1.
    optimizer: ``sgd`` (with ``momentum``) or ``adam``.
    lr: learning rate at the start, after any warm-up, > 0.
    momentum: of SGD, in [0, 1).
    nesterov: Nesterov's form of the momentum, which is > 0 then.
    weight_decay: L2 penalty's coefficient, added to the gradient, >= 0; weights only, as biases, parameters of one
        dimension and those of normalization are not decayed unless ``decay_biases``.
    schedule: how the rate falls with progress t from 0 to 1: ``constant``; ``step`` (times ``gamma`` after each
        ``step_epochs``); ``cosine`` to zero; ``linear`` to zero; ``inv`` (Caffe's (1 + gamma * step)^-0.75).
    gamma: factor of ``step``, or coefficient of ``inv``, >= 0.
    step_epochs: epochs between two drops of ``step``, > 0, may be a fraction.
    warmup_epochs: the rate rises linearly from zero over these, >= 0, may be a fraction.
    label_smoothing: of the cross entropy, in [0, 1).
    clip_grad_norm: gradients are scaled down to this L2 norm; 0 leaves them.
    keep: the weights that count in the end, of the epoch with the lowest validation error (``best``, of equals the
        later), or of the ``last``, whose validation error nothing has been chosen by.

    Raises:
        SettingError: a value of another type or outside its range.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_biases: bool = False
    schedule: Literal["constant", "step", "cosine", "linear", "inv"] = "cosine"
    gamma: float = 0.1
    step_epochs: float = 5.0
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    clip_grad_norm: float = 0.0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        check_types(self, "training option")
        limits = (
            ("epochs", self.epochs >= 0, ">= 0"),
            ("batch_size", self.batch_size >= 1, ">= 1"),
            ("optimizer", self.optimizer in ("sgd", "adam"), "sgd or adam"),
            ("lr", self.lr > 0, "> 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("momentum", self.momentum > 0 or not (self.nesterov and self.optimizer == "sgd"), "> 0 with nesterov"),
            ("weight_decay", self.weight_decay >= 0, ">= 0"),
            ("schedule", self.schedule in ("constant", "step", "cosine", "linear", "inv"),
             "constant, step, cosine, linear or inv"),
            ("gamma", self.gamma >= 0, ">= 0"),
            ("step_epochs", self.step_epochs > 0, "> 0"),
            ("warmup_epochs", self.warmup_epochs >= 0, ">= 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("clip_grad_norm", self.clip_grad_norm >= 0, ">= 0"),
            ("keep", self.keep in ("best", "last"), "best or last"),
        )  # fmt: skip
        for name, holds, expected in limits:
            if not holds:
                raise SettingError(f"training option {name}: expected {expected}, got {getattr(self, name)!r}")
