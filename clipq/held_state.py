"""All that a network holds, also what its state dict leaves out: by name, compared, and put back in place.

Under the names of the state dict, a shared (tied) tensor under its first one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn

from clipq.errors import ModelError


def held(model: nn.Module) -> dict[str, Any]:
    """Parameters, buffers, also non-persistent ones, and what else modules keep (extra state): the network's own."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    extra = {name: module.get_extra_state() for name, module in _with_extra_state(model).items()}
    return {name: tensor.detach() for name, tensor in tensors} | extra


def copy_of_held(model: nn.Module) -> dict[str, Any]:
    """What ``held`` gives, in memory of its own."""
    values = held(model).items()
    return {name: v.clone() if isinstance(v, torch.Tensor) else copy.deepcopy(v) for name, v in values}


@torch.no_grad()
def put_back(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Gives the network what it once held.  What it did not hold then stays; a tensor that has grown is as it was."""
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name not in values:
            continue
        if tensor.shape == values[name].shape:
            _write(tensor, values[name])
        else:
            tensor.data = values[name].to(tensor.device)
    for name, module in _with_extra_state(model).items():
        if name in values:
            module.set_extra_state(values[name])


def check_alike(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Raises ModelError where a network like ``model`` cannot have held these values; names what differs."""
    own = held(model)
    differing = [name for name in {**own, **values} if _kind(own, name) != _kind(values, name)]
    if differing:
        raise ModelError(f"missing, unexpected or of another shape: {', '.join(differing)}")


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether several elements stand in one place of the memory, as ``torch.Tensor.expand`` makes them."""
    return tensor.layout == torch.strided and 0 in _strides(tensor)


def _write(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Copies values of the tensor's shape into it; of an expanded one into each place once."""
    if is_expanded(tensor):
        places = tuple(slice(1) if stride == 0 else slice(None) for stride in _strides(tensor))
        tensor, values = tensor[places], values[places]
    tensor.copy_(values)


def _strides(tensor: torch.Tensor) -> list[int]:
    """In elements; 1 along dimensions of one element or none, where they mean nothing."""
    return [stride if size > 1 else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]


def _kind(values: Mapping[str, Any], name: str) -> Any:
    return getattr(values[name], "shape", "no tensor") if name in values else "missing"


def _with_extra_state(model: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{name}._extra_state".lstrip("."): module
        for name, module in model.named_modules()
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }
