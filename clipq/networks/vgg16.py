"""VGG-16 (configuration D), with the names of its authors' Caffe model."""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import MaxPool, initialise, pooled_size
from clipq.networks.torchvision_names import VGG16_NAMES

#: Convolutions and channels of each block; a pooling follows a block.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class VGG16(nn.Module):
    """conv1_1 .. conv5_3 (3x3, padded), fc6, fc7, fc8; 138,357,544 parameters.

    Args:
        n_classes: outputs of fc8.
        input_shape: (channels, height, width) of an image: BGR, mean subtracted, for Caffe's weights; RGB, normalized,
            for torchvision's.
    """

    torchvision_names = VGG16_NAMES

    def __init__(self, n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224)) -> None:
        super().__init__()
        channels, rows, columns = input_shape
        for block, (convolutions, width) in enumerate(BLOCKS, 1):
            for i in range(1, convolutions + 1):
                self.add_module(f"conv{block}_{i}", nn.Conv2d(channels, width, 3, padding=1))
                channels = width
            rows, columns = pooled_size(rows, 2, 2), pooled_size(columns, 2, 2)
        self.pool = MaxPool(2, 2)
        self.fc6 = nn.Linear(channels * rows * columns, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, n_classes)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        initialise(self, "msra")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, (convolutions, _) in enumerate(BLOCKS, 1):
            for i in range(1, convolutions + 1):
                x = torch.relu(self.get_submodule(f"conv{block}_{i}")(x))
            x = self.pool(x)
        x = self.drop6(torch.relu(self.fc6(x.flatten(1))))
        x = self.drop7(torch.relu(self.fc7(x)))
        return self.fc8(x)
