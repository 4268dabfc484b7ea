"""Reads networks compressed by Deep Compression (Han et al., ICLR 2016), such as its SqueezeNet release.

The file has no header, so the layers' names and shapes must be known; those of SqueezeNet v1.0 are given.  All numbers
are little endian:

* a uint32 for each layer, the number of its stored entries;
* then for each layer: the codebook (2^b float32, of which the first is 0), the biases (float32), the codes (b bits
  each) and the gaps (4 bits each), the lower half of a byte first.

An entry's position is the sum of gap + 1 over the entries so far, less 1.  Entries with code 0 bridge gaps that are too
wide: their own is 15, and another entry follows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clipq.bit_stream import packed_size, unpack_bits
from clipq.byte_reader import ByteReader, TrailingBytesError
from clipq.quantized_net import QuantizedLayer, QuantizedNet

_GAP_BITS = 4
_WIDEST_GAP = 2**_GAP_BITS - 1


@dataclass(frozen=True)
class StoredLayer:
    """A layer of the file: ``name``, the weight's ``shape`` (outputs first), and ``b``, the bits of a code: 8 or 4."""

    name: str
    shape: tuple[int, ...]
    b: int = 8


def _squeezenet() -> tuple[StoredLayer, ...]:
    layers, channels = [StoredLayer("conv1", (96, 3, 7, 7))], 96
    for fire, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        expanded = 4 * squeezed
        layers.append(StoredLayer(f"fire{fire}/squeeze1x1", (squeezed, channels, 1, 1)))
        layers.append(StoredLayer(f"fire{fire}/expand1x1", (expanded, squeezed, 1, 1)))
        layers.append(StoredLayer(f"fire{fire}/expand3x3", (expanded, squeezed, 3, 3)))
        channels = 2 * expanded
    return (*layers, StoredLayer("conv10", (1000, channels, 1, 1)))


SQUEEZENET = _squeezenet()


def read_deep_compression(
    source: str | os.PathLike[str] | bytes, layers: Sequence[StoredLayer] = SQUEEZENET
) -> QuantizedNet:
    """The network in a file's path or bytes: layers ``<name>.weight``, tensors ``<name>.bias``.

    Codes are renumbered so that levels ascend; an entry whose level is 0 is a pruned weight.

    Raises:
        ClipqFormatError: TruncatedError, TrailingBytesError or InvalidValueError, with layer and offset.
        OSError: the file cannot be read.
    """
    data = memoryview(source if isinstance(source, bytes) else Path(source).read_bytes())
    counts_reader = ByteReader(data, "counts of entries", 0, len(data))
    counts = [counts_reader.u32(f"entries of {layer.name}") for layer in layers]
    offset = counts_reader.offset
    quantized, biases = [], {}
    for layer, n_entries in zip(layers, counts, strict=True):
        reader = ByteReader(data, f"layer {layer.name}", offset, len(data))
        weight, bias = _read_layer(reader, layer, n_entries)
        quantized.append(weight)
        biases[f"{layer.name}.bias"] = bias
        offset = reader.offset
    if offset < len(data):
        raise TrailingBytesError("end of the file", offset, f"{len(data) - offset} bytes after the last layer")
    return QuantizedNet(tuple(quantized), biases)


def _read_layer(reader: ByteReader, layer: StoredLayer, n_entries: int) -> tuple[QuantizedLayer, torch.Tensor]:
    codebook = _floats(reader, 2**layer.b, "codebook")
    if codebook[0] != 0:
        reader.invalid(f"codebook: expected 0 as its first number, got {codebook[0]}")
    bias = _floats(reader, layer.shape[0], "biases")
    entries = _integers(reader, layer.b, n_entries, "codes")
    gaps = _integers(reader, _GAP_BITS, n_entries, "gaps")
    wrong = np.flatnonzero((entries == 0) & (gaps != _WIDEST_GAP))
    if len(wrong):
        at = wrong[0]
        reader.invalid(f"gaps: expected {_WIDEST_GAP} at entry {at}, whose code is 0, got {gaps[at]}")
    if n_entries and entries[-1] == 0:
        reader.invalid("codes: expected a weight as the last entry, got code 0")
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    n = math.prod(layer.shape)
    if n_entries and positions[-1] >= n:
        reader.invalid(f"gaps: expected positions below {n}, got {int(positions[-1])}")
    order = np.argsort(codebook[1:], kind="stable")
    renumbered = np.zeros(2**layer.b, np.uint8)
    renumbered[1 + order] = np.arange(1, 2**layer.b)
    renumbered[codebook == 0] = 0
    codes = np.zeros(n, np.uint8)
    codes[positions] = renumbered[entries]
    name = f"{layer.name}.weight"
    weight = QuantizedLayer(name, layer.b, codes.reshape(layer.shape), codebook[1:][order])
    return weight, torch.from_numpy(bias)


def _floats(reader: ByteReader, n: int, what: str) -> np.ndarray:
    return np.frombuffer(reader.take(4 * n, what), "<f4").astype(np.float32)


def _integers(reader: ByteReader, width: int, n: int, what: str) -> np.ndarray:
    data = reader.take(packed_size(n, width), what)
    try:
        return unpack_bits(data, width, n)
    except ValueError as fault:
        reader.invalid(f"{what}: {fault}")
