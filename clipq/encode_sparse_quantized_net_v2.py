"""Network -> streams -> file.  Mirrors ``encode_sparse_quantized_net_v2.m``.

The coder ``fixed`` is the "standard sparse encoding scheme" of the paper, section 3 (as secondary sources give it):
relative index with filler zeros, b-bit codes and a float32 codebook for each layer.  docs/format.md defines the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from clipq.bit_stream import pack_bits, varint
from clipq.bits import Coder, choose_index_bits, least_fixed_bytes, padding_size
from clipq.byte_reader import CRC_SIZE
from clipq.clipq_file import Directory, LayerEntry, TensorEntry, crc, pack_directory
from clipq.conventions import Conventions
from clipq.entropy.entropy_coder import encode_entropy
from clipq.entropy.pattern_coder import MOST_SYMBOLS
from clipq.entropy.tensor_coder import pack_tensor
from clipq.errors import SettingError
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.relative_index import RelativeIndex, relative_index
from clipq.tensor_bytes import tensor_to_bytes, type_name


@dataclass(frozen=True, eq=False)
class EncodedLayer:
    """One layer's section of the file.

    section: its bytes, without the CRC.
    parts: bytes of each part of the section, the CRC included; they sum to ``n_bytes``.
    streams: relative index and codes, for the coder ``fixed``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    b: int
    levels: np.ndarray
    coder: str
    section: bytes
    parts: Mapping[str, int]
    streams: RelativeIndex | None

    @property
    def n_bytes(self) -> int:
        return len(self.section) + CRC_SIZE

    @property
    def index_bits(self) -> int | None:
        """Width of the relative index; None for a coder that has none."""
        return self.streams.index_bits if self.streams else None

    @property
    def gaps(self) -> np.ndarray | None:
        """uint32 [n_entries]; None for a coder that has no relative index."""
        return self.streams.gaps if self.streams else None

    @property
    def codes(self) -> np.ndarray | None:
        """uint8 [n_entries], 0 for fillers; None for a coder that has no relative index."""
        return self.streams.codes if self.streams else None

    @property
    def n_fillers(self) -> int:
        return self.streams.n_fillers if self.streams else 0


@dataclass(frozen=True, eq=False)
class EncodedNet:
    """A compressed network as it goes to a file."""

    layers: tuple[EncodedLayer, ...]
    tensors: Mapping[str, torch.Tensor]
    aliases: Mapping[str, str]
    tensors_coder: str
    tensors_section: bytes

    def directory(self) -> bytes:
        """The file's directory, its CRC included."""
        layers = [LayerEntry(x.name, x.dtype, x.b, x.shape, x.coder, len(x.section)) for x in self.layers]
        tensors = [TensorEntry(name, type_name(name, t), tuple(t.shape)) for name, t in self.tensors.items()]
        return pack_directory(
            Directory(tuple(layers), tuple(tensors), len(self.tensors_section), self.tensors_coder, self.aliases)
        )

    def to_bytes(self) -> bytes:
        """The whole file."""
        sections = [layer.section for layer in self.layers] + ([self.tensors_section] if self.tensors else [])
        return self.directory() + b"".join(part for section in sections for part in (section, crc(section)))

    def sizes(self) -> list[tuple[str, str, int]]:
        """Bytes of each (section, part): they sum to the file's size.

        Sections are ``directory``, ``layer <name>`` and ``tensors``.
        """
        sizes = [("directory", "directory", len(self.directory()))]
        sizes += [(f"layer {x.name}", part, size) for x in self.layers for part, size in x.parts.items()]
        if self.tensors:
            sizes += [("tensors", "tensors", len(self.tensors_section)), ("tensors", "checksum", CRC_SIZE)]
        return sizes


def encode_sparse_quantized_net_v2(
    net: QuantizedNet, coder: Coder = "fixed", conventions: Conventions | None = None
) -> EncodedNet:
    """Encodes every layer with ``coder``; ``best`` takes the one of fewest bytes for each layer.

    A08 (``conventions.index_bits``) is the width of the relative index.

    Raises:
        SettingError: an unknown coder, or a tensor of a type that the file cannot hold.
    """
    if coder not in get_args(Coder):
        raise SettingError(f"coder: expected one of {get_args(Coder)}, got {coder!r}")
    conventions = conventions or Conventions()
    for name, tensor in net.tensors.items():
        type_name(name, tensor)
    tensors_coder, tensors_section = _encode_tensors(net.tensors, coder)
    return EncodedNet(
        layers=tuple(_encode_layer(layer, coder, conventions) for layer in net.layers),
        tensors=dict(net.tensors),
        aliases=dict(net.aliases),
        tensors_coder=tensors_coder,
        tensors_section=tensors_section,
    )


def _encode_tensors(tensors: Mapping[str, torch.Tensor], coder: Coder) -> tuple[str, bytes]:
    """The coder of the tensors' section, ``raw`` or ``entropy``, and its bytes."""
    elements = [tensor_to_bytes(tensor) for tensor in tensors.values()]
    raw = b"".join(elements)
    if coder == "fixed":
        return "raw", raw
    names = [type_name(name, tensor) for name, tensor in tensors.items()]
    packed = b"".join(pack_tensor(data, name) for data, name in zip(elements, names, strict=True))
    packed += bytes(padding_size(sum(tensor.numel() for tensor in tensors.values()), len(packed)))
    return ("entropy", packed) if coder == "entropy" or len(packed) < len(raw) else ("raw", raw)


def _encode_layer(layer: QuantizedLayer, coder: Coder, conventions: Conventions) -> EncodedLayer:
    if coder == "fixed" or (coder == "best" and layer.codes.size > MOST_SYMBOLS):
        return _encode_fixed(layer, conventions)
    if coder == "entropy":
        return _encode_entropy(layer)
    modelled = _encode_entropy(layer)
    if modelled.n_bytes <= least_fixed_bytes(layer.codes, layer.b):
        return modelled
    return min(modelled, _encode_fixed(layer, conventions), key=lambda encoded: encoded.n_bytes)


def _encode_entropy(layer: QuantizedLayer) -> EncodedLayer:
    """The section of coder ``entropy``."""
    section = encode_entropy(layer)
    padding = padding_size(layer.codes.size, len(section.data))
    parts = {
        "header": len(section.header), "codebook": section.codebook, "codes": len(section.stream) - section.codebook,
        "padding": padding, "checksum": CRC_SIZE,
    }  # fmt: skip
    data = section.data + bytes(padding)
    return EncodedLayer(layer.name, layer.shape, layer.dtype, layer.b, layer.levels, "entropy", data, parts, None)


def _encode_fixed(layer: QuantizedLayer, conventions: Conventions) -> EncodedLayer:
    """The section of coder ``fixed``."""
    index_bits, parts = choose_index_bits(layer.codes, layer.b, conventions)
    streams = relative_index(layer.codes, index_bits)
    section = b"".join(
        [
            bytes([index_bits]),
            varint(streams.n_entries),
            layer.levels.astype("<f4").tobytes(),
            pack_bits(streams.gaps, index_bits),
            pack_bits(streams.codes, layer.b),
            bytes(parts["padding"]),
        ]
    )
    return EncodedLayer(layer.name, layer.shape, layer.dtype, layer.b, layer.levels, "fixed", section, parts, streams)
