"""GoogLeNet as BVLC Caffe has it: no batch normalization, and two auxiliary classifiers that only training uses.

Source: ``models/bvlc_googlenet`` of BVLC Caffe.
"""

from __future__ import annotations

import torch
from torch import nn

from clipq.networks.caffe_layers import LRN, AvgPool, MaxPool, conv_size, initialise, pooled_size

#: module -> outputs of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5, pool_proj.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
#: Auxiliary classifier -> the module whose output it sees.
AUXILIARY = {"loss1": "4a", "loss2": "4d"}


class GoogLeNet(nn.Module):
    """BVLC GoogLeNet: 6,998,552 parameters, and 6,379,984 more in the auxiliary classifiers.

    Args:
        n_classes: outputs of each classifier.
        input_shape: (channels, height, width) of an image; BGR, mean subtracted.
        auxiliary: with the auxiliary classifiers.  In training the network then gives (outputs, loss1's, loss2's), in
            evaluation the outputs alone.
    """

    #: Entries of a file of weights that a network without auxiliary classifiers does without.
    ignored_weights = ("loss1/*", "loss2/*")

    #: Weight of an auxiliary classifier's loss in training.
    auxiliary_weight = 0.3

    def __init__(
        self, n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224), auxiliary: bool = False
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        self.auxiliary = auxiliary
        self._add("conv1/7x7_s2", nn.Conv2d(channels, 64, 7, stride=2, padding=3))
        self._add("conv2/3x3_reduce", nn.Conv2d(64, 64, 1))
        self._add("conv2/3x3", nn.Conv2d(64, 192, 3, padding=1))
        self.norm1, self.norm2 = LRN(), LRN()
        self.pool1, self.pool2, self.pool3, self.pool4 = (MaxPool(3, 2) for _ in range(4))
        self.inception_pool = MaxPool(3, 1, 1)
        rows, columns = (_size_in_stage_4(size) for size in (height, width))
        channels = 192
        for name, widths in INCEPTIONS.items():
            channels = self._add_inception(name, channels, widths)
            for head, below in AUXILIARY.items():
                if auxiliary and below == name:
                    self._add_auxiliary(head, channels, pooled_size(rows, 5, 3) * pooled_size(columns, 5, 3), n_classes)
        self.drop = nn.Dropout(0.4)
        self._add("loss3/classifier", nn.Linear(channels, n_classes))
        initialise(self, "xavier", bias=0.2)
        for name, module in self.named_children():
            if name.endswith("classifier"):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def _add(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)

    def _add_inception(self, name: str, channels: int, widths: tuple[int, ...]) -> int:
        """The six convolutions of a module; its number of output channels."""
        n1, n3_reduce, n3, n5_reduce, n5, n_pool = widths
        self._add(f"inception_{name}/1x1", nn.Conv2d(channels, n1, 1))
        self._add(f"inception_{name}/3x3_reduce", nn.Conv2d(channels, n3_reduce, 1))
        self._add(f"inception_{name}/3x3", nn.Conv2d(n3_reduce, n3, 3, padding=1))
        self._add(f"inception_{name}/5x5_reduce", nn.Conv2d(channels, n5_reduce, 1))
        self._add(f"inception_{name}/5x5", nn.Conv2d(n5_reduce, n5, 5, padding=2))
        self._add(f"inception_{name}/pool_proj", nn.Conv2d(channels, n_pool, 1))
        return n1 + n3 + n5 + n_pool

    def _add_auxiliary(self, name: str, channels: int, places: int, n_classes: int) -> None:
        self._add(f"{name}/ave_pool", AvgPool(5, 3))
        self._add(f"{name}/conv", nn.Conv2d(channels, 128, 1))
        self._add(f"{name}/fc", nn.Linear(128 * places, 1024))
        self._add(f"{name}/drop_fc", nn.Dropout(0.7))
        self._add(f"{name}/classifier", nn.Linear(1024, n_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        x = self.norm1(self.pool1(self._relu(x, "conv1/7x7_s2")))
        x = self._relu(self._relu(x, "conv2/3x3_reduce"), "conv2/3x3")
        x = self.pool2(self.norm2(x))
        heads = []
        for name in INCEPTIONS:
            if name in ("4a", "5a"):
                x = self.pool3(x) if name == "4a" else self.pool4(x)
            x = self._inception(x, f"inception_{name}")
            if self.auxiliary and self.training:
                heads += [self._auxiliary(x, head) for head, below in AUXILIARY.items() if below == name]
        x = self._modules["loss3/classifier"](self.drop(x.mean((2, 3))))  # type: ignore[misc]
        return (x, *heads) if heads else x

    def drop_auxiliary(self) -> None:
        """Takes the auxiliary classifiers off, once the network is trained."""
        for name in [name for name, _ in self.named_children() if name.startswith(tuple(AUXILIARY))]:
            delattr(self, name)
        self.auxiliary = False

    def _relu(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.relu(self.get_submodule(name)(x))

    def _inception(self, x: torch.Tensor, name: str) -> torch.Tensor:
        branches = (
            self._relu(x, f"{name}/1x1"),
            self._relu(self._relu(x, f"{name}/3x3_reduce"), f"{name}/3x3"),
            self._relu(self._relu(x, f"{name}/5x5_reduce"), f"{name}/5x5"),
            self._relu(self.inception_pool(x), f"{name}/pool_proj"),
        )
        return torch.cat(branches, 1)

    def _auxiliary(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = self._relu(self.get_submodule(f"{name}/ave_pool")(x), f"{name}/conv")
        x = self.get_submodule(f"{name}/drop_fc")(self._relu(x.flatten(1), f"{name}/fc"))
        return self.get_submodule(f"{name}/classifier")(x)


def googlenet_auxiliary(n_classes: int = 1000, input_shape: tuple[int, int, int] = (3, 224, 224)) -> GoogLeNet:
    """GoogLeNet with its auxiliary classifiers, for training from scratch as Caffe does."""
    return GoogLeNet(n_classes, input_shape, auxiliary=True)


def _size_in_stage_4(size: int) -> int:
    size = conv_size(size, 7, 2, 3)
    for _ in range(3):
        size = pooled_size(size, 3, 2)
    return size
