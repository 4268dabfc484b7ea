import copy
import io
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from clipq.errors import CheckpointError, DataError, Interrupted, SettingError
from clipq.layers import compressible_layers
from clipq.networks import NETWORKS
from clipq.not_finite import first_not_finite
from clipq.optimizer import build_optimizer, learning_rate
from clipq.quantized_net import LayerSetting
from clipq.train_config import TrainConfig
from clipq.train_state import History, random_state, set_random_state
from clipq.training import StepLoss, TrainingError, _Caster, cross_entropy, fit, mistaken, top1_error
from clipq.weight_sharing import share_weights
from clipq.ws_train import ws_train

X = torch.randn(26, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (26,), generator=torch.Generator().manual_seed(2))
CONFIG = TrainConfig(epochs=3, batch_size=7, lr=0.1, weight_decay=0.01, schedule="cosine", warmup_epochs=0.5)


class Noisy:
    """Batches with an augmentation that draws from every global generator, in the order in which they are asked for."""

    def __init__(self, epoch: int) -> None:
        self.order = torch.randperm(len(Y), generator=torch.Generator().manual_seed(epoch)).split(CONFIG.batch_size)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows in self.order:
            noise = torch.randn(6) + random.gauss(0, 1) + np.random.standard_normal()  # noqa: NPY002
            yield X[rows] + 0.1 * noise, Y[rows]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    )  # fmt: skip


def validate(model: nn.Module) -> float:
    return top1_error(model, [(X, Y)])


def dense(model: nn.Module, **options: Any) -> History:
    return fit(model, Noisy, CONFIG, validate=validate, log_every=2, **options)


def clip_q(model: nn.Module, **options: Any) -> History:
    layers = compressible_layers(model)
    settings = {layer.name: LayerSetting(0.5, 2) for layer in layers}
    return ws_train(model, layers, settings, Noisy, CONFIG, validate=validate, log_every=2, **options).history


class Killed(Exception):
    pass


class Store:
    """Checkpoints in memory; the process dies after save number ``killed_after``."""

    def __init__(self, due: bool = True, killed_after: int = 0) -> None:
        self.data, self.is_due, self.saves, self.killed_after = b"", due, 0, killed_after

    def load(self) -> dict[str, Any] | None:
        return torch.load(io.BytesIO(self.data), weights_only=True) if self.data else None

    def save(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.data, self.saves = buffer.getvalue(), self.saves + 1
        if self.saves == self.killed_after:
            raise Killed

    def due(self) -> bool:
        return self.is_due


def assert_same(model: nn.Module, other: nn.Module) -> None:
    a, b = model.state_dict(), other.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


def without_time(history: History) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    return history.steps, [{k: v for k, v in record.items() if k != "seconds"} for record in history.epochs]


@pytest.fixture(scope="module", params=[dense, clip_q])
def trained(request: pytest.FixtureRequest) -> tuple[Callable[..., History], nn.Module, History]:
    """A training, and what comes of it undisturbed."""
    model = network()
    return request.param, model, request.param(model, seed=5)


Trained = tuple[Callable[..., History], nn.Module, History]


def test_the_seed_determines_everything(trained: Trained) -> None:
    train, expected, history = trained
    again, other = network(), network()
    random.seed(11)
    assert without_time(train(again, seed=5)) == without_time(history)
    assert_same(again, expected)
    train(other, seed=6)
    assert not torch.equal(other[4].bias, expected[4].bias)


@pytest.mark.parametrize("kill", range(1, 13))
def test_killed_after_any_step_and_resumed(trained: Trained, kill: int) -> None:
    """Three epochs of four steps: a save after each step, that after an epoch's last one being also its end."""
    train, expected, history = trained
    store = Store(killed_after=kill)
    with pytest.raises(Killed):
        train(network(), seed=5, checkpoints=store)
    resumed = network()
    assert without_time(train(resumed, seed=5, checkpoints=store)) == without_time(history)
    assert store.saves == 12
    assert_same(resumed, expected)


@pytest.mark.parametrize("step", [0, 5, 11])
def test_killed_between_two_checkpoints(trained: Trained, step: int) -> None:
    train, expected, history = trained
    store, steps = Store(due=False), iter(range(100))

    def killer(model: nn.Module, batch: Any) -> StepLoss:
        if next(steps) == step:
            raise Killed
        return cross_entropy()(model, batch)

    with pytest.raises(Killed):
        train(network(), seed=5, checkpoints=store, objective=killer)
    resumed = network()
    assert without_time(train(resumed, seed=5, checkpoints=store)) == without_time(history)
    assert_same(resumed, expected)


def test_a_finished_training_is_taken_up_without_a_step(trained: Trained) -> None:
    train, expected, history = trained
    store = Store(due=False)
    train(network(), seed=5, checkpoints=store)

    def forbidden(model: nn.Module, batch: Any) -> StepLoss:
        raise AssertionError("no step is left")

    again = network()
    assert without_time(train(again, seed=5, checkpoints=store, objective=forbidden)) == without_time(history)
    assert_same(again, expected)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_asked_to_stop_it_saves_and_leaves(trained: Trained, step: int) -> None:
    train, expected, history = trained
    store, asked = Store(due=False), iter([*[False] * (step - 1), True])
    with pytest.raises(Interrupted, match=f"stopped in epoch {step // 4}, before step {step % 4}"):
        train(network(), seed=5, checkpoints=store, stop=lambda: next(asked))
    resumed = network()
    assert without_time(train(resumed, seed=5, checkpoints=store)) == without_time(history)
    assert_same(resumed, expected)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    store = Store()
    dense(network(), checkpoints=store)
    with pytest.raises(CheckpointError, match="does not fit this network"):
        dense(nn.Sequential(nn.Linear(6, 3)), checkpoints=store)


def test_generators_go_on_where_they_were() -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), float(np.random.normal()), random.gauss(0, 1)]  # noqa: NPY002

    draw()
    saved = random_state(torch.device("cpu"))
    expected = draw() + draw()
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    set_random_state(torch.load(buffer, weights_only=True), torch.device("cpu"))
    assert draw() + draw() == expected


@pytest.mark.parametrize(
    ("options", "step", "expected"),
    [
        ({"schedule": "constant"}, 39, 1.0),
        ({"schedule": "step", "gamma": 0.1, "step_epochs": 2.0}, 7, 1.0),
        ({"schedule": "step", "gamma": 0.1, "step_epochs": 2.0}, 8, 0.1),
        ({"schedule": "step", "gamma": 0.1, "step_epochs": 2.5}, 20, 0.01),
        ({"schedule": "step", "gamma": 0.1, "step_epochs": 0.75}, 27, 1e-9),  # in units of 1/4 epoch: exactly nine
        ({"schedule": "step", "gamma": 0.5, "step_epochs": 1.1, "warmup_epochs": 0.0}, 13, 0.25),
        ({"schedule": "cosine"}, 0, 1.0),
        ({"schedule": "cosine"}, 20, 0.5),
        ({"schedule": "cosine"}, 30, 0.14644660940672624),  # (1 - 1/sqrt 2) / 2
        ({"schedule": "cosine"}, 44, 0.0),  # beyond the end: the loader's len was too small
        ({"schedule": "linear"}, 10, 0.75),
        ({"schedule": "inv", "gamma": 1e-4}, 10_000, 0.5946035575013605),  # Caffe's LeNet: 2^-0.75
        ({"schedule": "linear", "warmup_epochs": 1.0}, 0, 0.2),
        ({"schedule": "linear", "warmup_epochs": 1.0}, 3, 0.8),
        ({"schedule": "linear", "warmup_epochs": 1.0}, 4, 1.0),
        ({"schedule": "linear", "warmup_epochs": 1.0}, 22, 0.5),
    ],
)
def test_learning_rates(options: dict[str, Any], step: int, expected: float) -> None:
    """Ten epochs of four steps, at a base rate of 1 and of 3."""
    for lr in (1.0, 3.0):
        rate = learning_rate(TrainConfig(epochs=10, lr=lr, **options), step, 4)
        assert rate == pytest.approx(lr * expected, rel=1e-12, abs=1e-12)


def test_each_step_is_taken_with_its_rate() -> None:
    history = fit(network(), Noisy, CONFIG, log_every=1)
    assert [record["step"] for record in history.steps] == list(range(12))
    assert [record["lr"] for record in history.steps] == [learning_rate(CONFIG, step, 4) for step in range(12)]
    # half an epoch of warm-up is two steps: 1/3 and 2/3 of 0.1, then the cosine's start
    assert [record["lr"] for record in history.steps][:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])


def push(model: nn.Module, batch: Any) -> StepLoss:
    """A loss whose gradient is the batch."""
    return StepLoss((next(model.parameters()) * batch).sum(), math.nan, 1)


def scalars(*values: float) -> Callable[[int], list[torch.Tensor]]:
    return lambda epoch: [torch.tensor([[v]]) for v in values]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"momentum": 0.0}, 1 - 0.1 - 0.1),
        ({"momentum": 0.9}, 1 - 0.1 - 0.19),  # v: 1, then 0.9 + 1
        ({"momentum": 0.9, "nesterov": True}, 1 - 0.19 - 0.271),  # 1 + 0.9*1, then 1 + 0.9*1.9
        ({"momentum": 0.0, "weight_decay": 0.5}, 0.85 - 0.1 * (1 + 0.425)),
        ({"optimizer": "adam"}, 1 - 0.1 - 0.1),  # a constant gradient: steps of the rate
        ({"momentum": 0.0, "clip_grad_norm": 0.25}, 1 - 0.025 - 0.025),
    ],
)
def test_two_steps_by_hand(options: dict[str, Any], expected: float) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    config = TrainConfig(**{"epochs": 1, "lr": 0.1, "schedule": "constant", **options})
    fit(model, scalars(1.0, 1.0), config, objective=push)
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_scaled_down_together() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    config = TrainConfig(epochs=1, lr=1.0, momentum=0.0, schedule="constant", clip_grad_norm=1.0)
    fit(model, lambda epoch: [torch.tensor([[3.0, 4.0]])], config, objective=push)
    assert model.weight.tolist()[0] == pytest.approx([-0.6, -0.8], rel=1e-5)


def test_a_step_of_the_rate_is_not_late_by_rounding() -> None:
    config = TrainConfig(epochs=30, lr=1.0, schedule="step", gamma=0.5, step_epochs=1.1)
    assert [learning_rate(config, step, 100) for step in (329, 330, 659, 660)] == [0.25, 0.125, 0.03125, 0.015625]


def one_batch(epoch: int) -> list[torch.Tensor]:
    return [torch.tensor([[3.0, 4.0]])]


def test_gradients_that_frozen_parameters_still_have_do_not_count() -> None:
    results = []
    for left in (None, 100.0):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
        for parameter in model.parameters():
            nn.init.ones_(parameter)
        for parameter in model[0].parameters():
            parameter.requires_grad_(False)
            parameter.grad = None if left is None else torch.full_like(parameter, left)
        config = TrainConfig(epochs=1, lr=1.0, momentum=0.0, schedule="constant", clip_grad_norm=1.0)
        fit(model, one_batch, config, objective=lambda m, x: StepLoss(m(x).sum(), 0.0, 1))
        results.append(model[1].weight.tolist())
    assert results[0] == results[1]


@pytest.mark.parametrize("decay_biases", [False, True])
def test_which_parameters_are_decayed(decay_biases: bool) -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    config = TrainConfig(weight_decay=0.01, decay_biases=decay_biases)
    of = {id(p): g["weight_decay"] for g in build_optimizer(model, config).param_groups for p in g["params"]}
    decays = {name: of.get(id(parameter)) for name, parameter in model.named_parameters()}
    vectors = 0.01 if decay_biases else 0.0
    assert decays == {
        "0.weight": 0.01, "0.bias": vectors, "1.weight": vectors, "1.bias": vectors,
        "4.weight": None, "4.bias": vectors,
    }  # fmt: skip


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm([2, 6, 6]),
        nn.RMSNorm([2, 6]),
        nn.GroupNorm(1, 2),
        nn.BatchNorm2d(2),
        nn.InstanceNorm1d(2, affine=True),
    ],
)
def test_normalization_and_biases_of_any_shape_are_not_decayed(norm: nn.Module) -> None:
    model = nn.Sequential(norm, nn.MultiheadAttention(4, 2, add_bias_kv=True))
    layers = compressible_layers(model, types=(type(norm), nn.MultiheadAttention))
    names = {id(p): name for name, p in model.named_parameters()}
    with share_weights(layers, {layer.name: LayerSetting(0.5, 2) for layer in layers}):
        groups = build_optimizer(model, TrainConfig(weight_decay=0.01)).param_groups
    decayed = [names[id(p)] for p in groups[0]["params"]]
    assert sorted(decayed) == ["1.in_proj_weight", "1.out_proj.weight"]
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_has_two_dimensions_is_decayed_in_the_experiments_networks(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[name]()
    decayed = build_optimizer(model, TrainConfig(weight_decay=0.01)).param_groups[0]["params"]
    assert [id(p) for p in decayed] == [id(p) for p in model.parameters() if p.ndim > 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"nesterov": True, "momentum": 0.0}, "momentum: expected > 0 with nesterov, got 0.0"),
        ({"schedule": "inv", "gamma": -1.0}, "gamma: expected >= 0, got -1.0"),
        ({"schedule": "step", "gamma": float("inf")}, "gamma: expected a finite number, got inf"),
        ({"warmup_epochs": float("inf")}, "warmup_epochs: expected a finite number, got inf"),
        ({"lr": float("inf")}, "lr: expected a finite number, got inf"),
        ({"weight_decay": float("nan")}, "weight_decay: expected a finite number, got nan"),
        ({"lr": "0.1"}, "lr: expected a finite number, got '0.1'"),
        ({"epochs": 2.5}, "epochs: expected a whole number, got 2.5"),
        ({"decay_biases": "no"}, "decay_biases: expected True or False, got 'no'"),
    ],
)
def test_options_that_make_no_training_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(SettingError, match=f"^training option {expected}$"):
        TrainConfig(**options)


def test_options_may_be_numpys_numbers() -> None:
    assert TrainConfig(lr=np.float32(0.5), epochs=np.int64(3)) == TrainConfig(lr=0.5, epochs=3)
    assert TrainConfig(optimizer="adam", nesterov=True, momentum=0.0).momentum == 0.0


def test_full_precision_weights_are_decayed_under_quantization() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    before = model[0].weight.detach().clone()
    layers = compressible_layers(model)
    config = TrainConfig(epochs=1, lr=0.5, momentum=0.0, weight_decay=0.1, schedule="constant")
    result = ws_train(
        model, layers, {"0.weight": LayerSetting(0.5, 2)}, scalars(0.0), config,
        objective=lambda model, batch: StepLoss(model(torch.zeros(1, 4)).sum(), 0, 1),
    )  # fmt: skip
    assert torch.allclose(result.full_precision["0.weight"], 0.95 * before)


def test_the_best_epoch_is_kept_and_of_equals_the_later() -> None:
    model, seen = network(), []
    errors = iter([0.3, 0.1, 0.2, 0.1, 0.15])

    def error(model: nn.Module) -> float:
        seen.append(copy.deepcopy(model))
        return next(errors)

    history = fit(model, Noisy, TrainConfig(epochs=5, lr=0.1), validate=error)
    assert [record["val_error"] for record in history.epochs] == [0.3, 0.1, 0.2, 0.1, 0.15]
    assert_same(model, seen[3])
    assert not torch.equal(seen[3][0].weight, seen[4][0].weight)


def leave_out_a_bias(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, metadata: Any) -> None:
    del state[prefix + "head.bias"]


class Secretive(nn.Module):
    """Its state dict does not have all that training changes; one buffer has each number in several places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6), persistent=False)
        self.register_buffer("mask", torch.ones(1, 6).expand(3, 6))
        self._register_state_dict_hook(leave_out_a_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x) * self.mask[0]
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.5)
        return self.head(x - self.mean)


def test_the_best_epoch_is_kept_whole() -> None:
    model, errors, outputs = Secretive(), iter([0.1, 0.5, 0.4]), []

    def error(model: nn.Module) -> float:
        outputs.append(model.eval()(X))
        return next(errors)

    fit(model, Noisy, CONFIG, validate=error)
    assert torch.equal(model.eval()(X), outputs[0])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("kill", [3, 6])
def test_a_resumed_training_goes_on_with_what_the_state_dict_leaves_out(kill: int) -> None:
    expected, resumed, store = Secretive(), Secretive(), Store(killed_after=kill)
    dense(expected)
    with pytest.raises(Killed):
        dense(Secretive(), checkpoints=store)
    dense(resumed, checkpoints=store)
    assert torch.equal(resumed.eval()(X), expected.eval()(X))


def test_without_validation_the_last_epoch_is_kept() -> None:
    model, ends = network(), []
    fit(model, Noisy, CONFIG, measure=lambda epoch_ends: ends.append(copy.deepcopy(model)) or {} if epoch_ends else {})
    assert_same(model, ends[-1])


def test_figures_of_an_epoch_are_means_over_its_samples() -> None:
    """Batches of 1 and 3 samples with losses 8 and 4, and 1 and 2 errors."""

    def objective(model: nn.Module, batch: torch.Tensor) -> StepLoss:
        n = len(batch)
        return StepLoss(model(batch).sum() * 0 + (8.0 if n == 1 else 4.0), 1 if n == 1 else 2, n)

    history = fit(
        nn.Linear(2, 1), lambda epoch: [torch.zeros(1, 2), torch.zeros(3, 2)], TrainConfig(epochs=1),
        objective=objective, measure=lambda epoch_ends: {"end": float(epoch_ends)},
    )  # fmt: skip
    record = history.epochs[0]
    assert (record["loss"], record["error"], record["end"]) == (5.0, 0.75, 1.0)
    assert history.steps == [{"step": 0, "lr": 0.01, "loss": 8.0, "error": 1.0, "end": 0.0}]


def test_figures_of_an_epoch_are_means_over_the_labels_that_count() -> None:
    """As ``top1_error`` counts them: of batches with 6 and 1 of them, and of places where shares of classes are."""
    model = nn.Conv1d(1, 3, 1)
    x, labels = torch.randn(4, 1, 3), torch.randint(3, (4, 3))
    labels[2:, :] = -100
    labels[2, 1] = 0
    batches = [(x[:2], labels[:2]), (x[2:], labels[2:])]
    expected = nn.functional.cross_entropy(model(x), labels).item(), top1_error(model, batches)
    record = fit(model, lambda epoch: batches, TrainConfig(epochs=1, lr=1e-12)).epochs[0]
    assert (record["loss"], record["error"]) == pytest.approx(expected, abs=1e-6)
    shares = torch.rand(2, 3, 3)
    assert cross_entropy()(model, (x[:2], shares)).n == 6


def test_figures_that_take_longer_are_asked_for_at_the_end_of_an_epoch_only() -> None:
    asked: list[bool] = []

    def measure(epoch_ends: bool) -> dict[str, float]:
        asked.append(epoch_ends)
        return {"figure": float(len(asked))}

    history = fit(network(), Noisy, CONFIG, measure=measure, log_every=2)
    assert asked == [False, False, True] * 3, "of four steps an epoch every second one is logged"
    assert [record["figure"] for record in history.epochs] == [3.0, 6.0, 9.0]


def test_the_history_holds_plain_numbers_whatever_the_objective_gives() -> None:
    def objective(model: nn.Module, batch: Any) -> StepLoss:
        loss, n_wrong, n = cross_entropy()(model, batch)
        return StepLoss(loss, n_wrong, torch.as_tensor(n))

    history = dense(network(), objective=objective)
    assert {type(v) for record in history.steps + history.epochs for v in record.values()} == {int, float}
    assert without_time(history) == without_time(dense(network()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(value: float) -> None:
    model, states = network(), []

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        states.append(copy.deepcopy(model.state_dict()))
        loss = cross_entropy()(model, batch)
        return loss._replace(loss=loss.loss + value) if len(states) == 7 else loss

    with pytest.raises(TrainingError, match=f"epoch 1, step 2: expected a finite loss, got {value}.*the loss itself"):
        fit(model, Noisy, CONFIG, objective=objective)
    assert torch.equal(model[0].weight, states[6]["0.weight"])


def test_a_parameter_that_is_not_finite_is_named() -> None:
    model = network()
    model[4].bias.data[1] = math.nan
    with pytest.raises(TrainingError, match=r"epoch 0, step 0: .*the parameter 4\.bias"):
        fit(model, Noisy, CONFIG)


def test_a_quantized_weight_that_is_not_finite_is_named_as_in_the_plain_network() -> None:
    model = network()
    with share_weights(compressible_layers(model), dict.fromkeys(["0.weight", "4.weight"], LayerSetting(0.5, 3))):
        model[4].parametrizations.weight.original.data[1, 2] = math.nan
        assert first_not_finite(model, lambda: None) == "the parameter 4.weight"


@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler is enabled")
def test_mixed_precision_is_in_bfloat16_only_where_that_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert _Caster(torch.device("cuda"), True).dtype == torch.float16


def test_mixed_precision_is_for_a_gpu_only() -> None:
    plain, mixed = network(), network()
    assert without_time(fit(plain, Noisy, CONFIG)) == without_time(fit(mixed, Noisy, CONFIG, amp=True))
    assert_same(plain, mixed)


def test_a_layer_whose_output_overflows_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3))
    model[0].weight.data.fill_(1e30)
    model[1].weight.data.fill_(1e30)
    with pytest.raises(TrainingError, match=r"epoch 0, step 0: .*the output of 1$"):
        fit(model, Noisy, CONFIG)


def test_weights_that_become_nan_are_named_with_their_step() -> None:
    model, steps = network(), iter(range(100))

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        if next(steps) == 6:
            model[4].parametrizations.weight.original.data[1, 2] = math.inf
        return cross_entropy()(model, batch)

    with pytest.raises(TrainingError, match=r"epoch 1, step 2: layer 4\.weight: .*1 of 48 that are NaN or Inf"):
        clip_q(model, objective=objective)


def nan_gradients(model: nn.Module, batch: Any) -> StepLoss:
    """Of a loss that is finite: the root's slope at zero times zero."""
    loss = cross_entropy()(model, batch)
    return loss._replace(loss=loss.loss + (model[4].bias * 0).sum().sqrt())


@pytest.mark.parametrize("train", [dense, clip_q])
def test_parameters_that_the_last_step_leaves_nan_are_named(train: Callable[..., History]) -> None:
    model, steps, measured = network(), iter(range(100)), []

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        return (nan_gradients if next(steps) == 3 else cross_entropy())(model, batch)

    with pytest.raises(TrainingError, match=r"^epoch 0, after step 3: expected finite parameters, got .* in 4\.bias$"):
        train(model, objective=objective, measure=lambda epoch_ends: measured.append(epoch_ends) or {})
    assert True not in measured


def test_a_weight_that_the_last_step_leaves_nan_is_named_as_in_the_plain_network() -> None:
    model, steps = network(), iter(range(100))

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        loss = cross_entropy()(model, batch)
        if next(steps) == 11:
            model[0].parametrizations.weight.original.data[1, 2] = math.inf
        return loss

    with pytest.raises(TrainingError, match=r"epoch 2, after step 3: .* in 0\.weight$"):
        clip_q(model, objective=objective)


def test_a_frozen_parameter_that_is_infinite_on_purpose_is_not_blamed_for_a_loss_that_is_not_finite() -> None:
    model = network()
    model.register_parameter("mask", nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False))
    assert first_not_finite(model, lambda: None) == "the parameter mask"
    model[4].bias.data[1] = math.nan
    assert first_not_finite(model, lambda: None) == "the parameter 4.bias"
    model[4].bias.requires_grad_(False)
    assert first_not_finite(model, lambda: model(torch.randn(2, 6))) == "the output of 4"


def test_a_frozen_parameter_may_be_infinite() -> None:
    model = network()
    model.register_parameter("mask", nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False))
    assert len(dense(model).epochs) == CONFIG.epochs


def test_a_step_is_not_saved_when_it_failed() -> None:
    """What is on the disk is the state before, from which another attempt can start."""
    store, steps = Store(), iter(range(100))

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        loss = cross_entropy()(model, batch)
        return loss._replace(loss=loss.loss * math.nan) if next(steps) == 5 else loss

    with pytest.raises(TrainingError):
        dense(network(), checkpoints=store, objective=objective)
    saved = store.load()
    assert saved is not None
    assert (saved["epoch"], saved["step"]) == (1, 1)
    assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())


def test_top1_error_counts_in_evaluation_mode_and_puts_the_mode_back() -> None:
    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return functional.one_hot(x, 4) * self.scale

    model = Echo()
    batches = [(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3])), (torch.tensor([3]), torch.tensor([0]))]
    assert top1_error(model, batches) == 0.5
    assert model.training
    assert top1_error(model.eval(), batches[:1]) == pytest.approx(1 / 3)
    assert not model.training
    with pytest.raises(DataError, match="at least one sample"):
        top1_error(model, [])


def test_top1_error_puts_back_every_modules_mode_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    model[1].eval()
    batch = (torch.randn(5, 3), torch.zeros(5, dtype=torch.int64))
    top1_error(model, [batch])
    with pytest.raises(RuntimeError):
        top1_error(model, [batch, (torch.randn(5, 2), batch[1])])
    assert [module.training for module in model] == [True, False, True]


@pytest.mark.parametrize(
    ("outputs", "labels", "given"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.int64), r"outputs \[4, 3\] and labels \[4, 1\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), r"labels \[4, 3\]"),
        (torch.zeros(4), torch.zeros(4), r"outputs \[4\]"),
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), r"outputs \[4, 1\] and labels \[4\]"),
        ((torch.zeros(4, 3),), torch.zeros(4), "outputs tuple"),
    ],
)
def test_outputs_and_labels_that_do_not_fit_are_named(outputs: object, labels: torch.Tensor, given: str) -> None:
    with pytest.raises(DataError, match=rf"expected outputs \[n, classes, \.\.\.\] .*{given}"):
        mistaken(outputs, labels)


def test_labels_at_each_place_and_shares_of_classes() -> None:
    """The error counts places; shares of classes have no right or wrong, even of as many classes as samples."""
    scores = torch.randn(4, 3, 5)
    labels = torch.randint(3, (4, 5))
    wrong = (scores.argmax(1) != labels).float().mean()
    assert top1_error(Fixed(scores), [(torch.zeros(4), labels)]) == pytest.approx(float(wrong))
    result = cross_entropy()(Fixed(scores), (torch.zeros(4), labels))
    assert float(result.n_wrong) / result.n == pytest.approx(float(wrong))
    labels[:, 2:] = -100
    left = (scores.argmax(1) != labels)[:, :2].float().mean()
    assert top1_error(Fixed(scores), [(torch.zeros(4), labels)]) == pytest.approx(float(left))
    result = cross_entropy()(Fixed(scores), (torch.zeros(4), labels))
    assert float(result.n_wrong) / result.n == pytest.approx(float(left))
    shares = cross_entropy()(Fixed(torch.randn(4, 4)), (torch.zeros(4), torch.rand(4, 4)))
    assert math.isnan(shares.n_wrong)


class Fixed(nn.Module):
    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores


def test_the_loss_of_a_classifier() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([0, 0])
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))]
    loss = cross_entropy()(nn.Identity(), (scores, y))
    assert (loss.loss.item(), float(loss.n_wrong), loss.n) == (pytest.approx(sum(losses) / 2), 1.0, 2)
    other = [math.log(1 + math.exp(2)), math.log(1 + math.exp(-1))]  # of the wrong class
    smoothed = [0.9 * a + 0.1 * b for a, b in zip(losses, other, strict=True)]
    assert cross_entropy(0.2)(nn.Identity(), (scores, y)).loss.item() == pytest.approx(sum(smoothed) / 2)


def test_auxiliary_classifiers_count_with_the_models_weight() -> None:
    class Heads(nn.Module):
        auxiliary_weight = 0.3

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return x, x * 0, -x

    scores, y = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    expected = math.log(1 + math.exp(-2)) + 0.3 * (math.log(2) + math.log(1 + math.exp(2)))
    assert cross_entropy()(Heads(), (scores, y)).loss.item() == pytest.approx(expected)


def test_batches_must_be_countable_and_there() -> None:
    with pytest.raises(DataError, match="len"):
        fit(network(), lambda epoch: iter([(X, Y)]), CONFIG)
    with pytest.raises(DataError, match="at least one, got none"):
        fit(network(), lambda epoch: [], CONFIG)
