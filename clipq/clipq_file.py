"""The container of a ``.clipq`` file: directory, sections and their CRCs, as docs/format.md defines them.

What the sections hold is not this module's matter: ``encode_sparse_quantized_net_v2`` fills them and
``decode_sparse_quantized_net_v2`` reads them.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from clipq.bit_stream import varint
from clipq.byte_reader import (
    CRC_SIZE,
    ByteReader,
    ChecksumError,
    MagicError,
    TrailingBytesError,
    TruncatedError,
    VersionError,
    check_element_count,
)
from clipq.errors import SettingError
from clipq.quantized_net import B_MAX, B_MIN
from clipq.tensor_bytes import TYPE_NAMES

MAGIC = b"CLIPQ"
VERSION = 1
LAYER_CODERS = ("fixed", "entropy")
TENSOR_CODERS = ("raw", "entropy")
MAX_NAME_BYTES = 1024
#: What the first name is given by its difference from.
FIRST_NAME = b".weight"
_LAYER_TYPES = TYPE_NAMES[:4]


@dataclass(frozen=True)
class LayerEntry:
    """What the directory says of a layer; ``length`` is that of its section in bytes, without the CRC."""

    name: str
    dtype: str
    b: int
    shape: tuple[int, ...]
    coder: str
    length: int


@dataclass(frozen=True)
class TensorEntry:
    """What the directory says of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Directory:
    """The directory of a file; ``aliases`` maps a further name to the name of the layer or tensor it stands for."""

    layers: tuple[LayerEntry, ...]
    tensors: tuple[TensorEntry, ...]
    tensors_length: int
    tensors_coder: str
    aliases: Mapping[str, str]

    def names(self) -> list[str]:
        """The names of layers and tensors, in the order in which aliases count them."""
        return [layer.name for layer in self.layers] + [tensor.name for tensor in self.tensors]


@dataclass(frozen=True, eq=False)
class Container:
    """An opened file: its directory, and a checked reader for each section."""

    directory: Directory
    directory_size: int
    data: memoryview

    def layer_section(self, i: int) -> ByteReader:
        """A reader of layer i's section.

        Raises:
            ChecksumError: its bytes are not those that were written.
        """
        entry = self.directory.layers[i]
        return _checked(self.data, f"layer {entry.name}", self._starts[i], entry.length)

    def tensors_section(self) -> ByteReader:
        """A reader of the tensors' section, which must be there; raises as ``layer_section`` does."""
        return _checked(self.data, "tensors", self._starts[-1], self.directory.tensors_length)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each layer's section starts, and where the last one ends."""
        lengths = (entry.length + CRC_SIZE for entry in self.directory.layers)
        return list(accumulate(lengths, initial=self.directory_size))


def crc(data: bytes | memoryview) -> bytes:
    """The CRC-32 as it stands in the file."""
    return zlib.crc32(data).to_bytes(CRC_SIZE, "little")


def pack_directory(directory: Directory) -> bytes:
    """The directory's bytes, from the magic to its CRC.

    Raises:
        SettingError: a name that the file cannot hold.
    """
    order = directory.names()
    names = _packed_names([*order, *directory.aliases])
    out = [varint(len(directory.layers))]
    for layer in directory.layers:
        kind = layer.b | _LAYER_TYPES.index(layer.dtype) << 4 | LAYER_CODERS.index(layer.coder) << 6
        out += [next(names), bytes([kind]), _packed_shape(layer.shape), varint(layer.length)]
    out.append(varint(len(directory.tensors)))
    for tensor in directory.tensors:
        out += [next(names), bytes([TYPE_NAMES.index(tensor.dtype)]), _packed_shape(tensor.shape)]
    if directory.tensors:
        out += [varint(directory.tensors_length), bytes([TENSOR_CODERS.index(directory.tensors_coder)])]
    out.append(varint(len(directory.aliases)))
    place = {name: i for i, name in enumerate(order)}
    for target in directory.aliases.values():
        out += [next(names), varint(place[target])]
    entries = b"".join(out)
    head = MAGIC + bytes([VERSION]) + varint(len(entries)) + entries
    return head + crc(head)


def open_container(data: bytes | memoryview) -> Container:
    """Reads the directory and checks that the file has exactly the sections that it announces.

    Raises:
        ClipqFormatError: one of its subclasses in ``clipq.byte_reader``, with section and offset.
    """
    data = memoryview(data)
    head = ByteReader(data, "directory", 0, len(data))
    magic = bytes(data[: len(MAGIC)])
    if magic != MAGIC[: len(magic)]:
        raise MagicError("directory", 0, f"expected a .clipq file to start with {MAGIC!r}, got {magic!r}")
    head.take(len(MAGIC), "magic")
    version = head.u8("version")
    if version != VERSION:
        raise VersionError("directory", len(MAGIC), f"expected format version {VERSION}, got {version}")
    length = head.varint("length of the directory")
    reader = ByteReader(data, "directory", head.offset, head.offset + len(head.take(length, "entries")))
    _check_crc(data, "directory", 0, head.offset)
    directory = _read_entries(reader)
    _check_length(directory, head.offset + CRC_SIZE, len(data))
    return Container(directory, head.offset + CRC_SIZE, data)


def name_bytes(name: str) -> bytes:
    """A name as it stands in the file.

    Raises:
        SettingError: it is too long, or cannot be written as UTF-8.
    """
    try:
        text = name.encode()
    except (AttributeError, UnicodeEncodeError) as fault:
        raise SettingError(f"name {name!r:.40}: expected a text that UTF-8 can hold") from fault
    if len(text) > MAX_NAME_BYTES:
        raise SettingError(f"{name[:40]}...: expected a name of at most {MAX_NAME_BYTES} bytes, got {len(text)}")
    return text


def _packed_names(names: Sequence[str]) -> Iterator[bytes]:
    """Each name as its difference from the one before."""
    before = FIRST_NAME
    for name in names:
        text = name_bytes(name)
        prefix = _shared(before, text)
        suffix = _shared(before[prefix:][::-1], text[prefix:][::-1])
        middle = text[prefix : len(text) - suffix]
        yield varint(prefix) + varint(suffix) + varint(len(middle)) + middle
        before = text


def _shared(a: bytes, b: bytes) -> int:
    """How many bytes from the start two texts share."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _packed_shape(shape: tuple[int, ...]) -> bytes:
    return b"".join(varint(value) for value in (len(shape), *shape))


class _Names:
    """Reads names, each of which is given by its difference from the one before."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader, self._before, self._seen = reader, FIRST_NAME, set[str]()

    def read(self) -> str:
        reader, before = self._reader, self._before
        prefix, suffix = reader.varint("name: prefix"), reader.varint("name: suffix")
        if prefix + suffix > len(before):
            reader.invalid(f"name: expected a prefix and suffix within the {len(before)} bytes of the one before")
        middle = bytes(reader.take(reader.varint("name: length"), "name"))
        text = before[:prefix] + middle + before[len(before) - suffix :]
        if len(text) > MAX_NAME_BYTES:
            reader.invalid(f"name: expected at most {MAX_NAME_BYTES} bytes, got {len(text)}")
        try:
            name = text.decode()
        except UnicodeDecodeError:
            reader.invalid(f"name: expected UTF-8, got {text!r}")
        if name in self._seen:
            reader.invalid(f"name: expected every name once, got {name!r} again")
        self._before = text
        self._seen.add(name)
        return name


def _read_entries(reader: ByteReader) -> Directory:
    names = _Names(reader)
    layers = tuple(_read_layer(reader, names.read()) for _ in range(reader.varint("number of layers")))
    n_tensors = reader.varint("number of tensors")
    tensors = []
    for _ in range(n_tensors):
        name = names.read()
        dtype = _choice(reader, f"tensor {name}: type", TYPE_NAMES, reader.u8(f"tensor {name}: type"))
        tensors.append(TensorEntry(name, dtype, reader.shape(f"tensor {name}: shape")))
    length, coder = 0, "raw"
    if tensors:
        length = reader.varint("tensors: length")
        coder = _choice(reader, "tensors: coder", TENSOR_CODERS, reader.u8("tensors: coder"))
        check_element_count(sum(math.prod(t.shape) for t in tensors), length, "tensors", reader.offset)
    directory = Directory(layers, tuple(tensors), length, coder, {})
    order, aliases = directory.names(), {}
    for _ in range(reader.varint("number of aliases")):
        name = names.read()
        aliases[name] = _choice(reader, f"alias {name}", order, reader.varint(f"alias {name}"))
    reader.finish()
    return replace(directory, aliases=aliases)


def _read_layer(reader: ByteReader, name: str) -> LayerEntry:
    what = f"layer {name}"
    kind = reader.u8(f"{what}: kind")
    b, dtype = kind & 15, _LAYER_TYPES[kind >> 4 & 3]
    if not B_MIN <= b <= B_MAX:
        reader.invalid(f"{what}: expected b from {B_MIN} to {B_MAX}, got {b}")
    coder = _choice(reader, f"{what}: coder", LAYER_CODERS, kind >> 6)
    shape = reader.shape(f"{what}: shape")
    length = reader.varint(f"{what}: length")
    check_element_count(math.prod(shape), length, what, reader.offset)
    return LayerEntry(name, dtype, b, shape, coder, length)


def _choice(reader: ByteReader, what: str, options: Sequence[str], code: int) -> str:
    if code >= len(options):
        reader.invalid(f"{what}: expected a code below {len(options)}, got {code}")
    return options[code]


def _check_length(directory: Directory, start: int, n_bytes: int) -> None:
    """Raises if the file's sections do not end exactly where the file does."""
    sections = [(f"layer {entry.name}", entry.length) for entry in directory.layers]
    sections += [("tensors", directory.tensors_length)] if directory.tensors else []
    for section, length in sections:
        if start + length + CRC_SIZE > n_bytes:
            raise TruncatedError(
                section, start, f"expected {length + CRC_SIZE} bytes, {n_bytes - start} are left of the file"
            )
        start += length + CRC_SIZE
    if start < n_bytes:
        raise TrailingBytesError("end of the file", start, f"{n_bytes - start} bytes after the last section")


def _checked(data: memoryview, section: str, start: int, length: int) -> ByteReader:
    _check_crc(data, section, start, start + length)
    return ByteReader(data, section, start, start + length)


def _check_crc(data: memoryview, section: str, start: int, stop: int) -> None:
    expected = ByteReader(data, section, stop, len(data)).take(CRC_SIZE, "CRC")
    if crc(data[start:stop]) != expected:
        raise ChecksumError(
            section, stop, f"expected the CRC {bytes(expected).hex()}, got {crc(data[start:stop]).hex()}"
        )
