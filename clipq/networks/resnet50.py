"""ResNet-50 as its authors published it for Caffe, and the variant whose weights torchvision has.

Source: ``prototxt/ResNet-50-deploy.prototxt`` of KaimingHe/deep-residual-networks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from clipq.networks.caffe_layers import BatchNorm, MaxPool, Scale, initialise
from clipq.networks.torchvision_names import resnet50_names

#: Stage -> (blocks, channels of the 3x3 convolution); a block gives four times as many.
STAGES = {2: (3, 64), 3: (4, 128), 4: (6, 256), 5: (3, 512)}


class ResNet50(nn.Module):
    """ResNet-50 with Caffe's names: ``res2a_branch2b``, its BatchNorm ``bn2a_branch2b`` and Scale ``scale2a_branch2b``.

    Args:
        n_classes: outputs of fc1000.
        input_shape: (channels, height, width) of an image.
        variant: ``caffe`` (stride in a block's first 1x1 convolution, conv1 with a bias, pooling rounded up; BGR
            images, mean subtracted; 25,557,096 parameters) or ``torchvision`` (stride in the 3x3 one, no bias, padded
            pooling; RGB images, normalized; 25,557,032 parameters).
    """

    torchvision_names = resnet50_names(STAGES)

    def __init__(
        self,
        n_classes: int = 1000,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        variant: Literal["caffe", "torchvision"] = "caffe",
    ) -> None:
        super().__init__()
        self.caffe = variant == "caffe"
        self.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=self.caffe)
        self.bn_conv1, self.scale_conv1 = BatchNorm(64), Scale(64)
        self.pool1 = MaxPool(3, 2) if self.caffe else nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, (blocks, width) in STAGES.items():
            for block in "abcdef"[:blocks]:
                stride = 2 if block == "a" and stage > 2 else 1
                self._add_block(f"{stage}{block}", channels, width, stride, match=block == "a")
                channels = 4 * width
        self.fc1000 = nn.Linear(channels, n_classes)
        initialise(self, "msra")

    def _add_block(self, name: str, channels: int, width: int, stride: int, match: bool) -> None:
        first, second = (stride, 1) if self.caffe else (1, stride)
        if match:
            self._add(f"{name}_branch1", nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False))
        self._add(f"{name}_branch2a", nn.Conv2d(channels, width, 1, stride=first, bias=False))
        self._add(f"{name}_branch2b", nn.Conv2d(width, width, 3, stride=second, padding=1, bias=False))
        self._add(f"{name}_branch2c", nn.Conv2d(width, 4 * width, 1, bias=False))

    def _add(self, name: str, conv: nn.Conv2d) -> None:
        self.add_module(f"res{name}", conv)
        self.add_module(f"bn{name}", BatchNorm(conv.out_channels))
        self.add_module(f"scale{name}", Scale(conv.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self.bn_conv1(self.conv1(x), self.scale_conv1)))
        for stage, (blocks, _) in STAGES.items():
            for block in "abcdef"[:blocks]:
                x = self._block(x, f"{stage}{block}", match=block == "a")
        return self.fc1000(x.mean((2, 3)))

    def _block(self, x: torch.Tensor, name: str, match: bool) -> torch.Tensor:
        y = torch.relu(self._conv(x, f"{name}_branch2a"))
        y = torch.relu(self._conv(y, f"{name}_branch2b"))
        y = self._conv(y, f"{name}_branch2c")
        return torch.relu(y + (self._conv(x, f"{name}_branch1") if match else x))

    def _conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = self.get_submodule(f"res{name}")(x)
        return self.get_submodule(f"bn{name}")(x, self.get_submodule(f"scale{name}"))


def resnet50_torchvision(n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224)) -> ResNet50:
    """The ResNet-50 whose weights torchvision has."""
    return ResNet50(n_classes, input_shape, variant="torchvision")
