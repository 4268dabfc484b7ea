"""Max pooling while nothing is learnt: without the places of the maxima, a CPU takes a fraction of the time.

``torch.nn.functional.max_pool2d`` also looks for each maximum's place, one window after the other.  The largest of a
few views gives the same, NaN included (zeros of both signs are one number here).
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from clipq.tracing import is_plain

_Sizes = int | tuple[int, ...]


def pool_by_views(traced: fx.GraphModule) -> None:
    """Replaces PyTorch's max pooling in a network that is to be run without gradients."""
    modules: dict[str, Any] = dict(traced.named_modules())
    for node in traced.graph.nodes:
        if node.op == "call_function" and node.target is functional.max_pool2d:
            node.target = max_pool2d
        elif node.op == "call_module" and _is_pooling(pool := modules[node.target]):
            node.op, node.target = "call_function", max_pool2d
            node.args = *node.args, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
    traced.recompile()


def _is_pooling(module: Any) -> bool:
    return is_plain(module, nn.MaxPool2d) and not module.return_indices


def max_pool2d(
    input: torch.Tensor,
    kernel_size: _Sizes,
    stride: _Sizes | None = None,
    padding: _Sizes = 0,
    dilation: _Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor:
    """``torch.nn.functional.max_pool2d`` of [..., rows, columns], without gradients and without indices."""
    assert not return_indices
    kernel, step = _pair(kernel_size), _pair(stride or kernel_size)
    sides = list(zip(input.shape[-2:], kernel, step, strict=True))
    whole = all(size >= k and (not ceil_mode or (size - k) % s == 0) for size, k, s in sides)
    if input.device.type != "cpu" or _pair(padding) != (0, 0) or _pair(dilation) != (1, 1) or not whole:
        return functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    for dim, (_, k, s) in zip((-2, -1), sides, strict=True):
        input = reduce(torch.maximum, input.unfold(dim, k, s).unbind(-1))
    return input


def _pair(size: _Sizes) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
