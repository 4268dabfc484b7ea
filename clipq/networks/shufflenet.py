"""ShuffleNet 1x with three groups, as published for Caffe.

Source: ``shufflenet_1x_g3_deploy.prototxt`` of farmingyard/ShuffleNet.
"""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import AvgPool, BatchNorm, MaxPool, Scale, initialise

GROUPS = 3
STEM = 24  # channels of conv1
#: Channels of each stage -> its units; the first one halves the image and adds its input to the channels.
STAGES = {240: range(1, 5), 480: range(5, 13), 960: range(13, 17)}


class ShuffleNet(nn.Module):
    """conv1, units resx1 .. resx16, fc1000; 1,814,734 parameters.  A unit is ``_conv1`` (1x1, grouped), ``_conv2``
    (3x3, depthwise) and ``_conv3`` (1x1, grouped).

    Args:
        n_classes: outputs of fc1000.
        input_shape: (channels, height, width) of an image; BGR, mean subtracted, x 0.017.  Sizes are multiples of
            32: a unit's pooled input and its convolutions must agree, in Caffe as here.
    """

    def __init__(self, n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224)) -> None:
        super().__init__()
        self._add("conv1", nn.Conv2d(input_shape[0], STEM, 3, stride=2, padding=1, bias=False))
        self.pool1, self.match = MaxPool(3, 2), AvgPool(3, 2)
        channels = STEM
        for stage, units in STAGES.items():
            for unit in units:
                self._add_unit(f"resx{unit}", channels, stage, first=unit == units[0])
                channels = stage
        self.fc1000 = nn.Conv2d(channels, n_classes, 1)
        initialise(self, "msra")

    def _add_unit(self, name: str, channels: int, outputs: int, first: bool) -> None:
        outputs -= channels if first else 0
        width, stride = outputs // 4, 2 if first else 1
        groups = 1 if channels == STEM else GROUPS
        self._add(f"{name}_conv1", nn.Conv2d(channels, width, 1, groups=groups, bias=False))
        self._add(f"{name}_conv2", nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False))
        self._add(f"{name}_conv3", nn.Conv2d(width, outputs, 1, groups=GROUPS, bias=False))

    def _add(self, name: str, conv: nn.Conv2d) -> None:
        self.add_module(name, conv)
        self.add_module(f"{name}_bn", BatchNorm(conv.out_channels))
        self.add_module(f"{name}_scale", Scale(conv.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self._conv(x, "conv1")))
        for units in STAGES.values():
            for unit in units:
                x = self._unit(x, f"resx{unit}", first=unit == units[0])
        return self.fc1000(x.mean((2, 3), keepdim=True)).flatten(1)

    def _unit(self, x: torch.Tensor, name: str, first: bool) -> torch.Tensor:
        y = torch.relu(self._conv(x, f"{name}_conv1"))
        if name != "resx1":  # whose first convolution has no groups to mix
            y = shuffle_channels(y, GROUPS)
        y = self._conv(self._conv(y, f"{name}_conv2"), f"{name}_conv3")
        return torch.relu(torch.cat((self.match(x), y), 1) if first else x + y)

    def _conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = self.get_submodule(name)(x)
        return self.get_submodule(f"{name}_bn")(x, self.get_submodule(f"{name}_scale"))


def shuffle_channels(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Channel ``i`` of group ``g`` becomes channel ``i * groups + g``."""
    n, channels, height, width = x.shape
    return x.view(n, groups, channels // groups, height, width).transpose(1, 2).reshape(n, channels, height, width)
