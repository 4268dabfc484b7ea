"""Units that do nothing: the network computes the same without them, and only those that surely do nothing go."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from clipq import fold_dead_units
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.layers import compressible_layers
from clipq.quantize_state import quantize_state
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.weight_sharing import quantized_net

ACTIVATIONS = (nn.ReLU(), nn.ReLU(inplace=True), nn.Sigmoid(), nn.GELU(), nn.Tanh(), nn.Dropout(0.5), nn.Identity())


def compressed(model: nn.Module, p: float = 0.5) -> QuantizedNet:
    layers = compressible_layers(model)
    net = quantized_net(model, layers, {layer.name: LayerSetting(p, 3) for layer in layers})
    model.load_state_dict(net.state_dict())
    return net


def prune(model: nn.Linear, rows: list[int] = [], columns: list[int] = []) -> None:  # noqa: B006 (only read)
    with torch.no_grad():
        model.weight[rows] = 0
        model.weight[:, columns] = 0


def assert_computes_the_same(model: nn.Module, net: QuantizedNet, folded: QuantizedNet, n_inputs: int) -> None:
    x = torch.randn(20, n_inputs)
    model.eval()
    with torch.no_grad():
        before = model(x)
        model.load_state_dict(folded.state_dict())
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)
    assert [layer.levels.tolist() for layer in folded.layers] == [layer.levels.tolist() for layer in net.layers]


def codes(net: QuantizedNet, name: str) -> np.ndarray:
    return next(layer.codes for layer in net.layers if layer.name == f"{name}.weight")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([0.5, 0.8, 0.95]), st.lists(st.sampled_from(ACTIVATIONS), max_size=2),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)  # fmt: skip
def test_whatever_is_dead_the_network_computes_the_same(seed, p, between, biases):
    """Three layers, so that units die in a row; with and without biases and activations."""
    torch.manual_seed(seed)
    sizes = [(4, 9), (9, 7), (7, 3)]
    linear = [nn.Linear(*size, bias=bias) for size, bias in zip(sizes, biases, strict=True)]
    model = nn.Sequential(linear[0], *between, linear[1], *between, linear[2])
    net = compressed(model, p)
    folded = fold_dead_units(model, net)
    assert_computes_the_same(model, net, folded, 4)
    for before, after in zip(net.layers, folded.layers, strict=True):
        assert ((after.codes == before.codes) | (after.codes == 0)).all(), "weights are pruned, never changed"
    for i, name in enumerate(("0", str(1 + len(between)))):
        rows = codes(folded, name).any(axis=1)
        following = codes(folded, str((i + 1) * (1 + len(between))))
        if biases[i + 1]:
            assert (rows | ~following.any(axis=0)).all(), "a unit that hears nothing is not listened to"
        assert (~rows | following.any(axis=0)).all(), "a unit that nobody listens to hears nothing"


def test_layers_whose_bias_is_compressed_too_are_left_alone():
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3))
    settings = {"0.weight": LayerSetting(0.95, 3), "0.bias": LayerSetting(0, 8), "2.weight": LayerSetting(0, 8)}
    net = quantize_state(model.state_dict(), settings)
    assert fold_dead_units(model, net) is net


def test_a_unit_without_incoming_weights_moves_into_the_bias():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    prune(model[0], rows=[0, 1])
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([2.0, -1.0, 0.5]))
    net = compressed(model, p=0.0)
    weights, bias = model[2].weight.detach().clone(), model[2].bias.detach().clone()
    folded = fold_dead_units(model, net)
    torch.testing.assert_close(folded.tensors["2.bias"], bias + 2.0 * weights[:, 0])
    assert folded.tensors["0.bias"].tolist() == [0, 0, 0.5]
    assert codes(folded, "2").any(axis=0).tolist() == [False, False, True]
    assert len(encode_sparse_quantized_net_v2(folded, "best").to_bytes()) <= len(
        encode_sparse_quantized_net_v2(net, "best").to_bytes()
    )
    assert net.tensors["2.bias"].tolist() == bias.tolist(), "what is given stays as it is"


def test_without_a_bias_to_move_into_only_units_that_give_zero_go():
    """And units that nobody listens to, whatever they give."""
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
    prune(model[0], rows=[0, 1, 2])
    prune(model[2], columns=[3])
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([1.0, -1.0, 0.5, 0.5, 0.5]))
    folded = fold_dead_units(model, compressed(model, p=0.0))
    assert codes(folded, "2").any(axis=0).tolist() == [True, False, True, False, True]
    assert folded.tensors["0.bias"].tolist() == [1.0, 0.0, 0.5, 0.0, 0.5]


def test_a_unit_without_outgoing_weights_goes_with_all_that_only_it_heard():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    prune(model[4], columns=[1])
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    folded = fold_dead_units(model, compressed(model, p=0.0))
    assert codes(folded, "2").any(axis=1).tolist() == [True, False, True]
    assert codes(folded, "0").any(axis=1).tolist() == [True, False, True]
    assert folded.tensors["0.bias"][1] == folded.tensors["2.bias"][1] == 0


class Residual(nn.Module):
    """The first layer's units are also used by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return x + self.b(torch.relu(x))


class Twice(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(torch.relu(self.a(x)))))


class Mixing(Residual):
    """What lies between is not done to each value by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(functional.softmax(self.a(x), dim=1))


class Normalized(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.norm(self.a(x)))


class Tied(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class Branching(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x)) if x.sum() > 0 else self.a(x)


class WeightTaken(Residual):
    """A unit that the second layer does not hear is heard elsewhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))) + functional.linear(x, self.a.weight)


class BiasTaken(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))) + self.b.bias


class Hooked(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_hook(lambda module, inputs, output: output + inputs[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class HookedBetween(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.act.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.act(self.a(x)))


class Overwritten(Residual):
    """A layer's ``forward`` is another function than its class's."""

    def __init__(self) -> None:
        super().__init__()
        own = self.b.forward
        self.b.forward = lambda x: own(x + 1)  # type: ignore[method-assign]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class PartOfAnother(Residual):
    """The first layer is also at work within a module that is not looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.TransformerEncoderLayer(4, 1, 4, dropout=0.0, batch_first=True)
        self.a = self.whole.linear1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.whole.linear1(x))) + self.whole(x[:, None])[:, 0]


@pytest.mark.parametrize(
    "kind",
    [
        Residual, Twice, Mixing, Normalized, Tied, Branching, WeightTaken, BiasTaken, Hooked, HookedBetween,
        Overwritten, PartOfAnother,
    ],
)  # fmt: skip
def test_where_units_may_do_something_they_stay(kind):
    torch.manual_seed(0)
    model = kind()
    prune(model.a, rows=[0, 1])
    prune(model.b, columns=[] if kind is Tied else [2])
    net = compressed(model, p=0.0)
    folded = fold_dead_units(model, net)
    for before, after in zip(net.layers, folded.layers, strict=True):
        assert np.array_equal(before.codes, after.codes)
    assert all(torch.equal(folded.tensors[name], value) for name, value in net.tensors.items())


def test_options_of_a_function_count():
    class Tanh(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(functional.gelu(self.a(x), approximate="tanh").sigmoid())

    torch.manual_seed(1)
    model = Tanh()
    prune(model.a, rows=[2])
    net = compressed(model, p=0.0)
    folded = fold_dead_units(model, net)
    assert not codes(folded, "b")[:, 2].any()
    assert_computes_the_same(model, net, folded, 4)


class AsksForTensors(Residual):
    """While it is traced its input is no tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        if isinstance(x, torch.Tensor):
            h = h.cumsum(1)
        return self.b(h)


def test_with_inputs_a_network_that_is_traced_as_another_one_stays() -> None:
    torch.manual_seed(0)
    model = AsksForTensors()
    net = compressed(model, p=0.9)
    assert fold_dead_units(model, net, torch.randn(5, 4)) is net


class UsesAll(Residual):
    """Its output depends on every weight in a way of which the trace knows only today's value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))) + sum(p.square().sum() for p in self.parameters())


class UsesNumber(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))) + sum(float(p.sum()) for p in self.parameters())


class AnswersWhole(Residual):
    """Its output is a whole number, which may not be another one by however little."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = int(all(bool(p.all()) for p in list(self.parameters())[2:]))
        return self.b(torch.relu(self.a(x))).argmax(1) * 0 + full


@pytest.mark.parametrize(
    ("kind", "given"), [(UsesAll, False), (UsesAll, True), (UsesNumber, True), (AnswersWhole, True)]
)
def test_weights_that_are_reached_by_other_ways_stay(kind: type[nn.Module], given: bool) -> None:
    torch.manual_seed(0)
    model = kind()
    prune(model.a, rows=[1])
    net = compressed(model, p=0.0)
    folded = fold_dead_units(model, net, torch.randn(5, 4) if given else None)
    assert_computes_the_same(model, net, folded, 4)
    assert codes(folded, "b")[:, 1].any()


def test_inputs_and_optional_arguments_do_not_hinder() -> None:
    class Optional(Residual):
        def forward(self, x: torch.Tensor, scale: float | None = None) -> torch.Tensor:
            h = self.a(x)
            return self.b(h if scale is None else h * scale)

    torch.manual_seed(0)
    model = Optional()
    prune(model.a, rows=[1])
    net = compressed(model, p=0.0)
    folded = fold_dead_units(model, net, torch.randn(5, 4))
    assert not codes(folded, "b")[:, 1].any()
    assert_computes_the_same(model, net, folded, 4)
