"""AlexNet as BVLC Caffe has it (grouped convolutions), CaffeNet, and torchvision's AlexNet (one tower).

Sources: ``models/bvlc_alexnet`` and ``models/bvlc_reference_caffenet`` of BVLC Caffe; A. Krizhevsky, "One weird trick
for parallelizing convolutional neural networks" (torchvision's).
"""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import LRN, MaxPool, conv_size, initialise, pooled_size
from clipq.networks.torchvision_names import ALEXNET_NAMES


class AlexNet(nn.Module):
    """BVLC AlexNet: five convolutions, three inner products, 60,965,224 parameters.

    Args:
        n_classes: outputs of fc8.
        input_shape: (channels, height, width) of an image; BGR, mean subtracted.
        norm_first: AlexNet normalizes and then pools; CaffeNet (False) pools and then normalizes.
        bias: initial bias of conv2, conv4, conv5, fc6 and fc7; the others' is 0.
    """

    def __init__(
        self,
        n_classes: int = 1000,
        input_shape: tuple[int, int, int] = (3, 227, 227),
        norm_first: bool = True,
        bias: float = 0.1,
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.norm_first = norm_first
        self.conv1 = nn.Conv2d(channels, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.norm1, self.pool1 = LRN(), MaxPool(3, 2)
        self.norm2, self.pool2 = LRN(), MaxPool(3, 2)
        self.pool5 = MaxPool(3, 2)
        rows, columns = (_after_pools(conv_size(size, 11, 4)) for size in (height, width))
        self.fc6 = nn.Linear(256 * rows * columns, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, n_classes)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        self._initialise(bias)

    def _initialise(self, bias: float) -> None:
        """Caffe's fillers: normal with standard deviation 0.01 (fc6 and fc7: 0.005)."""
        for name, module in self.named_children():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, 0.0, 0.005 if name in ("fc6", "fc7") else 0.01)
                if name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
                    nn.init.constant_(module.bias, bias)  # type: ignore[arg-type]
                else:
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        x = self.pool1(self.norm1(x)) if self.norm_first else self.norm1(self.pool1(x))
        x = torch.relu(self.conv2(x))
        x = self.pool2(self.norm2(x)) if self.norm_first else self.norm2(self.pool2(x))
        x = torch.relu(self.conv3(x))
        x = torch.relu(self.conv4(x))
        x = self.pool5(torch.relu(self.conv5(x)))
        x = self.drop6(torch.relu(self.fc6(x.flatten(1))))
        x = self.drop7(torch.relu(self.fc7(x)))
        return self.fc8(x)


class CaffeNet(AlexNet):
    """BVLC's reference CaffeNet: AlexNet with pooling before normalization, and initial biases of 1."""

    def __init__(self, n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 227, 227)) -> None:
        super().__init__(n_classes, input_shape, norm_first=False, bias=1.0)


class AlexNetTorchvision(nn.Module):
    """torchvision's AlexNet under Caffe's names: no groups, no normalization, 61,100,840 parameters.

    Args:
        n_classes: outputs of fc8.
        input_shape: (channels, height, width) of an image; RGB, normalized as torchvision's are.  The network pools to
            6x6 whatever the size.
    """

    torchvision_names = ALEXNET_NAMES

    def __init__(self, n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 64, 11, stride=4, padding=2)
        self.conv2 = nn.Conv2d(64, 192, 5, padding=2)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.pool1, self.pool2, self.pool5 = nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2)
        self.average = nn.AdaptiveAvgPool2d(6)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, n_classes)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        initialise(self, "msra")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool1(torch.relu(self.conv1(x)))
        x = self.pool2(torch.relu(self.conv2(x)))
        x = torch.relu(self.conv3(x))
        x = torch.relu(self.conv4(x))
        x = self.pool5(torch.relu(self.conv5(x)))
        x = self.drop6(self.average(x).flatten(1))
        x = self.drop7(torch.relu(self.fc6(x)))
        x = torch.relu(self.fc7(x))
        return self.fc8(x)


def _after_pools(size: int) -> int:
    for _ in range(3):
        size = pooled_size(size, 3, 2)
    return size
