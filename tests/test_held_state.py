import copy

import pytest
import torch
from torch import nn

from clipq.errors import ModelError
from clipq.held_state import check_alike, copy_of_held, held, put_back


class Counting(nn.Linear):
    """Extra state beside a parameter, and a cache outside the state dict."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.calls = 0
        self.register_buffer("cache", torch.zeros(3), persistent=False)

    def get_extra_state(self) -> int:
        return self.calls

    def set_extra_state(self, state: int) -> None:
        self.calls = state


def test_everything_is_put_back_whatever_became_of_it() -> None:
    model = nn.Sequential(Counting(), nn.BatchNorm1d(2))
    kept, expected = copy_of_held(model), copy.deepcopy(model)
    weight = model[0].weight
    with torch.no_grad():
        for tensor in held(model).values():
            if isinstance(tensor, torch.Tensor):
                tensor.add_(1)
    model[0].calls, model[0].cache = 7, torch.ones(5)
    model[0].register_buffer("new", torch.ones(2))
    put_back(model, kept)
    assert model[0].calls == 0 and model[0].weight is weight
    assert model[0].new.tolist() == [1, 1]
    for name, tensor in [*expected.named_parameters(), *expected.named_buffers()]:
        assert torch.equal(held(model)[name], tensor), name


@pytest.mark.parametrize("make", [lambda: torch.arange(4.0).expand(3, 4), lambda: torch.arange(6.0).unfold(0, 3, 1)])
def test_numbers_that_stand_in_several_places_are_put_back(make) -> None:
    model = nn.Module()
    model.register_buffer("view", make())
    kept = copy_of_held(model)
    model.view[0] += 1
    put_back(model, kept)
    assert torch.equal(model.view, make())
    assert model.view.stride() == make().stride()


def test_a_sparse_buffer_is_put_back() -> None:
    model = nn.Module()
    model.register_buffer("edges", torch.eye(3).to_sparse(), persistent=False)
    kept = copy_of_held(model)
    model.edges.mul_(2)
    put_back(model, kept)
    assert torch.equal(model.edges.to_dense(), torch.eye(3))


def test_what_another_network_held_is_refused_by_name() -> None:
    own, other = nn.Linear(2, 2), nn.Linear(3, 2)
    other.register_buffer("mask", torch.ones(1))
    with pytest.raises(ModelError, match=r"of another shape: weight, mask$"):
        check_alike(own, held(other))
    check_alike(own, held(nn.Linear(2, 2)))
