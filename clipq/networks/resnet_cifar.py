"""ResNet-20 and ResNet-56 for CIFAR (He et al., 2016, section 4.2): shortcuts without parameters ("option A").

No Caffe model of them was published by their authors; the names are those of the usual PyTorch weights
(``layer1.0.conv1.weight``, ``linear.weight``), and so is the order in which a shortcut pads its channels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from clipq.networks.caffe_layers import initialise


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalization around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.padded = stride, width - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.padded:
            before = self.padded // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.padded - before))
        return torch.relu(y + x)


class ResNetCifar(nn.Module):
    """6 n + 2 layers.  ResNet-20: 269,722 parameters, ResNet-56: 853,018.

    Args:
        blocks: n, blocks in each of the three stages.
        n_classes: outputs of linear.
        input_shape: (channels, height, width) of an image.
    """

    def __init__(self, blocks: int, n_classes: int = 10, input_shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, n_classes)
        initialise(self, "msra")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20(n_classes: int = 10, input_shape: tuple[int, int, int] = (3, 32, 32)) -> ResNetCifar:
    return ResNetCifar(3, n_classes, input_shape)


def resnet56(n_classes: int = 10, input_shape: tuple[int, int, int] = (3, 32, 32)) -> ResNetCifar:
    return ResNetCifar(9, n_classes, input_shape)
