"""CLIP-Q from Python: any network, loader and metric; what is refused; files; the examples of docs/python.md."""

import copy
import functools
import pkgutil
import re
import subprocess
import sys
import threading
from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)

import clipq
from clipq.batch import lengths, part_of
from clipq.errors import ClipqError, ClipqFormatError, DataError, ModelError, SettingError, WeightError
from clipq.train_config import TrainConfig
from clipq.training import StepLoss

GUIDE = Path(__file__).parents[1] / "docs" / "python.md"
SHORT = TrainConfig(epochs=1, lr=0.05)
ALL = {"*": (0.5, 3)}


def data(n: int = 96, *shape: int) -> TensorDataset:
    """Two blobs that differ in their mean."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 2, (n,), generator=generator)
    x = torch.randn(n, *(shape or (6,)), generator=generator)
    return TensorDataset(x + 2.0 * y.view(-1, *[1] * (x.ndim - 1)), y)


def loader(*shape: int, **options: object) -> DataLoader:
    return DataLoader(data(96, *shape), 16, **{"shuffle": True, **options})  # type: ignore[arg-type]


def metric(model: nn.Module) -> torch.Tensor:
    x, y = data().tensors
    return (model(x).argmax(1) != y).float().mean()


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2))


def state_bytes(model: nn.Module) -> dict[str, bytes]:
    """Every entry of the state dict, bit for bit."""
    tensors = {k: v.detach().contiguous().flatten() for k, v in model.state_dict().items()}
    return {k: v.cpu().view(torch.uint8).numpy().tobytes() for k, v in tensors.items()}


# The whole road


def test_compress_searches_trains_and_leaves_a_plain_quantized_network() -> None:
    model = classifier()
    names, classes = list(model.state_dict()), [type(m) for m in model.modules()]
    search = clipq.SearchConfig(evaluations=4, p_step=0.3, b_max=4)
    result = clipq.compress(model, loader(), metric, search=search, train=TrainConfig(epochs=3, lr=0.05))
    assert list(model.state_dict()) == names
    assert [type(m) for m in model.modules()] == classes
    assert [(e.layer, e.number) for e in result.evaluations] == [
        (layer, i) for layer in ("0.weight", "4.weight") for i in range(4)
    ]
    for layer in result.net.layers:
        best = min((e for e in result.evaluations if e.layer == layer.name), key=lambda e: e.value)
        assert result.settings[layer.name] == clipq.LayerSetting(best.p, best.b)
        assert model.state_dict()[layer.name].unique().numel() <= 2**layer.b
    assert len(result.history.epochs) == 3
    assert all(p.grad is None for p in model.parameters())
    assert metric(model.eval()) < 0.2
    state = result.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    errors, states = iter([0.5, 0.1, 0.3]), []

    def recorded(model: nn.Module) -> float:
        states.append(model[0].weight.detach().clone())
        return next(errors)

    model = classifier()
    result = clipq.compress(model, loader(), recorded, settings=ALL, train=TrainConfig(epochs=3, lr=0.1))
    assert [e["val_error"] for e in result.history.epochs] == [0.5, 0.1, 0.3]
    assert torch.equal(model[0].weight, states[1])
    assert not torch.equal(states[1], states[2])


def test_without_a_metric_the_last_epoch_is_kept() -> None:
    result = clipq.compress(classifier(), loader(), None, settings=ALL, train=TrainConfig(epochs=2))
    assert ["val_error" in e for e in result.history.epochs] == [False, False]


def test_the_search_uses_its_own_metric() -> None:
    calls = {"search": 0, "validation": 0}

    def counted(kind: str, model: nn.Module) -> float:
        assert not model.training and not torch.is_grad_enabled()
        calls[kind] += 1
        return 0.25

    clipq.compress(
        classifier(), loader(), functools.partial(counted, "validation"), train=TrainConfig(epochs=2),
        search=clipq.SearchConfig(mode="random", evaluations=3), search_metric=functools.partial(counted, "search"),
    )  # fmt: skip
    assert calls == {"search": 2 * 3, "validation": 2}


def test_a_subset_error_gives_the_same_search_as_the_same_metric() -> None:
    x, y = data().tensors
    search = clipq.SearchConfig(evaluations=4, p_step=0.3)
    options: dict = {"search": search, "train": TrainConfig(epochs=0)}
    slow = clipq.compress(classifier(), loader(), metric, **options)
    fast = clipq.compress(classifier(), loader(), None, search_metric=clipq.SubsetError([(x, y)]), **options)
    assert slow.settings == fast.settings
    assert [e.eps for e in slow.evaluations] == pytest.approx([e.eps for e in fast.evaluations])


def test_settings_go_by_name_or_pattern_and_the_first_that_matches_holds() -> None:
    given = {"4": (0.25, 2), "0.weight": clipq.LayerSetting(0.75, 5)}
    result = clipq.compress(classifier(), loader(), None, settings=given, train=SHORT)
    assert dict(result.settings) == {
        "0.weight": clipq.LayerSetting(0.75, 5),
        "4.weight": clipq.LayerSetting(0.25, 2),
    }
    assert [layer.b for layer in result.net.layers] == [5, 2]
    assert result.evaluations == []
    result = clipq.compress(classifier(), loader(), None, settings={"4*": (0.1, 8), "*": (0.9, 2)}, train=SHORT)
    assert [theta.b for theta in result.settings.values()] == [2, 8]


@pytest.mark.parametrize("mode", ["uniform", "given"])
def test_a_search_that_evaluates_nothing_needs_no_metric(mode: str) -> None:
    search = clipq.SearchConfig(mode=mode, p=0.5, b=2, given={"4": (0.0, 3)} if mode == "given" else {})  # type: ignore[arg-type]
    result = clipq.compress(classifier(), loader(), None, search=search, train=SHORT)
    assert [theta.b for theta in result.settings.values()] == ([2, 2] if mode == "uniform" else [2, 3])


def test_excluded_layers_are_trained_and_kept_exactly() -> None:
    model = classifier()
    before = model[4].weight.detach().clone()
    result = clipq.compress(model, loader(), None, settings=ALL, train=SHORT, exclude="4")
    assert [layer.name for layer in result.net.layers] == ["0.weight"]
    assert torch.equal(result.net.tensors["4.weight"], model[4].weight)
    assert not torch.equal(model[4].weight, before)


def test_training_without_gradients_around_it_works() -> None:
    with torch.no_grad():
        result = clipq.compress(classifier(), loader(), None, settings=ALL, train=SHORT)
    assert result.history.epochs[0]["loss"] > 0


# Reproducible


@pytest.mark.parametrize("own_generator", [False, True])
def test_the_same_seed_gives_the_same_network_with_the_users_shuffled_loader(own_generator: bool) -> None:
    options = {"generator": torch.Generator().manual_seed(5)} if own_generator else {}
    batches = loader(**options)

    def compressed(seed: int) -> dict[str, bytes]:
        model = classifier()
        clipq.compress(model, batches, metric, settings=ALL, train=TrainConfig(epochs=2, lr=0.05), seed=seed)
        return state_bytes(model)

    torch.manual_seed(1)
    first = compressed(3)
    torch.manual_seed(2)
    assert compressed(3) == first
    assert compressed(4) != first


def test_every_epoch_has_another_order_and_is_announced_to_the_sampler() -> None:
    class Sampler(RandomSampler):
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    dataset, orders = data(), []

    def objective(model: nn.Module, batch: list) -> StepLoss:
        orders.append(batch[0][0, 0].item())
        return StepLoss(functional.cross_entropy(model(batch[0]), batch[1]), 0.0, len(batch[1]))

    clipq.compress(
        classifier(), DataLoader(dataset, 96, sampler=Sampler(dataset)), None, settings=ALL, objective=objective,
        train=TrainConfig(epochs=3),
    )  # fmt: skip
    assert Sampler.epochs == [0, 1, 2]
    assert len(set(orders)) == 3


def test_a_sampler_inside_a_batch_sampler_is_reseeded_and_told_the_epoch() -> None:
    class Sampler(RandomSampler):
        def set_epoch(self, epoch: int) -> None:
            epochs.append(epoch)

    def compressed() -> dict[str, bytes]:
        model = classifier()
        clipq.compress(model, batches, None, settings=ALL, train=TrainConfig(epochs=2))
        return state_bytes(model)

    epochs: list[int] = []
    sampler = Sampler(data(), generator=torch.Generator().manual_seed(5))
    batches = DataLoader(data(), batch_sampler=BatchSampler(sampler, 16, drop_last=False))
    assert compressed() == compressed()
    assert epochs == [0, 1, 0, 1]


class Drawing(Dataset):
    """Draws from a generator of its own whenever a sample is read."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __len__(self) -> int:
        return 96

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = data()[i]
        return x + torch.randn(6, generator=self.generator), y


@pytest.mark.parametrize(
    "around",
    [
        lambda drawing: Subset(drawing, range(64)),
        lambda drawing: random_split(drawing, [64, 32])[0],
        lambda drawing: ConcatDataset([data(), Subset(drawing, range(9))]),
        lambda drawing: StackDataset(drawing, range(96)),
        lambda drawing: StackDataset(x=drawing, number=range(96)),
    ],
)
def test_data_sets_inside_data_sets_are_reseeded(around: Callable[[Dataset], Dataset]) -> None:
    dataset = around(Drawing())

    def drawn(model: nn.Module, batch: Any) -> StepLoss:
        x, y = (batch["x"] if isinstance(batch, dict) else batch[0] if isinstance(batch[0], list) else batch)[:2]
        return StepLoss(functional.cross_entropy(model(x), y), 0.0, len(y))

    def compressed() -> dict[str, bytes]:
        model = classifier()
        clipq.compress(model, DataLoader(dataset, 16), None, settings=ALL, objective=drawn, train=TrainConfig(epochs=2))
        return state_bytes(model)

    assert compressed() == compressed()


# Loaders, losses, batches


def test_a_list_of_batches_is_a_loader() -> None:
    x, y = data().tensors
    result = clipq.compress(classifier(), [(x[:48], y[:48]), (x[48:], y[48:])], None, settings=ALL, train=SHORT)
    assert len(result.history.epochs) == 1


def test_a_loss_that_is_no_tensor_is_named() -> None:
    with pytest.raises(SettingError, match=r"^loss: expected a scalar tensor, the mean over the samples, got 0\.5"):
        clipq.compress(classifier(), loader(), None, loss=lambda output, y: 0.5, settings=ALL, train=SHORT)


def test_a_loss_may_replace_cross_entropy() -> None:
    x, _ = data().tensors
    model = nn.Sequential(nn.Linear(6, 6))
    batches = [(x[i : i + 16], x[i : i + 16]) for i in range(0, 96, 16)]
    train = TrainConfig(epochs=20, lr=0.1)
    result = clipq.compress(model, batches, None, loss=nn.MSELoss(), settings={"*": (0.5, 4)}, train=train)
    losses = [e["loss"] for e in result.history.epochs]
    assert losses[-1] < 0.3 * losses[0]
    assert np.isnan(result.history.epochs[0]["error"])


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    ("batch", "kind"),
    [
        (Pair(torch.ones(4, 6), torch.zeros(4)), Pair),
        ({"x": torch.ones(4, 6), "id": "a"}, dict),
        ((torch.ones(4, 6), [torch.ones(2)]), tuple),
        (pack_sequence([torch.ones(3, 6), torch.ones(2, 6)]), PackedSequence),
    ],
)
def test_an_objective_gets_batches_of_any_kind(batch: object, kind: type) -> None:
    seen = []

    def objective(model: nn.Module, given: object) -> StepLoss:
        seen.append(given)
        return StepLoss(model(torch.ones(4, 6)).square().mean(), float("nan"), 4)

    clipq.compress(classifier(), [batch], None, objective=objective, settings=ALL, train=SHORT)
    assert type(seen[0]) is kind


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ((b for b in [1]), "len"),
        ([], "at least one"),
    ],
)
def test_batches_of_unknown_number_are_refused_before_the_search(batches: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        clipq.compress(classifier(), batches, lambda model: pytest.fail("searched"))  # type: ignore[arg-type]


def test_a_loader_that_is_empty_the_second_time_is_an_error() -> None:
    class Once:
        batches = iter([data().tensors])

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator:
            return self.batches

    with pytest.raises(DataError, match=r"epoch 1.*anew"):
        clipq.compress(classifier(), Once(), None, settings=ALL, train=TrainConfig(epochs=2))


# Networks of every kind


def convolutional(layer: nn.Module, n: int) -> nn.Module:
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(n, 2))


class OwnParameters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 4))
        self.pair = nn.Bilinear(4, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(x @ self.kernel)
        return self.pair(x, x)


class Pooled(nn.Module):
    def __init__(self, body: nn.Module, n: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(n, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.head((x[0] if isinstance(x, tuple) else x).mean(1))


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.again = self.body
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.body(x)))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, 6)
        self.head = nn.Linear(6, 2, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.embedding((x[:, 0] > 0).long()))


def lazy() -> nn.Module:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    model(torch.ones(2, 6))
    return model


#: name -> (makes the network, shape of a sample)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d in groups": (lambda: convolutional(nn.Conv1d(4, 6, 3, groups=2), 24), (4, 6)),
    "depthwise conv2d": (lambda: convolutional(nn.Conv2d(3, 6, 2, groups=3), 24), (3, 3, 3)),
    "conv3d": (lambda: convolutional(nn.Conv3d(1, 2, 2), 16), (1, 3, 3, 3)),
    "transposed conv1d in groups": (lambda: convolutional(nn.ConvTranspose1d(2, 4, 2, groups=2), 16), (2, 3)),
    "transposed conv2d": (lambda: convolutional(nn.ConvTranspose2d(2, 1, 2), 9), (2, 2, 2)),
    "transposed conv3d": (lambda: convolutional(nn.ConvTranspose3d(1, 1, 2), 27), (1, 2, 2, 2)),
    "channels last": (
        lambda: convolutional(nn.Conv2d(3, 6, 2), 24).to(memory_format=torch.channels_last), (3, 3, 3),
    ),
    "own parameters": (OwnParameters, (6,)),
    "transformer": (lambda: Pooled(nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 6), (4, 6)),
    "lstm": (lambda: Pooled(nn.LSTM(6, 5, batch_first=True), 5), (4, 6)),
    "a layer used twice": (UsedTwice, (6,)),
    "tied weights": (Tied, (6,)),
    "lazy, initialized": (lazy, (6,)),
}  # fmt: skip
ALL_TYPES = (*clipq.DEFAULT_TYPES, nn.LSTM, nn.Bilinear, OwnParameters, nn.Embedding)


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_every_kind_are_compressed_saved_and_loaded_bit_for_bit(kind: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[kind]
    torch.manual_seed(0)
    model = make()
    before = list(model.state_dict())
    result = clipq.compress(model, loader(*shape), None, settings=ALL, train=SHORT, types=ALL_TYPES)
    assert list(model.state_dict()) == before
    matrices = {id(p) for n, p in model.named_parameters() if p.ndim >= 2}
    assert len(result.net.layers) == len(matrices)
    x = data(96, *shape).tensors[0]
    model.eval()
    for name, coder in (("fixed.clipq", "fixed"), ("net.clipq", "best"), ("net.mat", "best")):
        size = clipq.save(result.net, tmp_path / name, coder)  # type: ignore[arg-type]
        assert size == (tmp_path / name).stat().st_size
        torch.manual_seed(1)
        fresh = clipq.load_into(make(), tmp_path / name).eval()
        assert state_bytes(fresh) == state_bytes(model)
        with torch.no_grad():
            torch.testing.assert_close(fresh(x), model(x), rtol=1e-6, atol=1e-6)
    fixed, best = clipq.load(tmp_path / "fixed.clipq"), clipq.load(tmp_path / "net.clipq")
    for own, x, y in zip(result.net.layers, fixed.layers, best.layers, strict=True):
        assert np.array_equal(own.codes, x.codes) and np.array_equal(own.codes, y.codes)
        assert np.array_equal(own.levels, x.levels)
        used = np.unique(own.codes[own.codes > 0]) - 1
        assert np.array_equal(own.levels[used], y.levels[used])


@pytest.mark.parametrize("name", ["net.clipq", "net.mat"])
def test_a_fresh_model_gives_identical_outputs(name: str, tmp_path: Path) -> None:
    model = classifier()
    result = clipq.compress(model, loader(), metric, settings=ALL, train=SHORT)
    clipq.save(result.net, tmp_path / name)
    fresh = clipq.load_into(classifier(seed=9), tmp_path / name)
    x = data().tensors[0]
    assert torch.equal(fresh.eval()(x), model.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types_stay_what_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = classifier().to(dtype)
    x, y = data().tensors
    batches = [(x[i : i + 32].to(dtype), y[i : i + 32]) for i in range(0, 96, 32)]
    result = clipq.compress(model, batches, None, settings=ALL, train=SHORT)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(layer.dtype == str(dtype).removeprefix("torch.") for layer in result.net.layers)
    clipq.save(result.net, tmp_path / "net.clipq", "fixed")
    fresh = clipq.load_into(classifier(seed=9).to(dtype), tmp_path / "net.clipq").eval()
    assert state_bytes(fresh) == state_bytes(model)
    assert torch.equal(fresh(x.to(dtype)), model.eval()(x.to(dtype)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", [False, True])
def test_a_model_on_a_gpu_stays_there(amp: bool, tmp_path: Path) -> None:
    model = classifier().cuda()

    def on_gpu(network: nn.Module) -> torch.Tensor:
        x, y = (t.cuda() for t in data().tensors)
        return (network(x).argmax(1) != y).float().mean()

    search = clipq.SearchConfig(evaluations=3, p_step=0.3)
    result = clipq.compress(model, loader(), on_gpu, search=search, train=SHORT, amp=amp)
    assert all(p.is_cuda for p in model.parameters())
    clipq.save(result.net, tmp_path / "net.clipq", "fixed")
    fresh = clipq.load_into(classifier(9).cuda(), tmp_path / "net.clipq").eval()
    x = data().tensors[0].cuda()
    assert torch.equal(fresh(x), model.eval()(x))


@pytest.mark.parametrize("elsewhere", [True, False])
def test_the_default_device_changes_nothing(elsewhere: bool, tmp_path: Path) -> None:
    """On ``meta`` nothing has values: whatever were made there would be missed."""
    model, fresh, batches = classifier(), classifier(1), list(loader())

    def error(model: nn.Module) -> float:
        return float((model(batches[0][0]).argmax(1) != batches[0][1]).float().mean())

    with torch.device("meta" if elsewhere else "cpu"):
        result = clipq.compress(model, batches, error, search=clipq.SearchConfig(evaluations=2), train=SHORT)
        for name in ("net.clipq", "net.mat"):
            clipq.save(result.net, tmp_path / name)
            clipq.load_into(fresh, tmp_path / name)
            assert state_bytes(fresh) == state_bytes(model)


def test_a_compiled_network_is_compressed_inside() -> None:
    model = classifier()
    compiled = torch.compile(model, backend="eager")
    result = clipq.compress(compiled, loader(), None, settings=ALL, train=SHORT)
    assert [layer.name for layer in result.net.layers] == ["0.weight", "4.weight"]
    assert model[0].weight.unique().numel() <= 8
    clipq.load_into(torch.compile(classifier(1), backend="eager"), result.net)


def test_frozen_layers_are_quantized_but_not_trained() -> None:
    model = classifier()
    model[0].weight.requires_grad_(False)
    expected = clipq.compress(copy.deepcopy(model), loader(), None, settings=ALL, train=TrainConfig(epochs=0)).net
    result = clipq.compress(model, loader(), None, settings=ALL, train=SHORT)
    assert np.array_equal(result.net.layers[0].codes, expected.layers[0].codes)
    assert np.array_equal(result.net.layers[0].levels, expected.layers[0].levels)
    assert not np.array_equal(result.net.layers[1].levels, expected.layers[1].levels)
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("change", [{"optimizer": "adam"}, {"weight_decay": 0.1}, {"clip_grad_norm": 1.0}])
def test_sparse_gradients_are_refused_where_the_training_cannot_use_them(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(9, 4, sparse=True), nn.Linear(4, 2))
    batches = [(torch.arange(8).view(4, 2), torch.tensor([0, 1, 0, 1]))]
    with pytest.raises(ModelError, match="layers 0: gradients are sparse"):
        clipq.compress(model, batches, None, settings=ALL, train=replace(SHORT, **change))
    before = model[0].weight.detach().clone()
    clipq.compress(model, batches, None, settings=ALL, train=SHORT)
    assert not torch.equal(model[0].weight, before)
    model[0].weight.requires_grad_(False)
    clipq.compress(model, batches, None, settings=ALL, train=replace(SHORT, **change))


def test_a_network_all_frozen_can_be_quantized_but_not_trained() -> None:
    model = classifier().requires_grad_(False)
    with pytest.raises(ModelError, match=r"frozen.*epochs = 0"):
        clipq.compress(model, loader(), None, settings=ALL, train=SHORT)
    result = clipq.compress(model, loader(), None, settings=ALL, train=TrainConfig(epochs=0))
    assert model[0].weight.unique().numel() <= 8
    assert result.history.epochs == []


def test_modes_of_training_and_evaluation_are_put_back() -> None:
    model = classifier().train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    clipq.compress(model, loader(), metric, settings=ALL, train=SHORT)
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(SettingError):
        clipq.compress(model, loader(), lambda _: 7, settings=ALL, train=SHORT)
    assert [m.training for m in model.modules()] == modes


def test_non_persistent_buffers_are_the_fresh_networks_own(tmp_path: Path) -> None:
    def make(fill: float) -> nn.Module:
        model = classifier()
        model.register_buffer("cache", torch.full((3,), fill), persistent=False)
        model.register_buffer("kept", torch.full((3,), fill))
        return model

    result = clipq.compress(make(1.0), loader(), None, settings=ALL, train=SHORT)
    clipq.save(result.net, tmp_path / "net.clipq", "fixed")
    fresh = clipq.load_into(make(2.0), tmp_path / "net.clipq")
    assert fresh.cache.tolist() == [2.0] * 3
    assert fresh.kept.tolist() == [1.0] * 3


# Errors


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("stage", ["search", "training", "validation"])
def test_whatever_stops_it_leaves_a_plain_network_in_full_precision(fault: type, stage: str) -> None:
    model = classifier()
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    calls = 0

    def failing(*_: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise fault
        return 0.3

    def objective(network: nn.Module, batch: list) -> StepLoss:
        if stage == "training":
            failing()
        return StepLoss(functional.cross_entropy(network(batch[0]), batch[1]), 0.0, len(batch[1]))

    with pytest.raises(fault):
        clipq.compress(
            model, loader(), failing if stage == "validation" else None, objective=objective,
            search=clipq.SearchConfig(mode="random" if stage == "search" else "uniform", evaluations=3),
            search_metric=failing if stage == "search" else None, train=TrainConfig(epochs=5),
        )  # fmt: skip
    assert [type(m) for m in model.modules()] == classes
    assert list(model.state_dict()) == list(before)
    assert model[0].weight.unique().numel() == model[0].weight.numel(), "not quantized"
    assert torch.equal(model[0].weight, before["0.weight"]) == (stage == "search")


def with_nan() -> nn.Module:
    model = classifier()
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"search": clipq.SearchConfig()}, SettingError, "one of search and settings, got both"),
        ({"loss": nn.MSELoss(), "objective": metric}, SettingError, "one of loss and objective, got both"),
        ({"metric": 0.3}, SettingError, r"^compress: metric: expected a function, got 0\.3"),
        ({"search_metric": "error"}, SettingError, "search_metric: expected a function, got 'error'"),
        ({"loss": "mse"}, SettingError, "loss: expected a function, got 'mse'"),
        ({"objective": StepLoss(torch.zeros(1), 0, 1)}, SettingError, "objective: expected a function, got StepLoss"),
        ({"settings": None}, SettingError, "needs a metric or a search_metric"),
        ({"settings": {"0": (0.5, 3)}}, ModelError, r"no \(p, b\) for layer 4\.weight; given for: 0"),
        ({"settings": {}}, ModelError, "given for: none"),
        ({"settings": {**ALL, "fc": (0.5, 3)}}, ModelError, r"for no layer: fc; the layers: 0\.weight, 4\.weight"),
        ({"settings": {"*": 0.5}}, SettingError, r"settings: \*: expected \(p, b\), got 0\.5"),
        ({"settings": {"*": (0.5, 9)}}, SettingError, "bits b"),
        ({"settings": {"*": (50, 3)}}, SettingError, "pruning rate p"),
        ({"settings": [(0.5, 3)]}, SettingError, "settings: expected a Mapping, got"),
        ({"settings": {0: (0.5, 3)}}, SettingError, "settings: expected layer names or shell patterns as keys, got 0"),
        ({"settings": None, "search": {}}, SettingError, r"search: expected a SearchConfig, got \{\}"),
        ({"train": {"epochs": 1}}, SettingError, "train: expected a TrainConfig, got {'epochs': 1}"),
        ({"train": None}, SettingError, "train: expected a TrainConfig, got None"),
        ({"conventions": "paper"}, SettingError, "conventions: expected a Conventions, got 'paper'"),
        ({"seed": -1}, SettingError, "seed: expected a whole number >= 0, got -1"),
        ({"seed": 1.5}, SettingError, r"seed: expected a whole number >= 0, got 1\.5"),
        ({"include": None}, SettingError, "include: expected a shell pattern or several, got None"),
        ({"exclude": [4]}, SettingError, r"exclude: expected a shell pattern or several, got \[4\]"),
        ({"types": "Linear"}, SettingError, "types: expected a module class or several, got 'Linear'"),
        ({"types": [nn.Linear, nn.ReLU()]}, SettingError, "types: expected a module class or several, got"),
        ({"include": "fc*"}, ModelError, "fc"),
        ({"model": with_nan()}, WeightError, r"4\.weight.*NaN"),
        ({"model": nn.DataParallel(classifier())}, ModelError, r"DataParallel.*\.module"),
        ({"model": nn.Sequential(nn.ReLU())}, ModelError, "no layer to compress"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_changes_nothing(change: dict, error: type, message: str) -> None:
    options = {"model": classifier(), "loader": loader(), "metric": None, "settings": ALL, "train": SHORT, **change}
    model = options["model"]
    before, classes = state_bytes(model), [type(m) for m in model.modules()]
    with pytest.raises(error, match=message):
        clipq.compress(**options)
    assert state_bytes(model) == before
    assert [type(m) for m in model.modules()] == classes


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.LazyLinear(2)), "not initialized"),
        (nn.Sequential(nn.Linear(6, 2), nn.LazyBatchNorm1d()), r"1\.weight: not initialized"),
        ("net", "got str"),
    ],
)
def test_networks_without_values_are_refused(model: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        clipq.compress(model, loader(), None, settings=ALL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [(93.5, "93.5"), (-0.1, "-0.1"), (torch.tensor(float("nan")), "nan"), (None, "None"), (torch.ones(2), "tensor")],
)
def test_a_metric_that_is_no_error_rate_is_refused(value: object, message: str) -> None:
    with pytest.raises(SettingError, match=rf"^metric: expected an error in \[0, 1\].*{re.escape(message)}"):
        clipq.compress(classifier(), loader(), lambda _: value, settings=ALL, train=SHORT)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"^search_metric: "):
        clipq.compress(classifier(), loader(), None, search_metric=lambda _: value)  # type: ignore[arg-type]


def test_a_metric_may_be_an_object_that_counts_as_false() -> None:
    class Errors(list):
        def __call__(self, model: nn.Module) -> float:
            self.append(0.3)
            return 0.3 if len(self) > 1 else 0.2

    chosen, judged = Errors(), Errors()
    search = clipq.SearchConfig(evaluations=2)
    result = clipq.compress(classifier(), loader(), judged, search=search, search_metric=chosen, train=SHORT)
    assert [e.eps for e in result.evaluations] == [0.2, 0.3, 0.3, 0.3]
    assert result.history.epochs[0]["val_error"] == 0.2


class OfMany(nn.Linear):
    """Its outputs are a dict, as many language models' are."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


X, Y = data(4).tensors


@pytest.mark.parametrize(
    ("batch", "change", "error", "message"),
    [
        ((X, Y, Y), {}, DataError, r"batch: expected \(inputs, labels\), got tuple of 3"),
        ({"x": X, "y": Y}, {}, DataError, r"batch: expected \(inputs, labels\), got dict of 2"),
        ((X, Y, Y), {"loss": functional.cross_entropy}, DataError, "got tuple of 3"),
        ((X, Y), {"objective": lambda model, batch: model(batch[0]).mean()}, SettingError, "StepLoss.*, got Tensor"),
        ((X, Y), {"loss": nn.CrossEntropyLoss(reduction="none")}, SettingError, r"a scalar, .* got shape \[4\]"),
        ((X, Y), {"objective": lambda model, batch: StepLoss(model(X).mean(), 0, 0)}, SettingError, "of 0"),
        ((X, Y), {"objective": lambda model, batch: StepLoss(model(X).mean(), None, 4)}, SettingError, "n_wrong.*None"),
        ((X, Y), {"objective": lambda model, batch: StepLoss(model(X).mean(), Y, 4)}, SettingError, "n_wrong.*tensor"),
        ((X, Y), {"objective": lambda model, batch: StepLoss(model(X).mean(), 0, "4")}, SettingError, "n: .* got '4'"),
        ((X, Y), {"loss": lambda out, y: out.mean() * 1j}, SettingError, "a real number, got torch.complex64"),
        ((X, Y), {"loss": lambda out, y: out.argmax(1).sum()}, SettingError, "got one without a gradient"),
        ((X, None), {"loss": nn.MSELoss()}, DataError, "targets with an entry a sample, got NoneType"),
        ((X, Y[0]), {"loss": lambda out, y: out.mean() * y}, DataError, "an entry a sample, got a 0-d tensor"),
        ((X, Y), {"model": OfMany(6, 2)}, ModelError, "class scores .*, got dict; .* a loss or an objective"),
    ],
)  # fmt: skip
def test_what_a_step_cannot_use_is_named(batch: object, change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        clipq.compress(**{"model": classifier(), "loader": [batch], "metric": None, "settings": ALL, **change})


def test_a_measurement_in_another_thread_does_not_hold_the_weights_that_are_trained() -> None:
    measuring, trained = threading.Event(), threading.Event()

    def measure(model: nn.Module) -> float:
        measuring.set()
        assert trained.wait(60)
        return 0.1

    def weights() -> set[bytes]:
        seen = set()

        def objective(model: nn.Module, batch: list[torch.Tensor]) -> StepLoss:
            seen.add(model[0].weight.detach().numpy().tobytes())
            return StepLoss(functional.cross_entropy(model(batch[0]), batch[1]), 0.0, len(batch[1]))

        clipq.compress(classifier(), loader(), None, settings=ALL, objective=objective, train=SHORT)
        return seen

    other = threading.Thread(target=lambda: clipq.compress(classifier(), loader(), measure, settings=ALL, train=SHORT))
    other.start()
    assert measuring.wait(60)
    n = len(weights())
    trained.set()
    other.join()
    assert n == 6


def test_a_mapping_of_the_users_own_is_left_as_it_is() -> None:
    class Shared(UserDict):
        def copy(self) -> "Shared":
            return self

    def objective(model: nn.Module, batch: dict) -> StepLoss:
        return StepLoss(functional.cross_entropy(model(batch["x"]), batch["y"]), 0.0, len(batch["y"]))

    batch = Shared(x=X, y=Y)
    assert lengths(batch) == {4} and len(part_of(batch, slice(0, 2))["x"]) == 2
    clipq.compress(classifier(), [batch], None, settings=ALL, objective=objective, train=SHORT)
    assert batch["x"] is X and batch["y"] is Y


class Sample(dict):
    """A batch whose entries are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class Pair(tuple):
    def __new__(cls, x: Any, y: Any) -> "Pair":
        return super().__new__(cls, (x, y))


class Named(list):
    """A list that is made otherwise than lists are."""

    def __init__(self, name: str, items: list) -> None:
        super().__init__(items)
        self.name = name


def test_batches_of_the_users_own_classes_stay_of_these() -> None:
    seen = []

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        seen.append(batch)
        x, y = (batch.x, batch.y) if isinstance(batch, Sample) else batch
        return StepLoss(functional.cross_entropy(model(x), y), 0.0, len(y))

    batches = [Sample(x=X, y=Y), Pair(X, Y), Named("first", [X, Y])]
    clipq.compress(classifier(), batches, None, settings=ALL, objective=objective, train=SHORT)
    assert all(a is b for a, b in zip(seen, batches, strict=True))
    sample, pair, named = (part_of(batch, slice(1, 3)) for batch in batches)
    assert type(sample) is Sample and torch.equal(sample.x, X[1:3]) and len(batches[0].x) == 4
    assert isinstance(pair, tuple) and torch.equal(pair[1], Y[1:3])
    assert type(named) is Named and named.name == "first" and torch.equal(named[0], X[1:3])


def test_a_part_of_a_batch_has_whatever_has_an_entry_a_sample() -> None:
    batch = {"x": X, "names": list("abcd"), "ids": np.arange(4), "pair": ("a", "b"), "all": [X, X, X, Y], "scale": 2.0}
    part = part_of(batch, slice(1, 3))
    assert part["names"] == ["b", "c"] and part["ids"].tolist() == [1, 2]
    assert part["pair"] == ("a", "b") and part["scale"] == 2.0
    assert [len(tensor) for tensor in part["all"]] == [2, 2, 2, 2]


def test_a_surrounding_autocast_holds_for_training_and_metric() -> None:
    seen = set()
    model = classifier()
    model[-1].register_forward_hook(lambda module, _, out: seen.add((module.training, out.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clipq.compress(model, loader(), metric, settings=ALL, train=SHORT)
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"0": (0.5, 3)}},
        {"settings": {"*": (0.5, 9)}},
        {"search": clipq.SearchConfig(mode="given", given={"7": (0.5, 3)})},
        {},
    ],
)
def test_what_is_refused_has_changed_nothing_not_even_the_generators(options: dict[str, Any]) -> None:
    model = classifier()
    before = state_bytes(model), torch.get_rng_state()
    with pytest.raises(ClipqError):
        clipq.compress(model, loader(), None, **options)
    assert state_bytes(model) == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_an_error_leaves_no_gradients() -> None:
    def failing(model: nn.Module) -> float:
        raise KeyboardInterrupt

    model = classifier()
    with pytest.raises(KeyboardInterrupt):
        clipq.compress(model, loader(), failing, settings=ALL, train=SHORT)
    assert all(p.grad is None for p in model.parameters())


def copied_entries(module: nn.Module, state: dict, *_: object) -> None:
    state.update({name: tensor.clone() for name, tensor in state.items()})


def tied_with_a_hook() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].weight = model[0].weight
    model.register_state_dict_post_hook(copied_entries)
    return model


def test_tied_weights_are_one_where_a_hook_puts_copies_into_the_state_dict() -> None:
    net = clipq.compress(tied_with_a_hook(), loader(), None, settings=ALL, train=SHORT).net
    assert dict(net.aliases) == {"1.weight": "0.weight"}
    restored = clipq.load_into(tied_with_a_hook(), net)
    assert torch.equal(restored[1].weight, net.layers[0].weights())
    torn = clipq.QuantizedNet(net.layers, {**net.tensors, "1.weight": torch.randn(6, 6)})
    with pytest.raises(ModelError, match=r"0\.weight and 1\.weight: one tensor in the network, two in the file"):
        clipq.load_into(tied_with_a_hook(), torn)


def test_a_layer_that_the_state_dict_leaves_out_is_refused_before_anything_starts() -> None:
    def leaves_out(module: nn.Module, state: dict, *_: object) -> None:
        del state["4.weight"]

    model = classifier()
    model.register_state_dict_post_hook(leaves_out)
    with pytest.raises(ModelError, match=r"layers 4\.weight: not in the network's state dict"):
        clipq.compress(model, loader(), metric)
    clipq.compress(model, loader(), None, settings=ALL, exclude="4", train=SHORT)


def test_a_state_dict_of_the_users_own_is_refused() -> None:
    class Own(nn.Linear):
        def state_dict(self) -> dict:  # type: ignore[override]
            return {}

    with pytest.raises(ModelError, match="expected a state_dict that takes keep_vars=True"):
        clipq.compress(Own(6, 2), loader(), None, settings=ALL)


def test_what_cannot_be_copied_into_is_named_and_nothing_was_loaded() -> None:
    net = clipq.compress(classifier(), loader(), None, settings=ALL, train=SHORT).net
    model = classifier()
    with torch.inference_mode():
        model[4] = nn.Linear(12, 2)
    before = state_bytes(model)
    with pytest.raises(ModelError, match=r"4\.weight: made in inference mode .*4\.bias: made in"):
        clipq.load_into(model, net)
    assert state_bytes(model) == before
    with torch.inference_mode():
        clipq.load_into(model, net)
    assert torch.equal(model[4].weight, net.layers[1].weights())


def test_layers_without_weights_are_searched_and_stored() -> None:
    model = nn.Sequential(nn.Linear(6, 0), nn.Linear(0, 2))
    search = clipq.SearchConfig(evaluations=2)
    net = clipq.compress(model, loader(), metric, search=search, train=SHORT).net
    assert [layer.shape for layer in net.layers] == [(0, 6), (2, 0)]


def test_the_error_of_what_has_no_parameters() -> None:
    assert clipq.top1_error(nn.Flatten(), [(torch.eye(3), torch.tensor([0, 1, 0]))]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": None}, "path: expected a str or PathLike, got None"),
        ({"path": "net.clipq", "conventions": "x"}, "conventions: expected a Conventions, got 'x'"),
    ],
)
def test_options_of_another_type_are_refused_when_saving(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"save: {message}"):
        clipq.save(clipq.QuantizedNet(()), **options)


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(ModelError, match="inference_mode"):
        clipq.compress(classifier(), loader(), None, settings=ALL)


# Files


@pytest.fixture(scope="module")
def net() -> clipq.QuantizedNet:
    return clipq.compress(classifier(), loader(), None, settings=ALL, train=TrainConfig(epochs=0)).net


def test_codes_and_levels_come_out_of_a_file_without_a_model(net: clipq.QuantizedNet, tmp_path: Path) -> None:
    clipq.save(net, tmp_path / "net.clipq", "fixed")
    layer = clipq.load(tmp_path / "net.clipq").layers[0]
    assert (layer.name, layer.b, layer.shape) == ("0.weight", 3, (12, 6))
    assert layer.codes.dtype == np.uint8 and layer.codes.max() <= 7
    weights = np.concatenate([[0], layer.levels]).astype(np.float32)[layer.codes]
    assert np.array_equal(weights, net.state_dict()["0.weight"].numpy())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_file_may_be_given_as_its_bytes(net: clipq.QuantizedNet, tmp_path: Path, kind: type) -> None:
    clipq.save(net, tmp_path / "net.clipq")
    source = kind((tmp_path / "net.clipq").read_bytes())
    assert np.array_equal(clipq.load(source).layers[0].codes, net.layers[0].codes)
    assert torch.equal(clipq.load_into(classifier(3), source)[0].weight, net.state_dict()["0.weight"])


def test_what_is_neither_a_path_nor_bytes_is_no_file(net: clipq.QuantizedNet) -> None:
    for source, kind in ((3, "int"), (None, "NoneType"), (net, "QuantizedNet")):
        with pytest.raises(SettingError, match=f"expected a path or bytes, got {kind}"):
            clipq.load(source)  # type: ignore[arg-type]


def test_a_net_that_does_not_fit_names_every_entry_and_loads_nothing(net: clipq.QuantizedNet) -> None:
    model = nn.Sequential(nn.Linear(5, 12), nn.Linear(12, 12))
    before = state_bytes(model)
    with pytest.raises(ModelError) as caught:
        clipq.load_into(model, net)
    for expected in (
        "0.weight: (12, 6) in the file, (12, 5) in the network",
        "1.weight: (12,) in the file, (12, 12) in the network",
        "unexpected in the file: 1.running_mean", "unexpected in the file: 4.weight",
        "unexpected in the file: 4.bias",
    ):  # fmt: skip
        assert expected in str(caught.value)
    assert state_bytes(model) == before
    with pytest.raises(ModelError, match=r"missing in the file: 5\.weight; missing in the file: 5\.bias$"):
        clipq.load_into(nn.Sequential(*classifier(), nn.Linear(2, 2)), net)


def test_a_network_with_an_expanded_buffer_is_compressed_but_nothing_is_loaded_into_it() -> None:
    def make() -> nn.Module:
        model = classifier()
        model.register_buffer("mask", torch.ones(1, 4).expand(3, 4))
        return model

    result = clipq.compress(make(), loader(), metric, settings=ALL, train=SHORT)
    fresh = make()
    before = state_bytes(fresh)
    with pytest.raises(ModelError, match=r"do not fit: mask: an expanded view in the network"):
        clipq.load_into(fresh, result.net)
    assert state_bytes(fresh) == before
    fresh.mask = fresh.mask.clone()
    clipq.load_into(fresh, result.net)


def test_what_compress_gives_is_no_network_itself(tmp_path: Path) -> None:
    model = classifier()
    result = clipq.compress(model, loader(), None, settings=ALL, train=TrainConfig(epochs=0))
    before = state_bytes(model)
    for use in (lambda: clipq.save(result, tmp_path / "net.clipq"), lambda: clipq.load_into(model, result)):  # type: ignore[arg-type, type-var]
        with pytest.raises(SettingError, match=r"expected a QuantizedNet, got Compressed: give its \.net"):
            use()
    with pytest.raises(SettingError, match="expected a QuantizedNet, got dict"):
        clipq.load_into(model, result.net.state_dict())  # type: ignore[arg-type]
    assert state_bytes(model) == before and not list(tmp_path.iterdir())


def test_loading_into_lazy_and_meta_networks(net: clipq.QuantizedNet) -> None:
    made_lazily = nn.Sequential(nn.LazyLinear(12), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Dropout(), nn.LazyLinear(2))
    clipq.load_into(made_lazily, net)
    x = data().tensors[0]
    assert torch.equal(made_lazily.eval()(x), clipq.load_into(classifier(4), net).eval()(x))
    with pytest.raises(ModelError, match="meta"):
        clipq.load_into(classifier().to("meta"), net)


def test_untied_weights_are_not_loaded_into_a_network_that_ties_them() -> None:
    untied, model = Tied(), Tied()
    untied.head.weight = nn.Parameter(torch.randn_like(untied.head.weight))
    x, y = data().tensors
    net = clipq.compress(untied, [(x, y)], None, settings=ALL, train=TrainConfig(epochs=0)).net
    before = state_bytes(model)
    with pytest.raises(ModelError, match=r"weight and .*weight: one tensor in the network, two in the file"):
        clipq.load_into(model, net)
    assert state_bytes(model) == before


def test_untied_weights_of_the_same_bits_are_loaded_into_a_network_that_ties_them() -> None:
    untied, model = Tied(), Tied()
    for network, tensor in ((untied, torch.full((3,), float("nan"))), (model, torch.zeros(3))):
        network.one = nn.Parameter(tensor)
        network.other = network.one
    untied.other = nn.Parameter(untied.one.detach().clone())
    net = clipq.compress(untied, [], None, settings=ALL, train=TrainConfig(epochs=0)).net
    clipq.load_into(model, net)
    assert model.one is model.other
    assert bool(model.one.isnan().all())


def test_tied_weights_may_be_loaded_into_a_network_without_ties() -> None:
    model = Tied()
    result = clipq.compress(model, loader(), None, settings=ALL, train=SHORT)
    assert dict(result.net.aliases) == {"embedding.weight": "head.weight"}
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.zeros(2, 6))
    clipq.load_into(untied, result.net)
    assert torch.equal(untied.head.weight, model.head.weight)
    assert torch.equal(untied.embedding.weight, model.head.weight)


def test_files_that_are_none(tmp_path: Path, net: clipq.QuantizedNet) -> None:
    (tmp_path / "text").write_text("not a network")
    with pytest.raises(ClipqFormatError):
        clipq.load(tmp_path / "text")
    with pytest.raises(ClipqFormatError):
        clipq.load_into(classifier(), tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        clipq.load(tmp_path / "nothing")
    with pytest.raises(SettingError, match="coder"):
        clipq.save(net, tmp_path / "net.clipq", "zip")  # type: ignore[arg-type]
    assert not (tmp_path / "net.clipq").exists()


# The package


def test_public_names_hide_no_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(clipq.__path__)}
    assert not modules & set(clipq.__all__)
    assert all(hasattr(clipq, name) for name in clipq.__all__)
    assert issubclass(ClipqError, ValueError)


def test_importing_the_package_is_light() -> None:
    heavy = ("matplotlib", "bayes_opt", "sklearn", "safetensors", "clipq.data", "clipq.networks", "torch._dynamo")
    code = f"import clipq, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_guides_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), namespace)
    assert (tmp_path / "net.clipq").exists()
