"""Caffe's layers where PyTorch's differ from them by default, and Caffe's initial values ("fillers").

Source: BVLC Caffe, ``pooling_layer.cpp``, ``lrn_layer.cpp``, ``batch_norm_layer.cpp``, ``scale_layer.cpp`` and
``filler.hpp``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from clipq.errors import ModelError


def conv_size(size: int, kernel: int, stride: int = 1, pad: int = 0) -> int:
    """Rows (or columns) that a convolution gives: rounded down."""
    return (size + 2 * pad - kernel) // stride + 1


def pooled_size(size: int, kernel: int, stride: int, pad: int = 0) -> int:
    """Rows (or columns) that Caffe's pooling gives: rounded up; with padding, no window starts beyond the image.

    Raises:
        ModelError: nothing is left to pool.
    """
    if size < 1:
        raise ModelError("expected larger images: nothing is left of them before a pooling")
    pooled = math.ceil((size + 2 * pad - kernel) / stride) + 1
    return pooled - 1 if pad > 0 and (pooled - 1) * stride >= size + pad else pooled


class MaxPool(nn.MaxPool2d):
    """Caffe's max pooling: the output's size is rounded up.  Equal to Caffe's for stride <= kernel."""

    def __init__(self, kernel: int, stride: int, pad: int = 0) -> None:
        super().__init__(kernel, stride, pad, ceil_mode=True)


class AvgPool(nn.AvgPool2d):
    """Caffe's average pooling: rounded up; the padding counts in the divisor, what lies beyond it does not."""

    def __init__(self, kernel: int, stride: int, pad: int = 0) -> None:
        super().__init__(kernel, stride, pad, ceil_mode=True, count_include_pad=True)


class LRN(nn.LocalResponseNorm):
    """Caffe's local response normalization across channels, x / (1 + alpha / size * sum of squares) ^ beta."""

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__(size, alpha, beta, k=1.0)


class Scale(nn.Module):
    """Caffe's Scale with a bias: what a ``BatchNorm`` multiplies and adds, [channels] each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class BatchNorm(nn.Module):
    """Caffe's BatchNorm, whose Scale is a layer of its own; the two are computed in one pass.

    In training the statistics are the minibatch's, and the running ones move by ``momentum`` towards them, as
    PyTorch's do.  (Caffe keeps decaying sums, by default over ten times as many minibatches.)
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor, scale: Scale) -> torch.Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, scale.weight, scale.bias, self.training, self.momentum, self.eps
        )


def initialise(network: nn.Module, filler: Literal["xavier", "msra"], bias: float = 0.0) -> None:
    """Fills the weights of all convolutions and inner products from torch's generator, and their biases with ``bias``.

    xavier: uniform in +-sqrt(3 / fan_in).  msra: normal with standard deviation sqrt(2 / fan_in).
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            with torch.no_grad():
                if filler == "xavier":
                    module.weight.uniform_(-math.sqrt(3 / fan_in), math.sqrt(3 / fan_in))
                else:
                    module.weight.normal_(0.0, math.sqrt(2 / fan_in))
                if module.bias is not None:
                    module.bias.fill_(bias)
