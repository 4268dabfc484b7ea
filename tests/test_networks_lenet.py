"""The LeNets against a NumPy implementation of Caffe's formulas, and with Caffe's weights on MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clipq.data import load_dataset
from clipq.errors import ModelError
from clipq.networks import NETWORKS, build_network
from clipq.pretrained import load_weights

needs_data = pytest.mark.skipif(
    not os.environ.get("CLIPQ_DATA"), reason="CLIPQ_DATA names no folder with mnist/ and caffe/"
)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def numpy_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    n, _, height, width = x.shape
    outputs, _, k, _ = weight.shape
    y = np.zeros((n, outputs, height - k + 1, width - k + 1))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            y[:, :, i, j] = np.tensordot(x[:, :, i : i + k, j : j + k], weight, axes=([1, 2, 3], [1, 2, 3])) + bias
    return y


def numpy_pool(x: np.ndarray) -> np.ndarray:
    """2x2, stride 2, Caffe's rule: the output is rounded up and a window ends with the image."""
    rows, columns = -(-x.shape[2] // 2), -(-x.shape[3] // 2)
    y = np.zeros((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            y[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((2, 3))
    return y


def test_blobs_of_the_lenets_are_caffes():
    assert shapes(build_network("lenet300100")) == {
        "ip1.weight": (300, 784), "ip1.bias": (300,), "ip2.weight": (100, 300), "ip2.bias": (100,),
        "ip3.weight": (10, 100), "ip3.bias": (10,),
    }  # fmt: skip
    assert shapes(build_network("lenet5")) == {
        "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,), "conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,),
        "ip1.weight": (500, 800), "ip1.bias": (500,), "ip2.weight": (10, 500), "ip2.bias": (10,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"), [("lenet300100", 266_610), ("lenet5", 431_080), ("digits_net", 53_002)]
)
def test_parameter_counts(name: str, parameters: int):
    assert sum(p.numel() for p in build_network(name).parameters()) == parameters


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 29, 31)])
def test_lenet5_computes_what_caffe_computes(shape: tuple[int, int, int]):
    torch.manual_seed(1)
    model = build_network("lenet5", input_shape=shape).double()
    blobs = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    x = torch.rand(2, *shape, dtype=torch.float64)
    y = numpy_pool(numpy_conv(x.numpy(), blobs["conv1.weight"], blobs["conv1.bias"]))
    y = numpy_pool(numpy_conv(y, blobs["conv2.weight"], blobs["conv2.bias"])).reshape(2, -1)
    y = np.maximum(y @ blobs["ip1.weight"].T + blobs["ip1.bias"], 0)
    y = y @ blobs["ip2.weight"].T + blobs["ip2.bias"]
    np.testing.assert_allclose(model(x).detach().numpy(), y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["lenet300100", "lenet5", "digits_net"])
def test_other_images_and_classes(name: str):
    model = build_network(name, n_classes=7, input_shape=(3, 33, 20))
    assert model(torch.rand(2, 3, 33, 20)).shape == (2, 7)


def test_the_smallest_image_of_lenet5():
    assert build_network("lenet5", input_shape=(1, 13, 14))(torch.rand(1, 1, 13, 14)).shape == (1, 10)
    with pytest.raises(ModelError, match="larger images"):
        build_network("lenet5", input_shape=(1, 12, 14))


def test_the_seed_determines_the_initial_weights():
    torch.manual_seed(3)
    first = build_network("lenet5").state_dict()
    torch.manual_seed(3)
    second = build_network("lenet5").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["conv1.weight"].abs().max() <= (3 / 25) ** 0.5 < 1.05 * first["conv1.weight"].abs().max()
    assert not first["ip1.bias"].any()


def test_unknown_network_and_impossible_images_are_named():
    with pytest.raises(ModelError, match=r"lenet5.*got 'lenet6'"):
        build_network("lenet6")
    with pytest.raises(ModelError, match=r"lenet5.*input_shape=\(1, 8, 8\)"):
        build_network("lenet5", input_shape=(1, 8, 8))
    with pytest.raises(ModelError, match="depth=3"):
        build_network("lenet5", depth=3)
    assert set(NETWORKS) >= {"digits_net", "lenet300100", "lenet5"}


@needs_data
@pytest.mark.parametrize(("name", "right"), [("lenet300100", 9772), ("lenet5", 9909)])
def test_caffes_weights_classify_mnist_as_published(name: str, right: int):
    test = load_dataset("mnist").test
    model = build_network(name)
    load_weights(model, Path(os.environ["CLIPQ_DATA"], "caffe", f"caffe_{name}_original.caffemodel"))
    with torch.no_grad():
        predicted = torch.cat([model(x).argmax(1) for x in test.x.split(2500)])
    assert int((predicted == test.y).sum()) == right
