"""The bytes of a tensor of any type, and back: coder ``raw`` of docs/format.md."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from clipq.errors import SettingError

#: The names of the types a tensor may have; the place in the list is the type's code in the file.
TYPE_NAMES = (
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool",
    "uint16", "uint32", "uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
_TYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in TYPE_NAMES}


def type_name(name: str, tensor: torch.Tensor) -> str:
    """The name of the tensor's type.

    Raises:
        SettingError: no tensor, a type or layout that the file cannot hold, or elements that are elsewhere, as those of
            a sharded tensor; names the tensor.
    """
    if not isinstance(tensor, torch.Tensor):
        raise SettingError(f"tensor {name}: expected a tensor, got {type(tensor).__name__}, which the file cannot hold")
    if is_traceable_wrapper_subclass(tensor):
        raise SettingError(
            f"tensor {name}: expected a plain tensor with all of its elements, got one of the class "
            f"{type(tensor).__name__}"
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _TYPES:
        raise SettingError(f"tensor {name}: expected one of the types {', '.join(TYPE_NAMES)}, got {dtype}")
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        raise SettingError(
            f"tensor {name}: expected a dense tensor with values, got {tensor.layout} on {tensor.device}"
        )
    return dtype


def element_size(dtype: str) -> int:
    """Bytes of an element."""
    return _TYPES[dtype].itemsize


def tensor_to_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in C order, little endian."""
    # not contiguous(), which leaves strides of 0 as they are
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype, device="cpu")
    plain.view(tensor.shape).copy_(tensor.detach())
    native = plain.view(torch.uint8).numpy().view(_word(str(tensor.dtype).removeprefix("torch.")))
    return native.astype(native.dtype.newbyteorder("<"), copy=False).tobytes()


def tensor_from_bytes(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A new CPU tensor with the elements that ``tensor_to_bytes`` gave.

    Raises:
        ValueError: a bool that is neither 0 nor 1, or another number of bytes than the shape needs.
    """
    if len(data) != math.prod(shape) * element_size(dtype):
        raise ValueError(f"expected {math.prod(shape) * element_size(dtype)} bytes, got {len(data)}")
    words = np.frombuffer(data, _word(dtype).newbyteorder("<"))
    if dtype == "bool" and words.size and words.max() > 1:
        raise ValueError(f"expected a bool to be 0 or 1, got {int(words.max())}")
    native = words.astype(_word(dtype))  # a copy of its own: tensors can be written to
    return torch.from_numpy(native.view(np.uint8)).view(_TYPES[dtype]).reshape(shape)


def _word(dtype: str) -> np.dtype:
    """The unsigned integer that is stored: a real number, or one of a complex number's two."""
    size = element_size(dtype)
    return np.dtype(f"u{size // 2 if dtype.startswith('complex') else size}")
