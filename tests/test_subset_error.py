"""Reusing activations gives the error of whole runs, for every layer and whatever the network's shape."""

import pytest
import torch
from torch import nn

from clipq import subset_error
from clipq.errors import SettingError
from clipq.layers import compressible_layers
from clipq.networks import build_network
from clipq.subset_error import SubsetError
from clipq.tracing import to_trace
from clipq.training import top1_error


class Residual(nn.Module):
    """A skip connection, a layer used twice, and a value that is needed far behind the layer that made it."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(12, 4)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return self.last(torch.cat([h + self.twice(torch.relu(self.twice(h))), x], dim=1))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Layers(nn.Module):
    """Three layers, and in subclasses a forward pass that tracing may take for another one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("mean", torch.zeros(16))
        self.seen = []


class Remembers(Layers):
    def forward(self, x):
        h = self.a(x).relu()
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        self.seen.append(h)
        self.last = h
        return self.c(self.b(h).relu())


class MakesATable(Layers):
    """Which it keeps from its first use on."""

    table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.linspace(0.5, 1, 16)
            self.mean = torch.zeros(16)
        return self.c(self.b(self.a(x) * self.table + self.mean).relu())


class AddsInPlace(Layers):
    def forward(self, x):
        h = self.a(x)
        h.add_(self.b(h))
        return self.c(h.relu())


class ChangesItsInput(Layers):
    def forward(self, x):
        return self.c(self.b(self.a(x.div_(2).sub_(0.5))).relu())


class AsksForTensors(Layers):
    def forward(self, x):
        x = (x - 1) * 3 if isinstance(x, torch.Tensor) else x
        return self.c(self.b(self.a(x).relu()).relu())


class HasDefaults(Layers):
    def forward(self, x, scale=None, flip=True):
        h = self.b(self.a(x).relu())
        h = h if scale is None else h * scale
        return self.c((-h if flip else h).relu())


class HidesItsWeights(Layers):
    def forward(self, x):
        weight, bias = (p * 1 for p in self.a.parameters())
        return self.c(self.b(nn.functional.linear(x, weight, bias).relu()).relu())


class LooksAround(Layers):
    """A sample's output depends on the others of its batch."""

    def forward(self, x):
        h = self.b(self.a(x).relu())
        return self.c((h - h.mean(0)).relu())


def hooked():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    model.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))
    return model


def made_batches(shape, n_classes):
    g = torch.Generator().manual_seed(3)
    return [(torch.randn(40, *shape, generator=g), torch.randint(n_classes, (40,), generator=g)) for _ in range(3)]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Residual(), (6,)),
        (Untraceable(), (6,)),
        (build_network("lenet5", n_classes=10, input_shape=(1, 28, 28)), (1, 28, 28)),
        (nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 4)), (6,)),
    ],
)
def test_reused_activations_give_the_whole_networks_error(model, shape):
    torch.manual_seed(0)
    batches = made_batches(shape, 4)
    measure = SubsetError(batches)
    for layer in compressible_layers(model):
        error = measure.from_layer(model, layer)
        for _ in range(2):
            with torch.no_grad():
                layer.weight.copy_(torch.randn_like(layer.weight))
            assert error() == top1_error(model, batches)


@pytest.mark.parametrize(
    "model",
    [
        Remembers(),
        AddsInPlace(),
        ChangesItsInput(),
        AsksForTensors(),
        HasDefaults(),
        HidesItsWeights(),
        LooksAround(),
        MakesATable(),
        hooked(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_tracing_does_not_see_counts_too(model):
    x, y = torch.randn(600, 6) + torch.linspace(-2, 2, 600)[:, None], torch.randint(4, (600,))
    model.eval()(x.clone())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for layer in compressible_layers(model):
        error = SubsetError([(x.clone(), y)]).from_layer(model, layer)
        assert torch.equal(layer.weight, state[layer.name])
        with torch.no_grad():
            layer.weight.neg_()
        changed = top1_error(model, [(x.clone(), y)])
        measured = [error(), error()] if not isinstance(model, ChangesItsInput) else [error()]
        assert measured == [changed] * len(measured)
        with torch.no_grad():
            layer.weight.neg_()


def test_a_network_in_training_mode_is_measured_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model[1].running_mean.normal_()
    before, batches = {name: value.clone() for name, value in model.state_dict().items()}, made_batches((6,), 4)
    for layer in compressible_layers(model):
        error = SubsetError(batches).from_layer(model.train(), layer)
        model.train()
        assert error() == top1_error(model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_is_not_touched_by_tracing():
    model = Remembers()
    SubsetError(made_batches((6,), 4)).from_layer(model, compressible_layers(model)[1])
    assert all(type(h) is torch.Tensor for h in [model.mean, getattr(model, "last", model.mean), *model.seen])


def test_what_a_network_makes_at_its_first_use_can_be_trained_with():
    model, batches = MakesATable().eval(), made_batches((6,), 4)
    assert SubsetError(batches).from_layer(model, compressible_layers(model)[0])() == top1_error(model, batches)
    assert not model.table.is_inference() and not model.mean.is_inference()
    model(batches[0][0]).sum().backward()


def test_optional_arguments_do_not_keep_activations_from_being_reused():
    model = HasDefaults()
    calls = []
    model.a.register_forward_hook(lambda *_: calls.append("a"))
    error = SubsetError(made_batches((6,), 4)).from_layer(model, compressible_layers(model)[1])
    calls.clear()
    error()
    assert not calls


def test_each_of_many_labels_of_a_sample_counts():
    model = nn.Sequential(nn.Conv1d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 1))
    batches = [(torch.randn(9, 6, 10), torch.randint(4, (9, 10)))]
    wrong = model(batches[0][0]).argmax(1) != batches[0][1]
    for layer in compressible_layers(model):
        assert SubsetError(batches).from_layer(model, layer)() == pytest.approx(float(wrong.float().mean()))


@pytest.mark.parametrize(
    ("batches", "given"), [([], "list of none"), ((b for b in made_batches((6,), 4)), "got generator")]
)
def test_batches_that_cannot_be_gone_through_again_are_refused(batches, given):
    with pytest.raises(SettingError, match=f"SubsetError: expected a sequence .*{given}"):
        SubsetError(batches)


def test_large_batches_are_measured_in_parts():
    g = torch.Generator().manual_seed(5)
    model, batches = (
        Residual(),
        [(torch.randn(n, 6, generator=g), torch.randint(4, (n,), generator=g)) for n in (1100, 7)],
    )
    sizes = []
    model.last.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    error = SubsetError(batches).from_layer(model, compressible_layers(model)[1])
    sizes.clear()
    assert error() == top1_error(model, batches)
    assert sizes == [500, 500, 100, 7, 1100, 7]


def test_batches_are_cut_only_where_samples_do_not_depend_on_each_other():
    """Though the first batch is not cut."""
    torch.manual_seed(0)
    model, x, y = LooksAround().eval(), torch.randn(1200, 6), torch.randint(4, (1200,))
    x[700:] += 2
    batches = [(x[:200], y[:200]), (x[200:], y[200:])]
    for layer in compressible_layers(model):
        assert SubsetError(batches).from_layer(model, layer)() == top1_error(model, batches)


class AddsLittleInPlace(Layers):
    def forward(self, x):
        h = self.a(x)
        h.add_(1e-4 * self.b(h.relu()))
        return self.c(h.relu())


def test_kept_values_that_change_by_little_each_time_are_not_kept():
    torch.manual_seed(0)
    model, x, y = AddsLittleInPlace().eval(), torch.randn(3000, 6), torch.randint(4, (3000,))
    error = SubsetError([(x, y)]).from_layer(model, compressible_layers(model)[1])
    assert {error() for _ in range(200)} == {top1_error(model, [(x, y)])}


def test_a_layer_that_needs_too_much_memory_is_measured_with_whole_runs():
    model, batches = Residual(), made_batches((6,), 4)
    layer = compressible_layers(model)[2]
    error = SubsetError(batches, max_bytes=10).from_layer(model, layer)
    with torch.no_grad():
        model.first.weight.neg_()  # reused activations would not see this
        layer.weight.normal_()
    assert error() == top1_error(model, batches)


def test_only_the_rest_of_the_network_runs_again():
    model = Residual()
    calls = []
    model.first.register_forward_hook(lambda *_: calls.append("first"))
    error = SubsetError(made_batches((6,), 4)).from_layer(model, compressible_layers(model)[1])
    calls.clear()
    error()
    assert not calls


def test_a_network_is_traced_once_for_all_its_layers_and_anew_when_it_is_another(monkeypatch: pytest.MonkeyPatch):
    traced = []
    monkeypatch.setattr(subset_error, "to_trace", lambda model: traced.append(model) or to_trace(model))
    model, batches = Residual(), made_batches((6,), 4)
    error = SubsetError(batches)
    for layer in compressible_layers(model):
        assert error.from_layer(model, layer)() == top1_error(model, batches)
    assert traced == [model]
    model.last = nn.Linear(model.last.in_features, model.last.out_features)
    for layer in compressible_layers(model):
        assert error.from_layer(model, layer)() == top1_error(model, batches)
    assert traced == [model, model]
