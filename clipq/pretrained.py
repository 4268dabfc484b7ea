"""Loads trained weights into a network: Caffe's ``.caffemodel``, PyTorch's ``.pt`` and ``.pth``, ``.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clipq.caffemodel import CaffeLayer, read_caffemodel
from clipq.errors import DataError

#: What a checkpoint of a training program may keep the state dict under.
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copies the file's weights into ``model``, by name; every parameter and buffer must be there, with its shape.

    Args:
        model: its state dict's names are those of the file; Caffe's ``<layer>`` blobs are ``<layer>.weight`` and
            ``<layer>.bias``, or ``.running_mean`` and ``.running_var`` for BatchNorm.
        path: ``.caffemodel``, ``.pt`` or ``.pth`` (a state dict, also inside a checkpoint), or ``.safetensors``.
            torchvision's names are known for the networks that have an attribute ``torchvision_names``.
            Entries that match a pattern (``*``, ``?``, ``[..]``) of its attribute ``ignored_weights`` it need not have.

    Raises:
        DataError: the file is missing or damaged, or does not fit; then every missing, unexpected and misshapen entry
            (and complex or quantized ones for real weights) is named, and the model is left as it was.
    """
    target = model.state_dict()
    renamed = getattr(model, "torchvision_names", {})
    state = {renamed.get(name, name): tensor for name, tensor in read_weights(path).items()}
    patterns = [*getattr(model, "ignored_weights", ()), "*.num_batches_tracked"]
    state = {n: t for n, t in state.items() if n in target or not any(fnmatchcase(n, p) for p in patterns)}
    if Path(path).suffix == ".caffemodel":
        state = {n: _legacy_shape(t, target[n].shape) if n in target else t for n, t in state.items()}
    problems = [
        _listed("missing", [n for n in target if n not in state and not n.endswith("num_batches_tracked")]),
        _listed("unexpected", [n for n in state if n not in target]),
        _listed(
            "misshapen",
            [
                f"{n} (expected {list(target[n].shape)}, got {list(t.shape)})"
                for n, t in state.items()
                if n in target and t.shape != target[n].shape
            ],
        ),
        _listed(
            "of another type",
            [
                f"{n} (expected {_name(target[n].dtype)}, got {_name(t.dtype)})"
                for n, t in state.items()
                if n in target and (t.is_quantized or t.is_complex()) and t.dtype != target[n].dtype
            ],
        ),
    ]
    if any(problems):
        raise DataError(f"{path}: does not fit {type(model).__name__}: " + "; ".join(p for p in problems if p))
    model.load_state_dict(state, strict=False)


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The file's tensors by the names that a PyTorch module would give them.

    Raises:
        DataError: the file is missing, damaged, or of a kind that is not known.
    """
    path = Path(path)
    readers = {
        ".caffemodel": _read_caffe,
        ".pt": _read_torch,
        ".pth": _read_torch,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise DataError(f"{path}: expected weights in a file ending in {', '.join(readers)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights")
    if not path.stat().st_size:
        raise DataError(f"{path}: expected weights, got an empty file")
    return readers[path.suffix](path)


def caffe_state_dict(layers: Sequence[CaffeLayer]) -> dict[str, torch.Tensor]:
    """Caffe's blobs by PyTorch's names.

    Blobs 0 and 1 of a layer are its ``weight`` and ``bias``, further ones ``blob2`` and so on.  BatchNorm's are sums
    and the factor to divide them by (0 where nothing was summed): ``running_mean`` and ``running_var``.

    Raises:
        DataError: two layers of one name, or BatchNorm without its three blobs.
    """
    state: dict[str, torch.Tensor] = {}
    for layer in layers:
        blobs = [torch.from_numpy(np.ascontiguousarray(blob)) for blob in layer.blobs]
        if layer.type == "BatchNorm":
            if len(blobs) != 3 or blobs[2].numel() != 1:
                raise DataError(f"layer {layer.name}: BatchNorm: expected blobs mean, variance and one factor")
            factor = blobs[2].item()
            scale = 1 / factor if factor else 0.0
            named = {"running_mean": blobs[0] * scale, "running_var": blobs[1] * scale}
        else:
            suffixes = ["weight", "bias", *(f"blob{i}" for i in range(2, len(blobs)))]
            named = dict(zip(suffixes, blobs, strict=False))
        for suffix, tensor in named.items():
            name = f"{layer.name}.{suffix}"
            if name in state:
                raise DataError(f"layer {layer.name}: expected one layer of that name with blobs, got two")
            state[name] = tensor
    return state


def _read_caffe(path: Path) -> dict[str, torch.Tensor]:
    layers = read_caffemodel(path)
    try:
        return caffe_state_dict(layers)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything on damaged bytes: IndexError, AssertionError ..
        raise DataError(f"{path}: cannot be read as a state dict of tensors: {_reason(error)}") from error
    for key in STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        got = "an empty one" if isinstance(content, Mapping) else type(content).__name__
        raise DataError(f"{path}: expected a state dict, got {got}")
    unnamed = [repr(name) for name in content if not isinstance(name, str)]
    if unnamed:
        raise DataError(f"{path}: expected a state dict of tensors by their names, got the keys {', '.join(unnamed)}")
    others = [f"{name} ({_kind(value)})" for name, value in content.items() if _kind(value) != "dense"]
    if others:
        raise DataError(f"{path}: expected a state dict of dense tensors, got other values under: {', '.join(others)}")
    return _without_wrapper(content)


def _reason(error: Exception) -> str:
    """What torch could not do with a file, without its advice to trust it."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        what = "a whole module" if found[1].startswith("torch.nn.") else f"an object of {found[1]}"
        return f"holds {what}; save model.state_dict() instead"
    if "TorchScript" in text:
        return "holds a TorchScript program; save model.state_dict() instead"
    if text.startswith("Weights only load failed"):
        return "damaged, or not written by torch.save"
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def _kind(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.is_meta:
        return "a meta tensor without values"
    if value.is_nested:
        return "a nested tensor"
    return "dense" if value.layout == torch.strided else _name(value.layout)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _without_wrapper(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read as safetensors: {error}") from error


def _without_wrapper(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the ``module.`` that DataParallel puts before every name."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: tensor for name, tensor in state.items()}


def _legacy_shape(blob: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Older Caffe files give every blob four dimensions: leading ones are no difference."""
    return blob.reshape(shape) if _core(blob.shape) == _core(shape) else blob


def _core(shape: Sequence[int]) -> tuple[int, ...]:
    start = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return tuple(shape[start:])


def _name(value: torch.dtype | torch.layout) -> str:
    return str(value).removeprefix("torch.")


def _listed(problem: str, names: list[str]) -> str:
    return f"{problem}: {', '.join(names)}" if names else ""
