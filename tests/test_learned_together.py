"""On an accelerator a pass through the network learns all layers at once, and never from weights of before.

The accelerator's way, on the CPU's tensors.
"""

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from clipq import weight_sharing
from clipq.conventions import Conventions
from clipq.layers import compressible_layers
from clipq.learning import learned_together
from clipq.learning.learned_together import LearnedTogether
from clipq.quantized_net import LayerSetting
from clipq.weight_sharing import SharedWeights, WeightSharing, share_weights
from clipq.ws_learn_one_layer import learn

X = torch.linspace(-1, 1, 24).sin().view(4, 6)


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many layers were learned together, each time."""
    sizes: list[int] = []

    def counted(weights: list[torch.Tensor], *rest: object) -> object:
        sizes.append(len(weights))
        return learn_together(weights, *rest)

    learn_together = learned_together.learn_together
    monkeypatch.setattr(weight_sharing, "_on_accelerator", lambda W: True)
    monkeypatch.setattr(learned_together, "learn_together", counted)
    yield sizes


class Net(nn.Module):
    """Four layers in two halves; ``tied`` is the first one's weight again."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.second = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def shared(model: nn.Module) -> SharedWeights:
    layers = compressible_layers(model)
    return share_weights(layers, {layer.name: LayerSetting(0.5, 2 + i % 3) for i, layer in enumerate(layers)})


def assert_up_to_date(model: nn.Module) -> None:
    """Every layer's weight is what its full-precision weights and its setting give now."""
    found = 0
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            original, sharing = module.parametrizations.weight.original, module.parametrizations.weight[0]
            theta = sharing.setting
            expected = learn(original.detach(), theta)
            assert torch.equal(module.weight, expected.quantized) and torch.equal(sharing.codes, expected.codes)
            found += 1
    assert found


def assert_codes_are_those_of_the_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            assert torch.equal(module[0].codes, learn(module.original.detach(), module[0].setting).codes)


def originals(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.endswith("original")]


def test_a_step_learns_all_layers_once(batches: list[int]) -> None:
    model = Net()
    shared(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    batches.clear()
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    assert batches == [4, 4, 4]
    assert_up_to_date(model)


def test_as_they_are_shared_the_first_layer_is_learned_with_all_others(batches: list[int]) -> None:
    """And each is looked at by PyTorch a few times, whatever the number of layers."""
    with shared(Net()):
        assert batches[0] == 4 and sum(batches) <= 3 * 4


def test_forward_passes_without_a_step_between_them_also_do(batches: list[int]) -> None:
    model = Net()
    shared(model)
    batches.clear()
    for _ in range(3):
        model(X).square().sum().backward()
    with torch.no_grad():
        model.eval()(X)
    assert batches == [4] * 4


def test_cached_weights_are_learned_once(batches: list[int]) -> None:
    model = Net()
    shared(model)
    batches.clear()
    with parametrize.cached():
        for _ in range(3):
            model(X)
    assert batches == [4]


@pytest.mark.parametrize("reentrant", [True, False])
def test_activations_may_be_computed_again_in_the_backward_pass(batches: list[int], reentrant: bool) -> None:
    model, plain = Net(), Net()
    shared(model), shared(plain)
    x = X.clone().requires_grad_()
    batches.clear()
    y = checkpoint(model.first, x, use_reentrant=reentrant)
    checkpoint(model.second, y, use_reentrant=reentrant).sum().backward()
    assert sum(batches) <= (12 if reentrant else 8), "a pass each; where the part is a backward pass of its own, each"
    plain(X).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_layer_that_is_used_twice_is_learned_twice_and_the_others_once(batches: list[int]) -> None:
    model = Net()
    shared(model)
    batches.clear()
    model.first(model.first(X))
    assert sum(batches) <= 4 + 2


CHANGES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda W: W.mul_(0.3).add_(0.01),
    "through .data": lambda W: W.data.mul_(0.3).add_(0.01),
    "other memory": lambda W: setattr(W, "data", W.data * 0.3 + 0.01),
    "one weight": lambda W: W.view(-1)[0].fill_(3.0),
    "another type": lambda W: setattr(W, "data", W.data.double()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_may_be_changed_by_hand(change: Callable[[nn.Parameter], object]) -> None:
    model = Net()
    shared(model)
    model(X)
    with torch.no_grad():
        for W in originals(model)[1:]:
            change(W)
    assert_up_to_date(model)


@pytest.mark.parametrize("change", [c for name, c in CHANGES.items() if name != "through .data"])
def test_also_where_only_some_layers_have_been_used(change: Callable[[nn.Parameter], object]) -> None:
    model = Net()
    shared(model)
    model(X)
    model.first(X)
    with torch.no_grad():
        for W in originals(model):
            change(W)
    assert_up_to_date(model)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("used", ["first", "second"])
def test_an_optimizer_may_write_to_the_data_in_passes_through_parts_of_the_network(used: str, measured: bool) -> None:
    """With a pass without gradients in between, or none."""
    model = Net()
    shared(model)
    for part in (model.first, model.second, getattr(model, used)):
        part(torch.ones(2, 6)).sum().backward()
        for W in originals(model):
            W.data.mul_(0.9).add_(0.01)
    if measured:
        with torch.no_grad():
            model(X)
        for W in originals(model):
            W.data.mul_(0.9)
    model(X)
    assert_codes_are_those_of_the_weights(model)


def test_settings_may_change_between_two_passes(batches: list[int]) -> None:
    model = Net()
    by_layer = shared(model).by_layer
    for p, b in ((0.9, 2), (0.0, 5)):
        for sharing in by_layer.values():
            sharing.setting = LayerSetting(p, b)
        assert_up_to_date(model)


def test_a_copy_of_the_network_has_its_own_weights(batches: list[int]) -> None:
    model = Net()
    shared(model)
    twin, half = copy.deepcopy(model), copy.deepcopy(model.second)
    with torch.no_grad():
        for W in originals(twin) + originals(half):
            W.mul_(-0.7)
    for network in (model, twin, half):
        assert_up_to_date(network)
    for network, x, n in ((twin, X, 4), (half, torch.ones(1, 6), 2)):
        network(x).sum().backward()
        batches.clear()
        network(x)
        assert batches == [n], "it, too, learns all at once"


def test_a_parametrization_can_be_pickled() -> None:
    model = Net()
    sharing = next(iter(shared(model).by_layer.values()))
    again = pickle.loads(pickle.dumps(sharing))
    W = torch.linspace(-1, 1, 50)
    assert torch.equal(again(W), sharing(W))


def test_a_tied_weight_and_layers_of_several_types_of_numbers() -> None:
    model = Net()
    model.first[2].weight = model.first[0].weight
    model.second.bfloat16()
    shared(model)
    assert_up_to_date(model)
    model.second(model.first(X).bfloat16()).sum().backward()
    assert all(W.grad is not None for W in originals(model))
    model.float()
    assert_up_to_date(model)
    model(X).sum().backward()


def test_weights_in_another_order_of_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last)
    shared(model)
    assert_up_to_date(model)


def test_after_the_weights_are_shared_no_more_nothing_is_held() -> None:
    model = Net()
    weights = shared(model)
    model.first(X)
    weights.remove()
    together = next(iter(weights.by_layer.values()))._together
    assert not len(together._weights) and not len(together._results)


def test_a_parametrization_that_is_gone_is_forgotten() -> None:
    together = LearnedTogether(Conventions())
    WeightSharing("a", LayerSetting(0.5, 2), together)(torch.ones(3))
    assert not len(together._weights)
