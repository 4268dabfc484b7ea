"""File -> streams -> network.  Mirrors ``decode_sparse_quantized_net_v2.m``; never imports the encoder.

Reads ``.clipq`` files (docs/format.md) and the ``.mat`` struct of the same streams (``clipq.matlab_net``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clipq.bit_stream import packed_size, unpack_bits
from clipq.byte_reader import CRC_SIZE, MAX_ELEMENTS_PER_BYTE, ByteReader
from clipq.clipq_file import Container, LayerEntry, open_container
from clipq.entropy.entropy_coder import decode_entropy
from clipq.entropy.tensor_coder import read_tensor
from clipq.errors import SettingError
from clipq.mat_format import is_matlab
from clipq.matlab_net import read_mat
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.relative_index import MAX_INDEX_BITS, RelativeIndex, expand
from clipq.tensor_bytes import element_size, tensor_from_bytes

Source = str | os.PathLike[str] | bytes | bytearray | memoryview
SOURCES = (str, os.PathLike, bytes, bytearray, memoryview)


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a file.  ``n_bytes``: its section with the CRC; ``index_bits``: None for a coder without."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    b: int
    coder: str
    n_bytes: int
    n_kept: int
    n_fillers: int
    index_bits: int | None


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that is stored exactly.  ``n_bytes``: of its elements in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    n_bytes: int


@dataclass(frozen=True)
class NetInfo:
    """What is in a ``.clipq`` file; directory, layers' and tensors' sections sum to ``n_bytes``, the file's size."""

    n_bytes: int
    directory_bytes: int
    layers: tuple[LayerInfo, ...]
    tensors: tuple[TensorInfo, ...]
    tensors_coder: str
    tensors_bytes: int
    aliases: Mapping[str, str]


def decode_sparse_quantized_net_v2(source: Source) -> QuantizedNet:
    """The network in a file's path or bytes: ``.clipq``, or ``.mat`` as the contents tell.

    Raises:
        SettingError: neither a path nor bytes.
        ClipqFormatError: a subclass of it (``clipq.byte_reader``, ``clipq.matlab_net``) that says what is wrong where.
        OSError: the file cannot be read.
    """
    data = _contents(source)
    if is_matlab(data):
        return read_mat(data)
    container = open_container(data)
    layers = [_decode_layer(container, i) for i in range(len(container.directory.layers))]
    return QuantizedNet(tuple(layers), _decode_tensors(container), dict(container.directory.aliases))


def inspect(source: Source) -> NetInfo:
    """What is in a ``.clipq`` file, without its weights; raises as ``decode_sparse_quantized_net_v2`` does."""
    data = _contents(source)
    container = open_container(data)
    directory = container.directory
    if directory.tensors:
        container.tensors_section()  # for its CRC
    tensors = [
        TensorInfo(t.name, t.shape, t.dtype, math.prod(t.shape) * element_size(t.dtype)) for t in directory.tensors
    ]
    return NetInfo(
        n_bytes=len(data),
        directory_bytes=container.directory_size,
        layers=tuple(_layer_info(container, i) for i in range(len(directory.layers))),
        tensors=tuple(tensors),
        tensors_coder=directory.tensors_coder,
        tensors_bytes=directory.tensors_length + CRC_SIZE if tensors else 0,
        aliases=dict(directory.aliases),
    )


def _contents(source: Source) -> bytes:
    if not isinstance(source, SOURCES):
        raise SettingError(f"compressed network: expected a path or bytes, got {type(source).__name__}")
    return Path(source).read_bytes() if isinstance(source, (str, os.PathLike)) else bytes(source)


def _decode_layer(container: Container, i: int) -> QuantizedLayer:
    entry, reader = container.directory.layers[i], container.layer_section(i)
    if entry.coder == "entropy":
        levels, codes = decode_entropy(reader, entry.shape, entry.b)
        _finish(reader, math.prod(entry.shape), entry.length)
    else:
        levels, streams = _read_fixed(reader, entry)
        try:
            codes = expand(streams, math.prod(entry.shape)).reshape(entry.shape)
        except ValueError as fault:
            reader.invalid(str(fault))
    return QuantizedLayer(entry.name, entry.b, codes, levels, entry.dtype)


def _layer_info(container: Container, i: int) -> LayerInfo:
    entry = container.directory.layers[i]
    if entry.coder == "entropy":  # its kept weights are known only once it is decoded
        n_kept, n_fillers, index_bits = _decode_layer(container, i).n_kept, 0, None
    else:
        _, streams = _read_fixed(container.layer_section(i), entry)
        n_kept, n_fillers, index_bits = streams.n_entries - streams.n_fillers, streams.n_fillers, streams.index_bits
    return LayerInfo(
        name=entry.name,
        shape=entry.shape,
        dtype=entry.dtype,
        b=entry.b,
        coder=entry.coder,
        n_bytes=entry.length + CRC_SIZE,
        n_kept=n_kept,
        n_fillers=n_fillers,
        index_bits=index_bits,
    )


def _read_fixed(reader: ByteReader, entry: LayerEntry) -> tuple[np.ndarray, RelativeIndex]:
    """The codebook and the streams of a section of coder ``fixed``; nothing allocated is larger than the section."""
    index_bits = reader.u8("index_bits")
    if index_bits > MAX_INDEX_BITS:
        reader.invalid(f"index_bits: expected at most {MAX_INDEX_BITS}, got {index_bits}")
    n_entries = reader.varint("n_entries")
    levels = np.frombuffer(reader.take(4 * (2**entry.b - 1), "levels"), "<f4").astype(np.float32)
    packed = [reader.take(packed_size(n_entries, w), what) for w, what in ((index_bits, "gaps"), (entry.b, "codes"))]
    _finish(reader, math.prod(entry.shape), entry.length)
    try:
        gaps = unpack_bits(packed[0], index_bits, n_entries).astype(np.uint32, copy=False)
        codes = unpack_bits(packed[1], entry.b, n_entries)
    except ValueError as fault:
        reader.invalid(str(fault))
    return levels, RelativeIndex(index_bits, gaps, codes)


def _finish(reader: ByteReader, n_elements: int, length: int) -> None:
    """Checks that nothing is left of a section but the padding that the bound on sizes asks for."""
    if length == -(-n_elements // MAX_ELEMENTS_PER_BYTE):
        reader.padding()
    reader.finish()


def _decode_tensors(container: Container) -> dict[str, torch.Tensor]:
    entries = container.directory.tensors
    if not entries:
        return {}
    reader = container.tensors_section()
    tensors: dict[str, torch.Tensor] = {}
    for entry in entries:
        if container.directory.tensors_coder == "entropy":
            data: bytes | memoryview = read_tensor(reader, entry.dtype, entry.shape)
        else:
            data = reader.take(math.prod(entry.shape) * element_size(entry.dtype), f"tensor {entry.name}")
        try:
            tensors[entry.name] = tensor_from_bytes(data, entry.dtype, entry.shape)
        except ValueError as fault:
            reader.invalid(f"tensor {entry.name}: {fault}")
    n_elements = sum(math.prod(entry.shape) for entry in entries)
    _finish(reader, n_elements, container.directory.tensors_length)
    return tensors
