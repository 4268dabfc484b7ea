"""The ImageNet and CIFAR networks against Caffe's formulas in NumPy, published sizes, and Caffe's names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import caffe_bytes as pb
import caffe_numpy
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from clipq.errors import DataError
from clipq.networks import NETWORKS, build_network, deployed
from clipq.networks.caffe_layers import LRN, AvgPool, BatchNorm, MaxPool, Scale, pooled_size
from clipq.pretrained import load_weights

#: Parameters as published (Caffe's models: the sum over their blobs, without the statistics of BatchNorm).
PARAMETERS = {
    "alexnet": 60_965_224, "caffenet": 60_965_224, "googlenet": 6_998_552, "googlenet_auxiliary": 13_378_280,
    "vgg16": 138_357_544, "resnet50": 25_557_032 + 64, "resnet50_torchvision": 25_557_032, "mobilenet": 4_231_976,
    "alexnet_torchvision": 61_100_840, "nin": 966_986, "resnet20": 269_722, "resnet56": 853_018,
}  # fmt: skip


def randomised(name: str, **options: object) -> nn.Module:
    """A network in evaluation mode, float64, none of whose statistics and biases is trivial."""
    torch.manual_seed(0)
    model = build_network(name, **options)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith(("running_var", "scale.weight")) or (key.startswith("scale") and key.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.1)
    return model.double().eval()


def numpy_net(model: nn.Module) -> caffe_numpy.Net:
    return caffe_numpy.Net({name: tensor.numpy() for name, tensor in model.state_dict().items()})


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts_are_the_published_ones(name: str):
    with torch.device("meta"):
        model = NETWORKS[name]()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@st.composite
def poolings(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    kernel = draw(st.integers(1, 5))
    stride = draw(st.integers(1, kernel))
    pad = draw(st.integers(0, kernel // 2))
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    assume(min(height, width) + 2 * pad >= kernel)
    return height, width, kernel, stride, pad


@given(poolings(), st.sampled_from(["MAX", "AVE"]))
def test_pooling_is_caffes(sizes: tuple[int, int, int, int, int], kind: str):
    height, width, kernel, stride, pad = sizes
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = caffe_numpy.pool(x.numpy(), kind, kernel, stride, pad)
    got = (MaxPool if kind == "MAX" else AvgPool)(kernel, stride, pad)(x)
    assert got.shape[2:] == (pooled_size(height, kernel, stride, pad), pooled_size(width, kernel, stride, pad))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-14)


@given(st.integers(1, 12), st.sampled_from([1, 3, 5, 7]))
def test_local_response_normalization_is_caffes(channels: int, size: int):
    x = 100 * torch.randn(2, channels, 3, 2, dtype=torch.float64)
    np.testing.assert_allclose(LRN(size)(x).numpy(), caffe_numpy.lrn(x.numpy(), size), rtol=1e-12)


def test_batch_norm_with_its_scale_is_pytorchs():
    torch.manual_seed(0)
    reference, ours, scale = nn.BatchNorm2d(4), BatchNorm(4), Scale(4)
    for parameter, other in ((reference.weight, scale.weight), (reference.bias, scale.bias)):
        nn.init.normal_(parameter)
        other.data.copy_(parameter)
    for training in (True, True, False):
        x = torch.randn(8, 4, 5, 5)
        assert torch.equal(ours.train(training)(x, scale), reference.train(training)(x))
    assert torch.equal(ours.running_var, reference.running_var) and torch.equal(
        ours.running_mean, reference.running_mean
    )


@pytest.mark.parametrize(("name", "norm_first"), [("alexnet", True), ("caffenet", False)])
def test_alexnet_and_caffenet_compute_what_caffe_computes(name: str, norm_first: bool):
    model = randomised(name, n_classes=7, input_shape=(3, 75, 91))
    x = 50 * torch.randn(2, 3, 75, 91, dtype=torch.float64)
    expected = caffe_numpy.alexnet(numpy_net(model), x.numpy(), norm_first)
    other = caffe_numpy.alexnet(numpy_net(model), x.numpy(), not norm_first)
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-9)
    assert not np.allclose(expected, other, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("resnet50", caffe_numpy.resnet50),
        ("mobilenet", caffe_numpy.mobilenet),
        ("shufflenet", caffe_numpy.shufflenet),
        ("googlenet", lambda net, x: caffe_numpy.googlenet(net, x)["loss3"]),
    ],
)
def test_networks_compute_what_caffe_computes(
    name: str, reference: Callable[[caffe_numpy.Net, np.ndarray], np.ndarray]
):
    shape = (3, 64, 96) if name == "shufflenet" else (3, 66, 75)  # ShuffleNet halves even sizes only
    model = randomised(name, n_classes=5, input_shape=shape)
    x = torch.randn(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), reference(numpy_net(model), x.numpy()), rtol=1e-8)


def test_the_auxiliary_classifiers_of_googlenet():
    model = randomised("googlenet_auxiliary", n_classes=5, input_shape=(3, 120, 150))
    x = torch.randn(2, 3, 120, 150, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = caffe_numpy.googlenet(numpy_net(model), x.numpy())
    model.train()
    outputs = model(x)
    assert len(outputs) == 3
    for output, head in zip(outputs, ("loss3", "loss1", "loss2"), strict=True):
        np.testing.assert_allclose(output.detach().numpy(), expected[head], rtol=1e-8)
    main = model.eval()(x)
    assert torch.is_tensor(main)
    names = set(deployed(model).state_dict())
    assert names == set(build_network("googlenet", n_classes=5, input_shape=(3, 120, 150)).state_dict())
    assert torch.equal(model.train()(x), main), "without dropout"


def activations(name: str, layers: list[str]) -> list[tuple[int, ...]]:
    """Shapes of the layers' outputs, without the batch, at the network's own image size."""
    with torch.device("meta"):
        model = NETWORKS[name]()
        x = torch.empty(1, *inspect.signature(NETWORKS[name]).parameters["input_shape"].default)
    seen: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        model.get_submodule(layer).register_forward_hook(
            lambda _, __, output, layer=layer: seen.__setitem__(layer, tuple(output.shape[1:]))
        )
    model(x)
    return [seen[layer] for layer in layers]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", {"conv1": (96, 55, 55), "pool1": (96, 27, 27), "conv2": (256, 27, 27), "pool2": (256, 13, 13),
                     "conv5": (256, 13, 13), "pool5": (256, 6, 6), "fc6": (4096,), "fc8": (1000,)}),
        ("caffenet", {"pool1": (96, 27, 27), "norm1": (96, 27, 27), "pool5": (256, 6, 6)}),
        ("googlenet", {"conv1/7x7_s2": (64, 112, 112), "pool1": (64, 56, 56), "conv2/3x3": (192, 56, 56),
                       "pool2": (192, 28, 28), "inception_3b/5x5": (96, 28, 28), "pool3": (480, 14, 14),
                       "inception_4e/3x3": (320, 14, 14), "pool4": (832, 7, 7), "inception_5b/1x1": (384, 7, 7)}),
        ("googlenet_auxiliary", {"loss1/ave_pool": (512, 4, 4), "loss2/ave_pool": (528, 4, 4), "loss1/fc": (1024,)}),
        ("resnet50", {"conv1": (64, 112, 112), "pool1": (64, 56, 56), "res2c_branch2c": (256, 56, 56),
                      "res3a_branch2a": (128, 28, 28), "res5c_branch2c": (2048, 7, 7)}),
        ("vgg16", {"conv1_2": (64, 224, 224), "conv3_3": (256, 56, 56), "conv5_3": (512, 14, 14), "fc6": (4096,)}),
        ("mobilenet", {"conv1": (32, 112, 112), "conv3_2/dw": (128, 28, 28), "conv6/sep": (1024, 7, 7)}),
        ("shufflenet", {"pool1": (24, 56, 56), "resx1_conv3": (216, 28, 28), "resx5_conv2": (60, 14, 14),
                        "resx16_conv3": (960, 7, 7)}),
        ("nin", {"pool1": (96, 16, 16), "pool2": (192, 8, 8), "cccp6": (10, 8, 8)}),
        ("resnet20", {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}),
    ],
)  # fmt: skip
def test_shapes_of_the_layers(name: str, expected: dict[str, tuple[int, ...]]):
    assert activations(name, list(expected)) == list(expected.values())


def test_blob_names_are_caffes():
    with torch.device("meta"):
        names = {name: set(NETWORKS[name]().state_dict()) for name in ("alexnet", "googlenet", "resnet50", "vgg16")}
    fc = [f"{layer}.{kind}" for layer in ("fc6", "fc7", "fc8") for kind in ("weight", "bias")]
    assert names["alexnet"] == {f"conv{i}.{kind}" for i in range(1, 6) for kind in ("weight", "bias")} | set(fc)
    vgg = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    assert names["vgg16"] == {f"{conv}.{kind}" for conv in vgg for kind in ("weight", "bias")} | set(fc)
    assert len(names["googlenet"]) == 2 * (3 + 9 * 6 + 1)
    assert {"conv2/3x3_reduce.bias", "inception_4e/pool_proj.weight", "loss3/classifier.weight"} <= names["googlenet"]
    assert not [name for name in names["googlenet"] if name.startswith(("loss1", "loss2"))]
    convs = [f"{s}{b}_branch{k}" for s, n in ((2, 3), (3, 4), (4, 6), (5, 3)) for b in "abcdef"[:n]
             for k in ("1", "2a", "2b", "2c") if k != "1" or b == "a"]  # fmt: skip
    expected = {f"res{conv}.weight" for conv in convs} | {"conv1.weight", "conv1.bias", "fc1000.weight", "fc1000.bias"}
    for conv in (*convs, "_conv1"):
        expected |= {f"bn{conv}.running_mean", f"bn{conv}.running_var", f"scale{conv}.weight", f"scale{conv}.bias"}
    assert names["resnet50"] == expected


def blob(array: np.ndarray) -> bytes:
    return pb.shape(array.shape) + pb.floats(array.ravel())


def test_a_caffemodel_of_googlenet_with_heads_that_the_network_does_without(tmp_path: Path):
    torch.manual_seed(2)
    source = build_network("googlenet_auxiliary", n_classes=3, input_shape=(3, 64, 64))
    layers = dict.fromkeys(name.rsplit(".", 1)[0] for name in source.state_dict())
    state = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    data = b"".join(pb.layer(n, "X", blob(state[f"{n}.weight"]), blob(state[f"{n}.bias"])) for n in layers)
    (tmp_path / "net.caffemodel").write_bytes(data)
    for name in ("googlenet", "googlenet_auxiliary"):
        model = build_network(name, n_classes=3, input_shape=(3, 64, 64))
        load_weights(model, tmp_path / "net.caffemodel")
        assert all(np.array_equal(t.numpy(), state[n]) for n, t in model.state_dict().items())


def test_a_caffemodel_with_batch_norm_and_scale(tmp_path: Path):
    rng = np.random.default_rng(0)
    model = build_network("resnet50", n_classes=2, input_shape=(3, 32, 32))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    data, expected = b"", {}
    for layer in dict.fromkeys(name.rsplit(".", 1)[0] for name in shapes):
        if layer.startswith("bn"):
            mean, variance = (rng.random(shapes[f"{layer}.running_mean"], np.float32) for _ in range(2))
            expected |= {f"{layer}.running_mean": mean / 4, f"{layer}.running_var": variance / 4}
            data += pb.layer(layer, "BatchNorm", blob(mean), blob(variance), blob(np.array([4.0])))
        else:
            blobs = {k: rng.random(shapes[k], np.float32) for k in (f"{layer}.weight", f"{layer}.bias") if k in shapes}
            expected |= blobs
            data += pb.layer(layer, "X", *map(blob, blobs.values()))
    (tmp_path / "net.caffemodel").write_bytes(data)
    load_weights(model, tmp_path / "net.caffemodel")
    assert {n: t.numpy().tobytes() for n, t in model.state_dict().items()} == {
        n: a.tobytes() for n, a in expected.items()
    }


#: torchvision's own names and shapes of a few entries, in its published state dicts.
TORCHVISION = {
    "vgg16": {"features.0.weight": "conv1_1.weight", "classifier.6.bias": "fc8.bias"},
    "alexnet_torchvision": {"features.10.weight": "conv5.weight", "classifier.4.bias": "fc7.bias"},
    "resnet50_torchvision": {
        "conv1.weight": "conv1.weight", "bn1.weight": "scale_conv1.weight", "bn1.running_var": "bn_conv1.running_var",
        "layer1.0.downsample.0.weight": "res2a_branch1.weight", "layer3.5.bn3.bias": "scale4f_branch2c.bias",
        "layer4.2.conv1.weight": "res5c_branch2a.weight", "fc.bias": "fc1000.bias",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_torchvisions_names(name: str, tmp_path: Path):
    model = build_network(name, n_classes=2, input_shape=(3, 32, 32))
    names = model.torchvision_names
    assert isinstance(names, dict) and set(names.values()) == set(model.state_dict())
    assert TORCHVISION[name].items() <= names.items()
    theirs = {n: torch.randn_like(model.state_dict()[ours]) for n, ours in names.items()}
    tracked = {
        n.replace("running_var", "num_batches_tracked"): torch.tensor(5) for n in names if n.endswith("running_var")
    }
    torch.save(theirs | tracked, tmp_path / "net.pth")
    load_weights(model, tmp_path / "net.pth")
    assert all(torch.equal(model.state_dict()[ours], theirs[n]) for n, ours in names.items())


def test_torchvisions_resnet50_does_not_fit_caffes(tmp_path: Path):
    source = build_network("resnet50_torchvision", n_classes=2)
    torch.save({n: source.state_dict()[ours] for n, ours in source.torchvision_names.items()}, tmp_path / "net.pth")
    with pytest.raises(DataError, match=r"missing: conv1\.bias$"):
        load_weights(build_network("resnet50", n_classes=2), tmp_path / "net.pth")


def test_shortcuts_of_the_cifar_resnets_pad_with_zeros():
    block = build_network("resnet20").layer2[0].eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 8, 8)
    y = block(x)
    assert y.shape == (1, 32, 4, 4) and torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_learns_from_every_weight(name: str):
    """One backward pass reaches all parameters; other classes and channels are possible."""
    torch.manual_seed(0)
    size = 75 if name in ("alexnet", "caffenet", "alexnet_torchvision") else 64 if name.startswith("google") else 32
    model = build_network(name, n_classes=4, input_shape=(1, size, size)).train()
    outputs = model(torch.rand(2, 1, size, size))
    sum(output.square().sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
