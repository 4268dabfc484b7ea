"""The encoded network as a MATLAB struct in a ``.mat`` file, both ways: the streams of the coder ``fixed``.

The variable ``net`` is a 1x1 struct with the fields

======== ==========================================================================================================
format   ``'clipq'``
version  1
layers   1xL struct array: ``name``; ``shape`` (1xrank double); ``dtype``; ``b``; ``index_bits``; ``n_weights``;
         ``gaps`` (n_entries x 1 uint32), ``codes`` (n_entries x 1 uint8, 0 for a filler) and ``levels``
         ((2^b - 1) x 1 single), as docs/format.md defines them
tensors  1xT struct array: ``name``; ``shape``; ``dtype``; ``value`` (n x 1, C order).  Types that MATLAB's core lacks
         (float16, bfloat16, float8) are stored as the unsigned integers of their bits
aliases  1xA struct array: ``name``, ``target``
======== ==========================================================================================================

In MATLAB, ``w = zeros(n_weights, 1, 'single'); w(cumsum(double(gaps) + 1)) = [0; levels](codes + 1)`` (in two steps)
are a layer's weights in C order, and ``permute(reshape(w, [flip(shape) 1]), [rank:-1:1 rank+1])`` has the shape that
Python gives.
"""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np
import scipy.io
import torch

from clipq.atomic_file import write_bytes
from clipq.bits import choose_index_bits
from clipq.conventions import Conventions
from clipq.errors import ClipqError, ClipqFormatError, SettingError
from clipq.mat_elements import read_variables
from clipq.mat_format import MAT5, other_format
from clipq.quantized_net import LayerSetting, QuantizedLayer, QuantizedNet
from clipq.relative_index import MAX_INDEX_BITS, RelativeIndex, expand, relative_index
from clipq.tensor_bytes import TYPE_NAMES, element_size, tensor_from_bytes, tensor_to_bytes, type_name

VERSION = 1
MAX_WEIGHTS = 2**32
#: A layer has at most this many weights for each byte of the file, so that a small file cannot ask for much memory.
MAX_WEIGHTS_PER_BYTE = 1 << 16
_BITS_ONLY = ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_LAYER_FIELDS = ("name", "shape", "dtype", "b", "index_bits", "n_weights", "gaps", "codes", "levels")
_TENSOR_FIELDS = ("name", "shape", "dtype", "value")
_ALIAS_FIELDS = ("name", "target")


class MatlabStructError(ClipqFormatError):
    """A ``.mat`` file that cannot be read, or that lacks the struct of an encoded network; names the field."""


def write_mat(net: QuantizedNet, path: str | os.PathLike[str], conventions: Conventions | None = None) -> int:
    """Writes the struct ``net`` atomically, in the format of MATLAB's ``save -v7``; gives the size in bytes.

    A08 (``conventions.index_bits``) is the width of the relative index.

    Raises:
        SettingError: a tensor of a type that the file cannot hold, or a name with a NUL in it, where text may end.
        WriteError: it cannot be written; what was there before is unchanged.
    """
    for name in (*(layer.name for layer in net.layers), *net.tensors, *net.aliases):
        if "\0" in name:
            raise SettingError(f"name {name!r}: expected one without NUL, which a .mat file's text cannot hold")
    chosen = conventions or Conventions()
    struct = {
        "format": "clipq",
        "version": float(VERSION),
        "layers": _struct_array(_LAYER_FIELDS, [_layer_fields(layer, chosen) for layer in net.layers]),
        "tensors": _struct_array(_TENSOR_FIELDS, [_tensor_fields(name, t) for name, t in net.tensors.items()]),
        "aliases": _struct_array(_ALIAS_FIELDS, [{"name": n, "target": t} for n, t in net.aliases.items()]),
    }
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"net": struct}, do_compression=True, long_field_names=True)
    return write_bytes(path, buffer.getvalue())


def read_mat(data: bytes) -> QuantizedNet:
    """The network in the bytes of a ``.mat`` file, written by ``write_mat``, MATLAB or Octave (``save -v7``).

    Raises:
        MatlabStructError: another format of file, or a field that is missing or contradicts the others.
    """
    if not data.startswith(MAT5):
        got = other_format(data) or f"one that starts with {data[:19]!r}"
        raise MatlabStructError(f"expected a file of MATLAB's save -v7, got {got}")
    try:
        variables = read_variables(io.BytesIO(data), variable_names=["net"], chars_as_strings=True)
    except Exception as fault:  # scipy raises what its parser happens to hit
        raise MatlabStructError(f"the .mat file is damaged: {fault}") from fault
    if "net" not in variables:
        raise MatlabStructError("expected a variable net, got none")
    try:
        net = _Fields(variables["net"], "net")
        if net.text("format") != "clipq" or net.integer("version") != VERSION:
            raise MatlabStructError(f"net: expected format 'clipq', version {VERSION}")
        layers = tuple(_read_layer(fields, len(data)) for fields in net.array("layers"))
        tensors = {name: _read_tensor(fields) for name, fields in net.by_name("tensors").items()}
        aliases = {name: fields.text("target") for name, fields in net.by_name("aliases").items()}
        return QuantizedNet(layers, tensors, aliases)
    except ClipqFormatError:
        raise
    except ClipqError as fault:
        raise MatlabStructError(str(fault)) from fault


def _struct_array(names: tuple[str, ...], rows: list[dict[str, Any]]) -> np.ndarray:
    array = np.empty((1, len(rows)), [(name, object) for name in names])
    for i, row in enumerate(rows):
        array[0, i] = tuple(row[name] for name in names)
    return array


def _layer_fields(layer: QuantizedLayer, conventions: Conventions) -> dict[str, Any]:
    index_bits, _ = choose_index_bits(layer.codes, layer.b, conventions)
    streams = relative_index(layer.codes, index_bits)
    return {
        "name": layer.name,
        "shape": _row(layer.shape),
        "dtype": layer.dtype,
        "b": float(layer.b),
        "index_bits": float(index_bits),
        "n_weights": float(layer.codes.size),
        "gaps": streams.gaps[:, None],
        "codes": streams.codes[:, None],
        "levels": layer.levels[:, None],
    }


def _tensor_fields(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    dtype = type_name(name, tensor)
    value = np.frombuffer(tensor_to_bytes(tensor), _stored_type(dtype).newbyteorder("<"))
    value = value.astype(_stored_type(dtype))
    return {"name": name, "shape": _row(tuple(tensor.shape)), "dtype": dtype, "value": value[:, None]}


def _row(shape: tuple[int, ...]) -> np.ndarray:
    return np.array(shape, np.float64).reshape(1, -1)


def _stored_type(dtype: str) -> np.dtype:
    """The NumPy type whose MATLAB class holds the values of a tensor's type."""
    return np.dtype(f"u{element_size(dtype)}" if dtype in _BITS_ONLY else dtype)


class _Fields:
    """One element of a struct array, with typed and checked access to its fields."""

    def __init__(self, element: Any, where: str) -> None:
        array = np.asarray(element)
        if array.dtype.names is None or array.size != 1:
            raise MatlabStructError(f"{where}: expected a struct, got {array.dtype} of shape {array.shape}")
        self._record, self._names, self._where = array.reshape(-1)[0], array.dtype.names, where

    def raw(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise MatlabStructError(f"{self._where}: expected a field {name}, got {', '.join(self._names)}")
        return np.asarray(self._record[name])

    def text(self, name: str) -> str:
        value = self.raw(name)
        if value.dtype.kind != "U" or value.size > 1:
            raise MatlabStructError(f"{self._where}.{name}: expected text, got {value.dtype} of shape {value.shape}")
        return str(value.reshape(-1)[0]) if value.size else ""

    def array(self, name: str) -> list[_Fields]:
        elements = self.raw(name).reshape(-1)
        return [_Fields(elements[i : i + 1], f"{self._where}.{name}({i + 1})") for i in range(elements.size)]

    def by_name(self, name: str) -> dict[str, _Fields]:
        """The elements by their field ``name``, which must differ."""
        found: dict[str, _Fields] = {}
        for element in self.array(name):
            if (key := element.text("name")) in found:
                raise MatlabStructError(f"{self._where}.{name}: expected every name once, got {key!r} twice")
            found[key] = element
        return found

    def vector(self, name: str, dtype: str, limit: float = math.inf) -> np.ndarray:
        """The values as ``dtype``, which must hold them exactly, from 0 to below ``limit`` for integers."""
        value = self.raw(name).reshape(-1)
        kind = np.dtype(dtype)
        if value.dtype == kind:
            converted = value
        elif value.dtype.kind not in "biufc" or (value.dtype.kind == "c" and kind.kind != "c"):
            raise MatlabStructError(f"{self._where}.{name}: expected numbers, got {value.dtype}")
        else:
            with np.errstate(invalid="ignore", over="ignore"):
                converted = value.astype(kind)
            if not _same(converted, value):
                raise MatlabStructError(f"{self._where}.{name}: expected values of {dtype}, got others ({value.dtype})")
        if limit < math.inf and converted.size and not 0 <= int(converted.min()) <= int(converted.max()) < limit:
            raise MatlabStructError(f"{self._where}.{name}: expected values from 0 to below {limit}")
        return converted

    def integer(self, name: str, limit: int = MAX_WEIGHTS) -> int:
        value = self.vector(name, "int64", limit)
        if value.size != 1:
            raise MatlabStructError(f"{self._where}.{name}: expected one number, got {value.size}")
        return int(value[0])

    def shape(self, n: int | None = None) -> tuple[int, ...]:
        shape = tuple(int(size) for size in self.vector("shape", "int64", MAX_WEIGHTS))
        count = math.prod(shape)
        too_large = math.prod(max(size, 1) for size in shape) > MAX_WEIGHTS
        if len(shape) > 32 or too_large or (n is not None and count != n):
            raise MatlabStructError(
                f"{self._where}.shape: expected {n or f'at most {MAX_WEIGHTS}'} elements, got {shape}"
            )
        return shape


def _same(converted: np.ndarray, value: np.ndarray) -> bool:
    """Whether a conversion lost nothing.  NumPy compares integers with floats as floats, which are exact below 2^53."""
    if not np.array_equal(converted, value, equal_nan=value.dtype.kind in "fc"):
        return False
    if converted.dtype.kind not in "iu" and value.dtype.kind not in "iu":
        return True
    large = np.abs(value.real) >= 2.0**53
    pairs = zip(converted.real[large].tolist(), value.real[large].tolist(), strict=True)
    return all(int(new) == int(old) for new, old in pairs)


def _read_layer(fields: _Fields, n_bytes: int) -> QuantizedLayer:
    """A layer of a file of ``n_bytes`` bytes."""
    name, b, index_bits = fields.text("name"), fields.integer("b"), fields.integer("index_bits", MAX_INDEX_BITS + 1)
    try:
        LayerSetting(0.0, b)
    except SettingError as fault:
        raise MatlabStructError(f"layer {name}: {fault}") from fault
    n = fields.integer("n_weights", min(MAX_WEIGHTS, MAX_WEIGHTS_PER_BYTE * n_bytes) + 1)
    gaps, codes = fields.vector("gaps", "uint32", 2**index_bits), fields.vector("codes", "uint8", 2**b)
    if gaps.size != codes.size:
        raise MatlabStructError(f"layer {name}: expected as many gaps as codes, got {gaps.size} and {codes.size}")
    shape, levels = fields.shape(n), fields.vector("levels", "float32").copy()
    try:
        every = expand(RelativeIndex(index_bits, gaps, codes), n)
    except ValueError as fault:
        raise MatlabStructError(f"layer {name}: {fault}") from fault
    return QuantizedLayer(name, b, every.reshape(shape), levels, fields.text("dtype"))


def _read_tensor(fields: _Fields) -> torch.Tensor:
    name, dtype = fields.text("name"), fields.text("dtype")
    if dtype not in TYPE_NAMES:
        raise MatlabStructError(f"tensor {name}: expected one of the types {', '.join(TYPE_NAMES)}, got {dtype!r}")
    value, shape = fields.vector("value", _stored_type(dtype).name), fields.shape()
    try:
        return tensor_from_bytes(value.astype(value.dtype.newbyteorder("<")).tobytes(), dtype, shape)
    except ValueError as fault:
        raise MatlabStructError(f"tensor {name}: {fault}") from fault
