"""A small convolutional network for scikit-learn's 8x8 digits: the default experiment's, trained in seconds."""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import MaxPool, initialise, pooled_size


class DigitsNet(nn.Module):
    """conv1 32@3x3, ReLU, pool, conv2 64@3x3, ReLU, pool, ip1 256-128, ReLU, ip2 128-10; 53,002 parameters.

    Args:
        n_classes: outputs of ip2.
        input_shape: (channels, height, width) of an image, at least 3 pixels high and wide.
    """

    def __init__(self, n_classes: int = 10, input_shape: tuple[int, int, int] = (1, 8, 8)) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.pool1 = MaxPool(2, 2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool2 = MaxPool(2, 2)
        rows, columns = (pooled_size(pooled_size(size, 2, 2), 2, 2) for size in (height, width))
        self.ip1 = nn.Linear(64 * rows * columns, 128)
        self.ip2 = nn.Linear(128, n_classes)
        initialise(self, "msra")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool2(torch.relu(self.conv2(x)))
        x = torch.relu(self.ip1(x.flatten(1)))
        return self.ip2(x)
