"""The networks of the experiments, by name.  Every one takes ``n_classes`` and ``input_shape`` (channels, height,
width), and has Caffe's blob names where it is one of Caffe's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from clipq.errors import ModelError
from clipq.networks.alexnet import AlexNet, AlexNetTorchvision, CaffeNet
from clipq.networks.digits_net import DigitsNet
from clipq.networks.googlenet import GoogLeNet, googlenet_auxiliary
from clipq.networks.lenet import LeNet5, LeNet300100
from clipq.networks.mobilenet import MobileNet
from clipq.networks.nin import NIN
from clipq.networks.resnet50 import ResNet50, resnet50_torchvision
from clipq.networks.resnet_cifar import resnet20, resnet56
from clipq.networks.shufflenet import ShuffleNet
from clipq.networks.vgg16 import VGG16

#: name -> what builds it.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "digits_net": DigitsNet,
    "lenet300100": LeNet300100,
    "lenet5": LeNet5,
    "nin": NIN,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "alexnet": AlexNet,
    "alexnet_torchvision": AlexNetTorchvision,
    "caffenet": CaffeNet,
    "googlenet": GoogLeNet,
    "googlenet_auxiliary": googlenet_auxiliary,
    "resnet50": ResNet50,
    "resnet50_torchvision": resnet50_torchvision,
    "vgg16": VGG16,
    "mobilenet": MobileNet,
    "shufflenet": ShuffleNet,
}


def build_network(name: str, **options: Any) -> nn.Module:
    """A new network with initial weights drawn from torch's global generator.

    Args:
        name: a key of ``NETWORKS``.
        options: for its builder; every one knows ``n_classes`` and ``input_shape`` (channels, height, width).

    Raises:
        ModelError: no network of that name, or it cannot be built with these options.
    """
    if name not in NETWORKS:
        raise ModelError(f"network: expected one of {', '.join(sorted(NETWORKS))}, got {name!r}")
    try:
        return NETWORKS[name](**options)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ModelError(f"network {name}: cannot be built with {given}: {error}") from error


def deployed(network: nn.Module) -> nn.Module:
    """The network, without the layers that only its training uses (GoogLeNet's auxiliary classifiers)."""
    if isinstance(network, GoogLeNet):
        network.drop_auxiliary()
    return network
