"""MobileNet 1.0 as published for Caffe.

Source: ``mobilenet_deploy.prototxt`` of shicai/MobileNet-Caffe.
"""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import BatchNorm, Scale, initialise

#: Depthwise and pointwise pair -> (channels of the pointwise convolution, stride of the depthwise one).
PAIRS = {
    "conv2_1": (64, 1), "conv2_2": (128, 2), "conv3_1": (128, 1), "conv3_2": (256, 2), "conv4_1": (256, 1),
    "conv4_2": (512, 2), "conv5_1": (512, 1), "conv5_2": (512, 1), "conv5_3": (512, 1), "conv5_4": (512, 1),
    "conv5_5": (512, 1), "conv5_6": (1024, 2), "conv6": (1024, 1),
}  # fmt: skip


class MobileNet(nn.Module):
    """conv1, thirteen pairs ``convN/dw`` and ``convN/sep``, fc7; 4,231,976 parameters.

    Args:
        n_classes: outputs of fc7.
        input_shape: (channels, height, width) of an image; BGR, mean subtracted, x 0.017.
    """

    def __init__(self, n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224)) -> None:
        super().__init__()
        self._add("conv1", nn.Conv2d(input_shape[0], 32, 3, stride=2, padding=1, bias=False))
        channels = 32
        for name, (width, stride) in PAIRS.items():
            depthwise = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
            self._add(f"{name}/dw", depthwise)
            self._add(f"{name}/sep", nn.Conv2d(channels, width, 1, bias=False))
            channels = width
        self.fc7 = nn.Conv2d(channels, n_classes, 1)
        initialise(self, "msra")

    def _add(self, name: str, conv: nn.Conv2d) -> None:
        self.add_module(name, conv)
        self.add_module(f"{name}/bn", BatchNorm(conv.out_channels))
        self.add_module(f"{name}/scale", Scale(conv.out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self._conv(x, "conv1")
        for name in PAIRS:
            x = self._conv(self._conv(x, f"{name}/dw"), f"{name}/sep")
        return self.fc7(x.mean((2, 3), keepdim=True)).flatten(1)

    def _conv(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = self.get_submodule(name)(x)
        return torch.relu(self.get_submodule(f"{name}/bn")(x, self.get_submodule(f"{name}/scale")))
