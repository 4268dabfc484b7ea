"""The straight-through gradient, the redone quantization, and what remains of both afterwards."""

import copy
import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from clipq import weight_sharing
from clipq.conventions import Conventions
from clipq.errors import ModelError, WeightError
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.quantized_net import LayerSetting
from clipq.train_config import TrainConfig
from clipq.training import StepLoss
from clipq.weight_sharing import keep_quantized, quantized_net, quantized_once, share_weights
from clipq.ws_learn_one_layer import ws_learn_one_layer
from clipq.ws_train import WsTrainResult, ws_train

THETA = LayerSetting(0.5, 3)


@pytest.fixture(params=["host", "accelerator"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds both ways; the accelerator's on the CPU's tensors."""
    if request.param == "accelerator":
        monkeypatch.setattr(weight_sharing, "_on_accelerator", lambda W: True)
    return request.param


class Twice(nn.Module):
    """One layer used twice in a forward pass, a second one tied to a third, all beside a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)
        self.right.weight = self.left.weight
        self.frozen = nn.Linear(6, 4)
        self.frozen.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.body(torch.tanh(self.body(x))))
        return self.frozen(self.left(x) * torch.sigmoid(self.right(x)))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, groups=2), nn.BatchNorm1d(4), nn.ReLU(), nn.ConvTranspose1d(4, 4, 2, groups=2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


def make(kind: Callable[[], nn.Module], seed: int = 0) -> tuple[nn.Module, list[CompressibleLayer], dict]:
    torch.manual_seed(seed)
    model = kind()
    layers = compressible_layers(model)
    return model, layers, {layer.name: THETA for layer in layers}


def loss_of(model: nn.Module, x: torch.Tensor, seed: int = 3) -> torch.Tensor:
    torch.manual_seed(seed)  # the same dropout wherever it is called
    return model(x).square().sum()


INPUTS = {Twice: torch.linspace(-1, 1, 30).view(5, 6), conv_net: torch.linspace(-1, 1, 60).sin().view(5, 2, 6)}
KINDS = pytest.mark.parametrize("kind", list(INPUTS))


def quantized_copy(model: nn.Module, layers: list[CompressibleLayer], theta: LayerSetting) -> nn.Module:
    """A plain copy whose weights are the quantized ones: the network that the shared one stands for."""
    plain = copy.deepcopy(model)
    parameters = dict(plain.named_parameters())
    with torch.no_grad():
        for layer in layers:
            parameters[layer.name].copy_(ws_learn_one_layer(layer.weight, theta.p, theta.b).quantized)
    return plain


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_full_precision_weights_get_the_gradient_of_the_quantized_ones(kind: Callable, dtype: torch.dtype) -> None:
    model, _, _ = make(kind)
    model, x = model.to(dtype), INPUTS[kind].to(dtype)
    layers = compressible_layers(model)
    plain = quantized_copy(model, layers, THETA)
    before = {layer.name: layer.weight.detach().clone() for layer in layers}
    loss_of(plain, x).backward()
    with share_weights(layers, dict.fromkeys(before, THETA)):
        loss = loss_of(model, x)
        assert torch.equal(loss, loss_of(plain, x))
        loss.backward()
    for (name, own), (_, reference) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (own.grad is None) == (reference.grad is None) == (not own.requires_grad), name
        if own.grad is not None:
            assert torch.equal(own.grad, reference.grad), name
    assert all(torch.equal(layer.weight, before[layer.name]) for layer in layers)
    assert any(not torch.equal(w, dict(plain.named_parameters())[name]) for name, w in before.items())


def test_the_gradient_is_that_of_finite_differences_in_the_quantized_weight() -> None:
    model, layers, thetas = make(lambda: nn.Linear(4, 3).double())
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 4)
    with share_weights(layers, thetas):
        quantized = model.weight.detach().clone()
        torch.tanh(model(x)).sum().backward()
    estimate, step = torch.zeros_like(quantized), 1e-6
    for i in range(quantized.numel()):
        moved = torch.zeros_like(quantized)
        moved.view(-1)[i] = step
        above, below = (
            torch.tanh(functional.linear(x, w, model.bias)).sum() for w in (quantized + moved, quantized - moved)
        )
        estimate.view(-1)[i] = (above - below).detach() / (2 * step)
    torch.testing.assert_close(model.weight.grad, estimate, rtol=1e-6, atol=1e-8)


def test_the_optimizer_updates_full_precision_weights_and_quantization_follows_each_step() -> None:
    model, layers, thetas = make(lambda: nn.Linear(8, 4, bias=False))
    x, weight = torch.linspace(-1, 1, 16).view(2, 8), layers[0].weight
    expected = weight.detach().clone()
    seen = []
    with share_weights(layers, thetas) as shared:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _ in range(4):
            quantized = ws_learn_one_layer(expected, THETA.p, THETA.b)
            reference = quantized.quantized.clone().requires_grad_()
            functional.linear(x, reference).square().sum().backward()
            optimizer.zero_grad()
            model(x).square().sum().backward()
            assert torch.equal(shared.by_layer["weight"].codes, quantized.codes)
            optimizer.step()
            expected = expected - 0.3 * reference.grad
            torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=1e-7)
            expected = weight.detach().clone()
            assert torch.equal(model.weight, ws_learn_one_layer(expected, THETA.p, THETA.b).quantized)
            seen.append(quantized.codes)
    assert len({bytes(codes.numpy()) for codes in seen}) > 1
    assert weight.unique().numel() > 2**THETA.b


def test_a_pruned_weight_can_come_back() -> None:
    model, layers, thetas = make(lambda: nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, 0.5, -0.5, -0.1]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with share_weights(layers, thetas):
        assert model.weight[0, 0] == 0
        (-model.weight[0, 0]).backward()  # the gradient reaches a weight that is pruned
        optimizer.step()
        assert model.weight[0, 0] > 0


def test_a_setting_may_change_between_two_steps() -> None:
    model, layers, thetas = make(lambda: nn.Linear(20, 20))
    with share_weights(layers, thetas) as shared:
        shared.by_layer["weight"].setting = LayerSetting(0.9, 2)
        assert torch.equal(model.weight, ws_learn_one_layer(layers[0].weight, 0.9, 2).quantized)
        assert "p=0.9, b=2" in repr(model)


# Before, during and after


def fingerprint(model: nn.Module) -> tuple:
    """What must be as before: classes, state dict names and their order, parameters themselves, hooks."""
    return (
        [type(m) for m in model.modules()],
        list(model.state_dict()),
        [(name, id(p), p.requires_grad) for name, p in model.named_parameters()],
        [len(m._forward_pre_hooks) for m in model.modules()],
    )


@KINDS
def test_the_network_is_plain_again_in_every_respect(kind: Callable) -> None:
    model, layers, thetas = make(kind)
    before, values = fingerprint(model), copy.deepcopy(model.state_dict())
    with share_weights(layers, thetas):
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())


def test_weights_stay_shared_until_they_are_removed() -> None:
    model, layers, thetas = make(conv_net)
    before = fingerprint(model)
    share_weights(layers, thetas)
    gc.collect()
    assert fingerprint(model) != before
    shared = share_weights(*make(conv_net)[1:])
    shared.remove()
    shared.remove()


def test_a_users_own_parametrization_stays() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    model[1].register_parameter("basis", nn.Parameter(torch.randn(3, 3)))
    parametrizations.orthogonal(model[1], "basis")
    layers, before = compressible_layers(model, include="1"), fingerprint(model)
    with share_weights(layers, {"1.weight": THETA}):
        assert parametrize.is_parametrized(model[1], "weight")
    assert fingerprint(model) == before
    net = quantized_net(model, layers, {"1.weight": THETA})
    assert set(net.state_dict()) == set(model.state_dict())
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(net.state_dict())
    keep_quantized(layers, net)
    assert torch.equal(fresh(torch.eye(3)), model(torch.eye(3)))


def test_a_layer_without_setting_is_an_error_and_changes_nothing() -> None:
    model, layers, _ = make(conv_net)
    before = fingerprint(model)
    with pytest.raises(ModelError, match=r"3\.weight, 6\.weight; given for: 0\.weight"):
        share_weights(layers, {"0.weight": THETA})
    assert fingerprint(model) == before


def test_nan_in_a_later_layer_is_an_error_and_changes_nothing(way: str) -> None:
    if way == "accelerator":
        pytest.skip("nobody waits to see it")
    model, layers, thetas = make(conv_net)
    with torch.no_grad():
        model[6].weight[0, 0] = float("nan")
    before = fingerprint(model)
    with pytest.raises(WeightError, match=r"6\.weight"):
        share_weights(layers, thetas)
    assert fingerprint(model) == before


# Recurrent layers and attention


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, lambda i, o, **k: nn.LSTM(i, o, proj_size=2, **k)])
def test_a_recurrent_layer_computes_with_its_quantized_weights(cell: Callable) -> None:
    torch.manual_seed(0)
    model = cell(3, 4, num_layers=2, bidirectional=True)
    layers = compressible_layers(model, types=nn.RNNBase)
    plain, x = quantized_copy(model, layers, THETA), torch.linspace(-1, 1, 30).view(5, 2, 3)
    before = fingerprint(model)
    dense = model(x)[0].detach()
    plain(x)[0].square().sum().backward()
    with share_weights(layers, {layer.name: THETA for layer in layers}):
        output = model(x)[0]
        output.square().sum().backward()
    assert torch.equal(output, plain(x)[0])
    assert not torch.equal(output, dense)
    for own, reference in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, reference.grad)
    assert fingerprint(model) == before
    assert torch.equal(model(x)[0], dense)
    keep_quantized(layers, quantized_net(model, layers, {layer.name: THETA for layer in layers}))
    assert torch.equal(model(x)[0], output)


@pytest.mark.parametrize("training", [True, False])  # in evaluation mode a transformer takes another, fused way
def test_a_transformer_computes_with_its_quantized_weights(training: bool) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    layers = compressible_layers(model)
    assert len(layers) == 4
    plain, x = quantized_copy(model, layers, THETA), torch.linspace(-1, 1, 80).sin().view(2, 5, 8)
    dense = model(x)
    with torch.no_grad(), share_weights(layers, {layer.name: THETA for layer in layers}):
        torch.testing.assert_close(model(x), plain(x))  # attention's kernels may round differently from call to call
        assert not torch.allclose(model(x), dense, atol=0.01)


# The compressed network


@pytest.mark.parametrize("kind", [lambda: nn.Linear(6, 4), lambda: nn.LSTM(6, 4)])
def test_a_copy_made_while_weights_are_shared_goes_on_when_they_are_no_longer(kind: Callable) -> None:
    torch.manual_seed(0)
    model, x = kind(), INPUTS[Twice]
    layers = compressible_layers(model, types=(nn.Linear, nn.LSTM))
    with share_weights(layers, {layer.name: THETA for layer in layers}):
        copied, averaged = copy.deepcopy(model), torch.optim.swa_utils.AveragedModel(model)
        expected = model(x)[0]
    assert torch.equal(copied(x)[0], expected)
    assert torch.equal(averaged(x)[0], expected)
    assert type(model) in (nn.Linear, nn.LSTM) and not torch.equal(model(x)[0], expected)


def test_a_parametrization_of_the_users_own_beside_it_stays() -> None:
    model = parametrize.register_parametrization(nn.Linear(6, 4), "bias", nn.Softplus())
    layers = compressible_layers(model)
    with share_weights(layers, {layer.name: THETA for layer in layers}):
        model(INPUTS[Twice])
    assert model.weight is layers[0].weight
    assert parametrize.is_parametrized(model, "bias")


def test_the_compressed_network_names_every_entry_once_and_shared_ones_as_aliases() -> None:
    model, layers, thetas = make(Twice)
    net = quantized_net(model, layers, thetas)
    assert [layer.name for layer in net.layers] == ["body.weight", "left.weight", "frozen.weight"]
    assert net.aliases == {"right.weight": "left.weight"}
    assert list(net.tensors) == ["body.bias", "left.bias", "right.bias", "frozen.bias"]
    assert set(net.state_dict()) == set(model.state_dict())


def test_buffers_are_kept_exactly_unless_the_state_dict_lacks_them() -> None:
    model, _, _ = make(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    model.register_buffer("scale", torch.tensor([1, 2]))
    model.register_buffer("cache", torch.zeros(5), persistent=False)
    model(torch.randn(4, 3))
    layers = compressible_layers(model)
    net = quantized_net(model, layers, {"0.weight": THETA})
    assert "cache" not in net.tensors
    for name in ("scale", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(net.tensors[name], model.state_dict()[name])
        assert net.tensors[name].dtype == model.state_dict()[name].dtype


def test_the_compressed_network_is_a_copy() -> None:
    model, layers, thetas = make(conv_net)
    net = quantized_net(model, layers, thetas)
    mean = net.tensors["1.running_mean"].clone()
    model(INPUTS[conv_net])
    assert torch.equal(net.tensors["1.running_mean"], mean)


@settings(max_examples=25)
@given(p=st.floats(0, 1), b=st.integers(2, 8), seed=st.integers(0, 9), dtype=st.sampled_from(["float16", "float64"]))
def test_only_quantized_weights_remain(p: float, b: int, seed: int, dtype: str) -> None:
    model, layers, _ = make(lambda: nn.Linear(9, 7).to(getattr(torch, dtype)), seed)
    theta = {"weight": LayerSetting(p, b)}
    with share_weights(layers, theta):
        during = model.weight.detach().clone()
    net = quantized_net(model, layers, theta)
    keep_quantized(layers, net)
    assert torch.equal(model.weight, during)
    assert model.weight.unique().numel() <= 2**b
    assert np.count_nonzero(net.layers[0].codes) == net.layers[0].n_kept


# Measuring


@torch.no_grad()
def test_weights_that_are_written_to_while_they_are_held_are_learned_anew() -> None:
    model, layers, thetas = make(lambda: nn.Linear(6, 4))
    with share_weights(layers, thetas), quantized_once(model):
        first = model.weight
        assert model.weight is first
        layers[0].weight.mul_(-2.0)
        assert torch.equal(model.weight, ws_learn_one_layer(layers[0].weight, THETA.p, THETA.b).quantized)
        layers[0].weight.data = layers[0].weight.data.flip(0)
        assert torch.equal(model.weight, ws_learn_one_layer(layers[0].weight, THETA.p, THETA.b).quantized)


@torch.no_grad()
def test_weights_are_held_no_longer_than_they_are_to_be() -> None:
    model, layers, thetas = make(lambda: nn.Linear(6, 4))
    with share_weights(layers, thetas):
        with quantized_once(model):
            with quantized_once(model):
                pass
            assert model.weight is model.weight
        model.weight.clone()
        layers[0].weight.data.neg_()  # leaves no trace
        assert torch.equal(model.weight, ws_learn_one_layer(layers[0].weight, THETA.p, THETA.b).quantized)


def test_weights_put_in_for_a_while_are_learned_though_others_lay_where_they_lie() -> None:
    """Memory of a tensor that is gone is taken for the next one."""
    model, layers, thetas = make(lambda: nn.Linear(60, 40))
    x, name = torch.randn(3, 60), "parametrizations.weight.original"
    with share_weights(layers, thetas), quantized_once(model), torch.no_grad():
        own = dict(model.named_parameters())[name].clone()
        measured = [float(torch.func.functional_call(model, {name: own * i}, (x,)).sum()) for i in range(40)]
        for i, found in enumerate(measured):
            quantized = ws_learn_one_layer(own * i, THETA.p, THETA.b).quantized
            assert found == float(functional.linear(x, quantized, model.bias).sum())


def test_inference_tensors_are_learned_each_time_as_they_do_not_tell_of_changes() -> None:
    model, layers, thetas = make(lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)))
    x = torch.randn(3, 6)
    with share_weights(layers, thetas), quantized_once(model), torch.inference_mode():
        weights = {name: parameter.clone() for name, parameter in model.named_parameters() if "original" in name}
        for _ in range(3):
            quantized = [ws_learn_one_layer(W, THETA.p, THETA.b).quantized for W in weights.values()]
            h = functional.linear(x, quantized[0], model[0].bias)
            expected = functional.linear(h, quantized[1], model[1].bias)
            assert torch.equal(torch.func.functional_call(model, weights, (x,)), expected)
            for W in weights.values():
                W.mul_(-0.5)


@torch.no_grad()
def test_a_network_may_change_its_type_while_its_weights_are_held() -> None:
    model, layers, thetas = make(lambda: nn.Linear(6, 4))
    x = INPUTS[Twice]
    with share_weights(layers, thetas), quantized_once(model):
        before = model(x)
        torch.testing.assert_close(model.double()(x.double()).float(), before)
        assert torch.equal(model.float()(x), before)


# Training


def train(
    model: nn.Module, layers: list[CompressibleLayer], x: torch.Tensor, epochs: int = 2, **options: object
) -> WsTrainResult:
    def objective(network: nn.Module, batch: torch.Tensor) -> StepLoss:
        return StepLoss(network(batch).square().mean(), 0.0, len(batch))

    options = {"objective": objective, **options}
    thetas = {layer.name: THETA for layer in layers}
    return ws_train(model, layers, thetas, lambda _: [x] * 3, TrainConfig(epochs=epochs, lr=0.1), **options)  # type: ignore[arg-type]


@KINDS
def test_after_training_the_network_is_the_compressed_one(kind: Callable) -> None:
    model, layers, _ = make(kind)
    before = fingerprint(model)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    result = train(model, layers, INPUTS[kind])
    assert fingerprint(model) == before
    assert [h["epoch"] for h in result.history.epochs] == [0, 1]
    state = result.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for layer, coded in zip(layers, result.net.layers, strict=True):
        assert layer.weight.unique().numel() <= 2**THETA.b
        full = result.full_precision[layer.name]
        learned = ws_learn_one_layer(full, THETA.p, THETA.b)
        assert np.array_equal(coded.codes, learned.codes.numpy())
        assert np.array_equal(coded.levels, learned.levels.numpy())
    for name, weight in frozen.items():  # quantized, but the full-precision ones did not move
        assert torch.equal(result.full_precision[name], weight)


def test_figures_of_the_history_are_those_of_the_codes() -> None:
    model, layers, _ = make(conv_net)
    result = train(model, layers, INPUTS[conv_net], epochs=1, validate=lambda _: 0.0)
    codes = [layer.codes for layer in result.net.layers]
    n, kept = sum(c.size for c in codes), sum(np.count_nonzero(c) for c in codes)
    # those of the last step's forward pass: the update after it moves few weights, if any, over a clip
    assert result.history.epochs[0]["sparsity"] == pytest.approx(1 - kept / n, abs=0.05)
    assert result.history.epochs[0]["bits_per_weight"] > 0


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["objective", "validate", "batches"])
def test_whatever_stops_the_training_leaves_a_plain_network_in_full_precision(fault: type, where: str) -> None:
    model, layers, _ = make(Twice)
    x, before, start = INPUTS[Twice], fingerprint(model), layers[0].weight.detach().clone()
    calls = 0

    def stop_later(*_: object) -> StepLoss:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise fault
        return StepLoss(model(x).square().mean(), 0.0, 5)

    def batches() -> object:
        yield x
        raise fault

    class Batches:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> object:
            return batches()

    thetas, config = {layer.name: THETA for layer in layers}, TrainConfig(epochs=3, lr=0.1)
    plain_loss = lambda m, b: StepLoss(m(b).square().mean(), 0.0, len(b))  # noqa: E731
    options: dict = {
        "objective": stop_later if where == "objective" else plain_loss,
        "validate": (lambda _: float(stop_later().n_wrong)) if where == "validate" else None,
    }
    epochs = (lambda _: Batches()) if where == "batches" else (lambda _: [x, x])
    with pytest.raises(fault):
        ws_train(model, layers, thetas, epochs, config, **options)
    assert fingerprint(model) == before
    assert not torch.equal(layers[0].weight, start), "it had been trained"
    assert layers[0].weight.unique().numel() > 2**THETA.b, "not quantized"


def test_without_epochs_weights_are_quantized_and_nothing_else_changes() -> None:
    model, layers, _ = make(conv_net)
    before = copy.deepcopy(model)
    result = train(model, layers, INPUTS[conv_net], epochs=0)
    assert result.history.epochs == []
    expected = quantized_copy(before, compressible_layers(before), THETA).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_conventions_reach_the_layer() -> None:
    model, layers, thetas = make(lambda: nn.Linear(9, 9))
    other = Conventions(partition="joined", clip_count="floor")
    with share_weights(layers, thetas, other):
        assert torch.equal(model.weight, ws_learn_one_layer(layers[0].weight, 0.5, 3, other).quantized)
        assert not torch.equal(model.weight, ws_learn_one_layer(layers[0].weight, 0.5, 3).quantized)
