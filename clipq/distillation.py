"""Knowledge distillation from the dense network (Hinton et al., 2015): not in the paper (DEVIATIONS.md, D14)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipq.errors import SettingError
from clipq.training import Objective, StepLoss


@dataclass(frozen=True)
class DistillationConfig:
    """weight: of the teacher's part in the loss, in [0, 1]; 0: the labels alone, as in the paper.
    temperature: divides both networks' outputs, > 0.
    """

    weight: float = 0.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise SettingError(f"distillation weight: expected in [0, 1], got {self.weight!r}")
        if not self.temperature > 0:
            raise SettingError(f"distillation temperature: expected > 0, got {self.temperature!r}")


def distilled(objective: Objective, teacher: nn.Module, config: DistillationConfig) -> Objective:
    """(1 - weight) of ``objective`` and weight T^2 KL(teacher || student) of the outputs at temperature T.

    teacher: a classifier with one output, on the batches' device; put into evaluation mode here, never changed.
    """
    teacher = teacher.eval()
    temperature = config.temperature

    def learn(model: nn.Module, batch: Any) -> StepLoss:
        outputs: list[torch.Tensor] = []
        taken = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            by_labels = objective(model, batch)
        finally:
            taken.remove()
        with torch.no_grad():
            wanted = functional.log_softmax(teacher(batch[0]) / temperature, 1)
        student = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        given = functional.log_softmax(student / temperature, 1)
        by_teacher = functional.kl_div(given, wanted, log_target=True, reduction="batchmean") * temperature**2
        return by_labels._replace(loss=(1 - config.weight) * by_labels.loss + config.weight * by_teacher)

    return learn
