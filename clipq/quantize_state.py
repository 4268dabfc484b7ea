"""Pruning-quantization of a bare state dict, without a network: for weights that are compressed as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch

from clipq.conventions import Conventions
from clipq.errors import ModelError
from clipq.name_patterns import Patterns
from clipq.quantized_net import DTYPE_NAMES, WEIGHT_DTYPES, LayerSetting, QuantizedNet
from clipq.ties import warn_of_ties
from clipq.ws_learn_one_layer import quantized_layer

State = Mapping[str, torch.Tensor]

SHOWN = 5  # tensors at most that an error lists


def choose_settings(
    state: State,
    setting: LayerSetting | None,
    given: Mapping[str, LayerSetting],
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> dict[str, LayerSetting]:
    """Which tensors are compressed, with which (p, b): name -> setting, in the order of ``state``.

    setting: of all floating-point tensors of two or more dimensions that match ``include`` and not ``exclude``; None:
        of none.
    given: name, with or without its ``.weight`` -> the setting of that tensor, whatever the patterns say.
    include, exclude: shell patterns on the name, or on that of the module that has the tensor (``clipq.layers``).

    Raises:
        ModelError: a name or a pattern that matches nothing, a tensor that is not of a floating type that can be
            compressed, two settings for one tensor, or nothing to compress.
    """
    first = _first_names(state)
    candidates = [n for n in first.values() if state[n].ndim >= 2 and state[n].dtype in DTYPE_NAMES]
    if setting is not None and not candidates and not given:
        raise ModelError(
            "no tensor to compress: expected a floating type with two or more dimensions, got " + _listed(state)
        )
    taken_by, left_by = Patterns(include), Patterns(exclude)
    for pattern in (*taken_by.unmatched(candidates), *left_by.unmatched(candidates)):
        if pattern != "*":
            raise ModelError(f"pattern {pattern!r} matches nothing; tensors to compress: {', '.join(candidates)}")
    chosen = {}
    if setting is not None:
        chosen = {n: setting for n in candidates if taken_by.match(n) and not left_by.match(n)}
    named: dict[str, str] = {}
    for name, theta in given.items():
        full = _full_name(state, name, first)
        if full in named:
            raise ModelError(f"tensor {full}: expected one setting, got two, for {named[full]} and {name}")
        named[full], chosen[full] = name, theta
    if not chosen:
        raise ModelError(f"no tensor to compress among {', '.join(candidates) or _listed(state)}")
    return {name: chosen[name] for name in state if name in chosen}


def quantize_state(
    state: State,
    settings: Mapping[str, LayerSetting],
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
) -> QuantizedNet:
    """The compressed network of ``state``: tensors with a setting pruned and quantized, all others kept exactly.

    Names that share one tensor's memory stay shared.

    Raises:
        WeightError: NaN or Inf among weights to compress; names the tensor.
    """
    first = _first_names(state)
    warn_of_ties(((name, state[name]) for name in settings), conventions)
    layers = tuple(quantized_layer(name, state[name], theta, conventions) for name, theta in settings.items())
    tensors = {name: state[name] for name in first.values() if name not in settings}
    names = {name: first[_memory(name, tensor)] for name, tensor in state.items()}
    aliases = {name: own for name, own in names.items() if name != own}
    return QuantizedNet(layers, tensors, aliases)


def _first_names(state: State) -> dict[tuple, str]:
    """Each tensor's first name, by its memory, in the order of ``state``."""
    first: dict[tuple, str] = {}
    for name, tensor in state.items():
        first.setdefault(_memory(name, tensor), name)
    return first


def _memory(name: str, tensor: torch.Tensor) -> tuple:
    """What tensors have in common that are one and the same; empty ones have no memory and are all different."""
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else (name,)


def _listed(state: State) -> str:
    """The first tensors with their types and shapes."""
    some = [f"{n} ({str(t.dtype).removeprefix('torch.')} {list(t.shape)})" for n, t in islice(state.items(), SHOWN)]
    return ", ".join([*some, f"{len(state) - SHOWN} more"] if len(state) > SHOWN else some) or "no tensor"


def _full_name(state: State, name: str, first: Mapping[tuple, str]) -> str:
    """The name under which the tensor ``name`` or ``name.weight`` is stored; ``first``: ``_first_names``."""
    full = next((n for n in (name, f"{name}.weight") if n in state), None)
    if full is None:
        raise ModelError(f"no tensor {name!r}; there are: {', '.join(state)}")
    tensor = state[full]
    if tensor.dtype not in DTYPE_NAMES:
        raise ModelError(f"tensor {full}: expected one of {', '.join(WEIGHT_DTYPES)}, got {tensor.dtype}")
    return first[_memory(full, tensor)]
