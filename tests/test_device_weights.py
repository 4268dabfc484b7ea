"""Layers that an accelerator learns together: as one by one, as on the host, in few operations, without waiting."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.conventions import Conventions
from clipq.layers import compressible_layers
from clipq.learning import device_rows
from clipq.learning.device_weights import DeviceLayer, learn_on_device, learn_together
from clipq.networks import build_network
from clipq.quantized_net import LayerSetting
from clipq.ws_learn_one_layer import learn
from scripts.operations import Operations
from tests.test_ws_learn_one_layer import ALL, coarse, fine, rates

SOME = [Conventions(), *ALL[::97]]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
THETA = LayerSetting(0.9, 4)


@contextmanager
def small_rows() -> Iterator[None]:
    """Rows and blocks so small that a few weights fill several, and layers that are not copied."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ROW": 8, "BLOCK": 2, "LANES": 4}.items():
            patch.setattr(device_rows, name, value)
        patch.setattr(device_rows.DeviceRows, "block", 2)
        device_rows.layout.cache_clear()
        yield
    device_rows.layout.cache_clear()


def contents(layer: DeviceLayer) -> list[bytes]:
    tensors = (layer.quantized, layer.codes, layer.levels, layer.counts, *layer.neg, *layer.pos)
    return [t.contiguous().view(torch.uint8).numpy().tobytes() if t.ndim else str(float(t)).encode() for t in tensors]


def assert_same(one: DeviceLayer, other: DeviceLayer) -> None:
    assert contents(one) == contents(other)


def assert_is_the_hosts(layer: DeviceLayer, x: torch.Tensor, theta: LayerSetting, c: Conventions) -> None:
    host = learn(x, theta, c)
    assert torch.equal(layer.quantized, host.quantized) and layer.quantized.dtype == x.dtype
    assert torch.equal(layer.codes, host.codes)
    assert layer.levels.tolist() == host.levels.tolist() and torch.equal(layer.counts, host.counts)
    assert torch.equal(layer.levels.signbit(), host.levels.signbit())
    assert [str(float(v)) for v in (*layer.neg, *layer.pos)] == [str(float(v)) for v in (*host.neg, *host.pos)]


elements = st.one_of(coarse, fine.filter(lambda v: v == 0 or abs(v) > 1e-6))
one_layer = st.one_of(
    st.lists(elements, max_size=20),
    st.lists(elements, min_size=16, max_size=16),  # fills two rows
    st.lists(elements.map(abs), max_size=10),
    st.tuples(st.integers(1, 20), elements).map(lambda e: [e[1]] * e[0]),
)
networks = st.lists(st.tuples(one_layer, rates, st.integers(2, 8)), min_size=1, max_size=5)


@settings(max_examples=300)
@given(network=networks, c=st.sampled_from(ALL), dtype=st.sampled_from(DTYPES))
def test_layers_together_are_those_of_the_host(network: list, c: Conventions, dtype: torch.dtype) -> None:
    weights = [torch.tensor(values, dtype=dtype) for values, _, _ in network]
    thetas = [LayerSetting(p, b) for _, p, b in network]
    before = [x.clone() for x in weights]
    with small_rows():
        learned = learn_together(weights, thetas, c)
        layers = [learned.layer(i, theta.b) for i, theta in enumerate(thetas)]
    for layer, x, theta, as_before in zip(layers, weights, thetas, before, strict=True):
        assert_is_the_hosts(layer, x, theta, c)
        assert torch.equal(x, as_before)


@settings(max_examples=60)
@given(network=networks, c=st.sampled_from(ALL), dtype=st.sampled_from(DTYPES))
def test_layers_together_are_those_of_one_by_one_bit_for_bit(network: list, c: Conventions, dtype: torch.dtype) -> None:
    weights = [torch.tensor(values, dtype=dtype) for values, _, _ in network]
    thetas = [LayerSetting(p, b) for _, p, b in network]
    learned = learn_together(weights, thetas, c)
    for i, (x, theta) in enumerate(zip(weights, thetas, strict=True)):
        assert_same(learned.layer(i, theta.b), learn_on_device(x, theta, c))


def large_network() -> tuple[list[torch.Tensor], list[LayerSetting]]:
    """Layers below, at and above the size of a block, of other distributions and settings."""
    rng = np.random.default_rng(3)
    block = device_rows.ROW * device_rows.BLOCK
    layers = [rng.normal(size=block), rng.standard_t(2, 700_001), np.round(rng.normal(size=block + 4096), 2),
              rng.normal(size=9), np.abs(rng.normal(size=50_000)), np.zeros(5000)]  # fmt: skip
    thetas = list(itertools.product((0.0, 0.9, 1.0), (2, 5, 8)))[1:7]
    return [torch.from_numpy(x.astype(np.float32)) for x in layers], [LayerSetting(*theta) for theta in thetas]


@pytest.mark.parametrize("c", [Conventions(), Conventions(clip_ties="first", partition="joined")], ids=str)
def test_large_layers_together_are_those_of_the_host(c: Conventions) -> None:
    weights, thetas = large_network()
    learned = learn_together(weights, thetas, c)
    for i, (x, theta) in enumerate(zip(weights, thetas, strict=True)):
        layer, host = learned.layer(i, theta.b), learn(x, theta, c)
        assert torch.equal(layer.codes, host.codes) and torch.equal(layer.counts, host.counts)
        torch.testing.assert_close(layer.levels, host.levels, rtol=2e-7, atol=0)
        assert_same(layer, learn_on_device(x, theta, c))


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("c", SOME, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_spoils_its_own_layer_only(bad: float, c: Conventions, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(n, generator=g).to(dtype) for n in (50, 5000, 70)]
    spoilt = weights[1].clone()
    spoilt[17] = bad
    learned = learn_together([weights[0], spoilt, weights[2]], [THETA] * 3, c)
    assert learned.layer(1, 4).quantized.isnan().all()
    assert not learned.layer(1, 4).neg.e.isfinite()
    for i in (0, 2):
        assert_is_the_hosts(learned.layer(i, 4), weights[i], THETA, c)


def empty_layers(sizes: Sequence[int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.empty(n, dtype=dtype, device="meta") for n in sizes]


@pytest.mark.parametrize("c", SOME, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_together_never_wait(c: Conventions, dtype: torch.dtype) -> None:
    """On tensors without values, which refuse whatever needs one."""
    thetas = [LayerSetting(0.5, 2), LayerSetting(0.9, 8), LayerSetting(0.9, 8)]
    learned = learn_together(empty_layers([10, 0, 70_000], dtype), thetas, c)
    assert learned.layer(2, 8).quantized.shape == (70_000,) and learned.layer(0, 2).levels.is_meta


def count(sizes: Sequence[int], thetas: list[LayerSetting], c: Conventions) -> int:
    """Operations of a step that is not the first."""
    weights = empty_layers(sizes)
    for _ in range(2):
        with Operations() as operations:
            learn_together(weights, thetas, c)
    return operations.n


@pytest.mark.parametrize("c", SOME, ids=str)
def test_operations_are_as_many_for_any_layers_that_fit_in_a_block(c: Conventions) -> None:
    sizes: list[Any] = [[1], [100], [70_000], [5] * 50, [900, 0, 40_000]]
    counts = {count(s, [LayerSetting(0.9, b)] * len(s), c) for s, b in itertools.product(sizes, (2, 8))}
    assert len(counts) == 1
    assert counts.pop() <= (160 if c == Conventions() else 300)


@pytest.mark.parametrize(
    ("network", "shape", "at_most"),
    [("lenet5", (1, 28, 28), 160), ("resnet50", (3, 224, 224), 360), ("alexnet", (3, 227, 227), 650)],
)
def test_operations_of_a_networks_step(network: str, shape: tuple[int, ...], at_most: int) -> None:
    with torch.device("meta"):
        model = build_network(network, n_classes=1000, input_shape=shape)
    sizes = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert count(sizes, [THETA] * len(sizes), Conventions()) <= at_most


def test_every_compressible_layer_of_a_network_is_learned() -> None:
    layers = compressible_layers(build_network("lenet5", n_classes=10, input_shape=(1, 28, 28)))
    weights = [layer.weight.detach().reshape(-1) for layer in layers]
    learned = learn_together(weights, [THETA] * len(weights), Conventions())
    for i, x in enumerate(weights):
        assert_is_the_hosts(learned.layer(i, 4), x, THETA, Conventions())
