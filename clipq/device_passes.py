"""What passes over the weights on a device: Triton's kernels where they have proved themselves, or else operations."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from clipq.conventions import Conventions
from clipq.device_rows import DeviceRows
from clipq.quantized_net import LayerSetting

#: ``device_weights.learn_by``: (what passes over the weights, weights, settings, conventions) -> layers.
Learn = Callable[..., Any]


def passes(device: torch.device, dtype: torch.dtype, learn_by: Learn) -> type[DeviceRows]:
    """For weights of one type on one device."""
    kernels = _kernels(device, learn_by) if device.type == "cuda" and dtype != torch.float64 else None
    return kernels or DeviceRows


@cache
def _kernels(device: torch.device, learn_by: Learn) -> type[DeviceRows] | None:
    """None without Triton, or where its kernels fail.  Waits for the device, at its first use only."""
    try:
        from clipq.device_kernels import KernelRows

        if gives_the_same(KernelRows, device, learn_by):
            return KernelRows
        reason = "they give other results"
    except ImportError:
        return None
    except Exception as error:  # whatever a compiler or a driver may raise
        reason = str(error)
    warnings.warn(f"pruning-quantization on {device} goes without Triton's kernels: {reason}", stacklevel=2)
    return None


@torch.no_grad()
def gives_the_same(kind: type[DeviceRows], device: torch.device, learn_by: Learn) -> bool:
    """Whether every bit is that of the operations: for several sizes and settings, with ties, zeros, tiny weights."""
    random = torch.Generator().manual_seed(0)
    layers = [scale * torch.randn(n, generator=random) for n, scale in ((40_000, 1e-2), (5000, 1.0), (3, 1e-40))]
    layers += [layers[1].mul(10).round() / 10, layers[1].abs() ** 5, torch.zeros(1)]
    settings = [LayerSetting(p, b) for p, b in zip((0.9, 0.0, 0.5, 0.6, 0.3, 1.0), (4, 8, 3, 5, 2, 6), strict=True)]
    other = Conventions(clip_scope="all_weights", clip_value="midpoint", partition="joined", clip_ties="keep")
    for dtype, conventions in ((torch.float32, Conventions()), (torch.float32, other), (torch.float16, Conventions())):
        for chosen in (slice(None), slice(4, 5)):
            weights = [layer.to(device, dtype) for layer in layers[chosen]]
            one, two = (learn_by(k, weights, settings[chosen], conventions) for k in (kind, DeviceRows))
            pairs = zip(one.tensors(), two.tensors(), strict=True)
            if not all(torch.equal(a, b) for a, b in pairs):
                return False
    return True
