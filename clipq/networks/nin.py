"""Network in Network for CIFAR, nine convolutions, with the names of its authors' Caffe model."""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import AvgPool, MaxPool, conv_size, pooled_size


class NIN(nn.Module):
    """conv1, cccp1, cccp2, conv2, cccp3, cccp4, conv3, cccp5, cccp6, each with a ReLU; 966,986 parameters.

    Args:
        n_classes: outputs of cccp6.
        input_shape: (channels, height, width) of an image.
    """

    def __init__(self, n_classes: int = 10, input_shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        super().__init__()
        for size in input_shape[1:]:
            pooled_size(conv_size(pooled_size(size, 3, 2), 5, 1, 2), 3, 2)
        self.conv1 = nn.Conv2d(input_shape[0], 192, 5, padding=2)
        self.cccp1 = nn.Conv2d(192, 160, 1)
        self.cccp2 = nn.Conv2d(160, 96, 1)
        self.pool1, self.drop3 = MaxPool(3, 2), nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(96, 192, 5, padding=2)
        self.cccp3 = nn.Conv2d(192, 192, 1)
        self.cccp4 = nn.Conv2d(192, 192, 1)
        self.pool2, self.drop6 = AvgPool(3, 2), nn.Dropout(0.5)
        self.conv3 = nn.Conv2d(192, 192, 3, padding=1)
        self.cccp5 = nn.Conv2d(192, 192, 1)
        self.cccp6 = nn.Conv2d(192, n_classes, 1)
        for module in self.children():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.05)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.cccp1, self.cccp2):
            x = torch.relu(conv(x))
        x = self.drop3(self.pool1(x))
        for conv in (self.conv2, self.cccp3, self.cccp4):
            x = torch.relu(conv(x))
        x = self.drop6(self.pool2(x))
        for conv in (self.conv3, self.cccp5, self.cccp6):
            x = torch.relu(conv(x))
        return x.mean((2, 3))
