"""What passes over the weights on a device: Triton's kernels where they have proved themselves, or else operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import torch

from clipq.conventions import Conventions
from clipq.learning.device_rows import DeviceRows
from clipq.proved import unless_it_fails
from clipq.quantized_net import LayerSetting

#: ``device_weights.learn_by``: (what passes over the weights, weights, settings, conventions) -> layers.
Learn = Callable[..., Any]
#: ``device_weights.learn_together`` for the default readings: (weights, settings) -> layers.
Step = Callable[..., Any]

_OTHER = Conventions(clip_scope="all_weights", clip_value="midpoint", partition="joined", clip_ties="keep")


def passes(device: torch.device, dtype: torch.dtype, learn_by: Learn) -> type[DeviceRows]:
    """For weights of one type on one device, by any reading."""
    return (_runs_kernels(device, dtype) and _kernels(device, learn_by)) or DeviceRows


def step(device: torch.device, dtype: torch.dtype, learn_by: Learn) -> Step | None:
    """For weights of one type on one device, by the default readings; None where there is nothing of its own."""
    return (_runs_kernels(device, dtype) and _step(device, learn_by)) or None


def _runs_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype != torch.float64


@cache
def _kernels(device: torch.device, learn_by: Learn) -> type[DeviceRows] | None:
    """Waits for the device, at its first use only."""

    def proved() -> type[DeviceRows] | None:
        from clipq.learning.device_kernels import KernelRows

        same = gives_the_same(
            partial(learn_by, KernelRows), partial(learn_by, DeviceRows), device, (Conventions(), _OTHER)
        )
        return KernelRows if same else None

    return unless_it_fails(proved, _without_triton(device))


@cache
def _step(device: torch.device, learn_by: Learn) -> Step | None:
    """Waits for the device, at its first use only."""

    def proved() -> Step | None:
        from clipq.learning.device_step import learn_step

        same = gives_the_same(
            lambda weights, settings, _: learn_step(weights, settings),
            partial(learn_by, DeviceRows),
            device,
            (Conventions(),),
        )
        return learn_step if same else None

    return unless_it_fails(proved, _without_triton(device))


def _without_triton(device: torch.device) -> str:
    return f"pruning-quantization on {device} goes without Triton's kernels"


@torch.no_grad()
def gives_the_same(one: Learn, other: Learn, device: torch.device, conventions: Sequence[Conventions]) -> bool:
    """Whether every bit of two ways is the same: for several sizes and settings, with ties, zeros, tiny weights."""
    random = torch.Generator().manual_seed(0)
    layers = [
        scale * torch.randn(n, generator=random, device="cpu") for n, scale in ((40_000, 1e-2), (5000, 1.0), (3, 1e-40))
    ]
    layers += [layers[1].mul(10).round() / 10, layers[1].abs() ** 5, torch.zeros(1, device="cpu")]
    settings = [LayerSetting(p, b) for p, b in zip((0.9, 0.0, 0.5, 0.6, 0.3, 1.0), (4, 8, 3, 5, 2, 6), strict=True)]
    for dtype, reading, chosen in product((torch.float32, torch.float16), conventions, (slice(None), slice(2, 5))):
        weights, thetas = [layer.to(device, dtype) for layer in layers[chosen]], settings[chosen]
        found, expected = (learn(weights, thetas, reading) for learn in (one, other))
        for i, theta in enumerate(thetas):
            pairs = zip(_tensors(found.layer(i, theta.b)), _tensors(expected.layer(i, theta.b)), strict=True)
            if not all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs):
                return False
    return True


def _tensors(layer: Any) -> list[torch.Tensor]:
    return [*layer[:-2], torch.stack([*layer.neg, *layer.pos])]
