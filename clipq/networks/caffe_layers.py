"""Caffe's layers where PyTorch's differ from them by default, and Caffe's initial values ("fillers").

Source: BVLC Caffe, ``pooling_layer.cpp`` and ``filler.hpp``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from clipq.errors import ModelError


def pooled_size(size: int, kernel: int, stride: int, pad: int = 0) -> int:
    """Rows (or columns) that Caffe's pooling gives: rounded up; with padding, no window starts beyond the image."""
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


def initialise(network: nn.Module, filler: Literal["xavier", "msra"]) -> None:
    """Fills the weights of all convolutions and inner products from torch's generator, and their biases with 0.

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
                    module.bias.zero_()
