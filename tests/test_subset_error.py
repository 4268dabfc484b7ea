"""Reusing activations gives the error of whole runs, for every layer and whatever the network's shape."""

import pytest
import torch
from torch import nn

from clipq.layers import compressible_layers
from clipq.networks import build_network
from clipq.subset_error import SubsetError
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


def test_large_batches_are_measured_in_parts():
    g = torch.Generator().manual_seed(5)
    model, batches = (
        Residual(),
        [(torch.randn(n, 6, generator=g), torch.randint(4, (n,), generator=g)) for n in (600, 7)],
    )
    sizes = []
    model.last.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    error = SubsetError(batches).from_layer(model, compressible_layers(model)[1])
    assert error() == top1_error(model, batches)
    assert sizes == [250, 250, 100, 7, 600, 7]


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
