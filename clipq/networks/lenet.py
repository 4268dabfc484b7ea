"""The two LeNets of Caffe's MNIST examples, with Caffe's blob names (``ip1.weight``, ``conv1.weight`` ...).

Inputs are images [n, c, h, w] with pixels x/256.  Trained weights: BVLC Caffe's ``examples/mnist``, and the models
that Dynamic Network Surgery published.
"""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import MaxPool, initialise, pooled_size


class LeNet300100(nn.Module):
    """LeNet-300-100: ip1 784-300, ReLU, ip2 300-100, ReLU, ip3 100-10; 266,610 parameters.

    Args:
        n_classes: outputs of ip3.
        input_shape: (channels, height, width) of an image.
    """

    def __init__(self, n_classes: int = 10, input_shape: tuple[int, int, int] = (1, 28, 28)) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.ip1 = nn.Linear(channels * height * width, 300)
        self.ip2 = nn.Linear(300, 100)
        self.ip3 = nn.Linear(100, n_classes)
        initialise(self, "xavier")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.ip1(x.flatten(1)))
        x = torch.relu(self.ip2(x))
        return self.ip3(x)


class LeNet5(nn.Module):
    """LeNet-5 as Caffe has it: conv1 20@5x5, pool, conv2 50@5x5, pool, ip1 800-500, ReLU, ip2 500-10; 431,080
    parameters.  No non-linearity follows the convolutions.

    Args:
        n_classes: outputs of ip2.
        input_shape: (channels, height, width) of an image, at least 13 pixels high and wide.
    """

    def __init__(self, n_classes: int = 10, input_shape: tuple[int, int, int] = (1, 28, 28)) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.pool1 = MaxPool(2, 2)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool2 = MaxPool(2, 2)
        rows, columns = (pooled_size(pooled_size(size - 4, 2, 2) - 4, 2, 2) for size in (height, width))
        self.ip1 = nn.Linear(50 * rows * columns, 500)
        self.ip2 = nn.Linear(500, n_classes)
        initialise(self, "xavier")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(memory_format=torch.channels_last)  # on a CPU, a training step takes two thirds of the time
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = torch.relu(self.ip1(x.flatten(1)))
        return self.ip2(x)
