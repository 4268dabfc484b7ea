"""Writes a compressed network where the file gives it back: a fault of the encoder must not cost anybody weights."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch

from clipq.atomic_file import write_bytes
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.encode_sparse_quantized_net_v2 import EncodedNet
from clipq.errors import ClipqFormatError, WriteError
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.tensor_bytes import tensor_to_bytes

_Entry = QuantizedLayer | torch.Tensor | str


def write_verified(net: QuantizedNet, encoded: EncodedNet, path: str | os.PathLike[str]) -> int:
    """Writes the file of ``net`` atomically, once its bytes were decoded to the same weights; gives its size in bytes.

    Raises:
        WriteError: it cannot be written, or is not ``net``'s; what was there before is unchanged.
    """
    data = encoded.to_bytes()
    try:
        faults = [name or "''" for name in differences(net, decode_sparse_quantized_net_v2(data))]
    except ClipqFormatError as error:
        faults = [str(error)]
    if faults:
        raise WriteError(
            f"{path}: not written, as it would not give the same network again, a fault of clipq's "
            f"({', '.join(faults)}); the coder fixed may do"
        )
    return write_bytes(path, data)


def differences(a: QuantizedNet, b: QuantizedNet) -> Iterator[str]:
    """The names of entries that are not the same in both, in every bit of their weights."""
    one, other = _entries(a), _entries(b)
    for name in {**one, **other}:
        if name not in one or name not in other or not _same(one[name], other[name]):
            yield name


def _entries(net: QuantizedNet) -> dict[str, _Entry]:
    """Layers, tensors and, for aliases, the names that they stand for."""
    return {**{layer.name: layer for layer in net.layers}, **net.tensors, **net.aliases}


def _same(a: _Entry, b: _Entry) -> bool:
    if isinstance(a, QuantizedLayer) and isinstance(b, QuantizedLayer):
        alike = (a.b, a.dtype, a.shape) == (b.b, b.dtype, b.shape) and np.array_equal(a.codes, b.codes)
        return alike and _used_levels(a) == _used_levels(b)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and tensor_to_bytes(a) == tensor_to_bytes(b)
    return isinstance(a, str) and a == b


def _used_levels(layer: QuantizedLayer) -> bytes:
    used = np.bincount(layer.codes.reshape(-1), minlength=2**layer.b)[1:] > 0
    return layer.levels[used].tobytes()
