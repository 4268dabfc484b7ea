"""Where the numbers of a network stopped being finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def trained_not_finite(model: nn.Module) -> str | None:
    """The first trainable parameter with NaN or Inf in it, by its plain name; None without one.

    Asks the device once for all.  Frozen ones may be so on purpose, such as a mask of -Inf.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    device = next(model.parameters()).device
    finite = torch.stack([parameter.isfinite().all().to(device) for parameter in trained.values()]).tolist()
    first = next((name for name, is_finite in zip(trained, finite, strict=True) if not is_finite), None)
    return first and _plain_name(first)


def _plain_name(parameter: str) -> str:
    """The name of a weight, also while it is computed by a parametrization."""
    return parameter.replace("parametrizations.", "").removesuffix(".original")


@torch.no_grad()
def first_not_finite(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """The first trainable parameter with NaN or Inf in it; without one, the first module, in the order of ``forward``,
    whose output has; without one, the first frozen parameter, which may be so on purpose; None without one.

    forward: passes a batch through ``model``.
    """
    bad = [(name, p.requires_grad) for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    named = [f"the parameter {_plain_name(name)}" for name, _ in sorted(bad, key=lambda item: not item[1])]
    if any(trainable for _, trainable in bad):
        return named[0]
    found: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, torch.Tensor) and not torch.isfinite(output).all():
                found.append(f"the output of {name}")

        return look

    hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        forward()
    finally:
        for handle in hooks:
            handle.remove()
    return next(iter(found + named), None)
