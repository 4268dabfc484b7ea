"""What only a CUDA device can show: its kernels' results, that nobody waits for it, and that a training resumes."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from clipq.conventions import Conventions
from clipq.device import find_device, repeatable
from clipq.layers import compressible_layers
from clipq.learning import device_passes
from clipq.learning.device_weights import DeviceLayer, learn_by, learn_on_device, learn_together
from clipq.learning.partition import Side
from clipq.networks import build_network
from clipq.quantized_net import LayerSetting
from clipq.train_config import TrainConfig
from clipq.train_state import History
from clipq.training import fit
from clipq.weight_sharing import share_weights
from clipq.ws_learn_one_layer import learn
from tests.test_device_weights import DTYPES, SOME, THETA, assert_is_the_hosts, assert_same, large_network, networks
from tests.test_training import Killed, Store, clip_q, dense, network, without_time
from tests.test_training import assert_same as assert_same_weights
from tests.test_ws_learn_one_layer import ALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CUDA = torch.device("cuda")


def on_the_host(layer: DeviceLayer) -> DeviceLayer:
    neg, pos = (Side(*(torch.as_tensor(number).cpu() for number in side)) for side in (layer.neg, layer.pos))
    return DeviceLayer(*(t.cpu() for t in layer[:4]), neg, pos)


@contextmanager
def nobody_waits() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("kind", "name"), [(device_passes.passes, "KernelRows"), (device_passes.step, "learn_step")])
def test_tritons_kernels_prove_themselves_here(kind: Callable[..., Any], name: str) -> None:
    pytest.importorskip("triton")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = kind(torch.device("cuda", torch.cuda.current_device()), torch.float32, learn_by)
    assert found.__name__ == name


@settings(max_examples=150, deadline=None)
@given(network=networks, c=st.sampled_from(ALL), dtype=st.sampled_from(DTYPES))
def test_layers_are_those_of_the_host(network: list, c: Conventions, dtype: torch.dtype) -> None:
    weights = [torch.tensor(values, dtype=dtype) for values, _, _ in network]
    thetas = [LayerSetting(p, b) for _, p, b in network]
    learned = learn_together([x.cuda() for x in weights], thetas, c)
    for i, (x, theta) in enumerate(zip(weights, thetas, strict=True)):
        assert_is_the_hosts(on_the_host(learned.layer(i, theta.b)), x, theta, c)


@pytest.mark.parametrize("c", SOME, ids=str)
def test_large_layers_are_those_of_the_host(c: Conventions) -> None:
    weights, thetas = large_network()
    weights = [x.cuda() for x in weights]
    learned = learn_together(weights, thetas, c)
    for i, (x, theta) in enumerate(zip(weights, thetas, strict=True)):
        layer, host = on_the_host(learned.layer(i, theta.b)), learn(x.cpu(), theta, c)
        assert torch.equal(layer.codes, host.codes) and torch.equal(layer.counts, host.counts)
        torch.testing.assert_close(layer.levels, host.levels, rtol=2e-7, atol=0)
        assert_same(layer, on_the_host(learn_on_device(x, theta, c)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_that_follow_each_other_are_those_of_the_host(dtype: torch.dtype) -> None:
    """With other weights, in other places, with other settings; what earlier steps gave stays as it was."""
    g = torch.Generator().manual_seed(4)
    steps = []
    for i in range(8):
        weights = [torch.randn(n, generator=g).to(dtype) ** (1 + 2 * (i % 2)) for n in (70_001, 5, 4096, 300_000)]
        moved = [torch.cat([x.new_zeros(i % 2), x]).cuda()[i % 2 :] for x in weights]
        thetas = [LayerSetting(p, 2 + i % 4) for p in (0.0, 0.5, 0.9 + 0.01 * i, 1.0)]
        steps.append((learn_together(moved, thetas, Conventions()), weights, thetas))
    for learned, weights, thetas in steps:
        for i, (x, theta) in enumerate(zip(weights, thetas, strict=True)):
            layer, host = on_the_host(learned.layer(i, theta.b)), learn(x, theta)
            assert torch.equal(layer.codes, host.codes) and torch.equal(layer.counts, host.counts)
            torch.testing.assert_close(layer.levels, host.levels, rtol=2e-7, atol=0)


def test_a_step_may_be_captured() -> None:
    x = torch.randn(10_000, device=CUDA)
    expected = learn_together([x], [THETA], Conventions()).layer(0, 4).quantized
    graph = torch.cuda.CUDAGraph()
    learn_together([x], [THETA], Conventions(clip_ties="keep"))  # makes what is made once
    with torch.cuda.graph(graph):
        found = learn_together([x], [THETA], Conventions()).layer(0, 4).quantized
    graph.replay()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("network", ["lenet5", "resnet50"])
def test_in_a_step_of_training_nobody_waits(network: str) -> None:
    shape = (1, 28, 28) if network == "lenet5" else (3, 64, 64)
    model = build_network(network, n_classes=10, input_shape=shape).cuda()
    layers = compressible_layers(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.rand(8, *shape, device=CUDA), torch.arange(8, device=CUDA)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    with share_weights(layers, {layer.name: THETA for layer in layers}):
        for _ in range(5):  # compiles, proves kernels, chooses algorithms
            step()
        with nobody_waits():
            step()


def test_a_layers_weights_are_quantized_in_the_network_as_on_the_host() -> None:
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10))
    device = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10)).cuda()
    device.load_state_dict(host.state_dict())
    for p, b in itertools.product((0.3, 0.95), (2, 5)):
        for model in (host, device):
            layers = compressible_layers(model)
            with share_weights(layers, {layer.name: LayerSetting(p, b) for layer in layers}):
                model.weights = [m.weight.detach().cpu() for m in model if isinstance(m, nn.Linear)]
        assert all(torch.equal(a, b) for a, b in zip(host.weights, device.weights, strict=True))


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_the_device_of_an_experiment_is_found(name: str) -> None:
    assert find_device(name).type == "cuda"


def test_training_gives_the_same_weights_again() -> None:
    """Convolutions whose sums come in any order part after a few steps."""
    assert_same_weights(trained_lenet5(), trained_lenet5())


def trained_lenet5() -> nn.Module:
    torch.manual_seed(0)
    model, x = build_network("lenet5").cuda(), torch.rand(1024, 1, 28, 28)
    batches = list(zip(x.split(128), (torch.arange(1024) % 10).split(128), strict=True))
    with repeatable():
        fit(model, lambda epoch: batches, TrainConfig(epochs=3))
    return model


@pytest.mark.parametrize("train", [dense, clip_q])
@pytest.mark.parametrize("kill", [1, 6, 11])
def test_a_killed_training_goes_on_to_the_same_weights(train: Callable[..., History], kill: int) -> None:
    expected, store, resumed = network().cuda(), Store(killed_after=kill), network().cuda()
    history = train(expected, seed=5)
    with pytest.raises(Killed):
        train(network().cuda(), seed=5, checkpoints=store)
    assert without_time(train(resumed, seed=5, checkpoints=store)) == without_time(history)
    assert_same_weights(resumed, expected)
