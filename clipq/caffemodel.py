"""Reads Caffe's ``.caffemodel`` (protobuf ``NetParameter``) and ``.binaryproto`` (``BlobProto``, a mean image).

Only the fields that hold weights are read; all others are skipped by their wire type.  Both layer formats are known:
``layer`` (LayerParameter, field 100) and the older ``layers`` (V1LayerParameter, field 2).  Field numbers are those of
BVLC Caffe's ``caffe.proto``, the wire format that of protobuf's encoding guide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipq.errors import DataError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
#: Types of V1LayerParameter's enumeration that have blobs.
V1_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
#: How files begin that are none of Caffe's binary ones: with HDF5's signature, or with so many bytes of text.
HDF5, TEXT, TEXT_BYTES = b"\x89HDF\r\n\x1a\n", re.compile(rb"[\t\n\r -~]+"), 1000
UNPACKED_DATA = 5 << 3 | FIXED32  # the one-byte key of BlobProto's data, not packed
MAX_VARINT_BYTES = 10
MAX_DIMENSIONS = 32  # Caffe's kMaxBlobAxes
MAX_ELEMENTS = 2**31 - 1  # Caffe counts in int


@dataclass(frozen=True, eq=False)
class CaffeLayer:
    """A layer that has blobs.

    name, type: Caffe's, such as ``conv1`` and ``Convolution``; a V1 type without a name here is ``V1:<number>``.
    blobs: float32 (float64 where the file has doubles), C order; blob 0 is the weight, 1 the bias.
    """

    name: str
    type: str
    blobs: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class _Field:
    """One field of a message: its number and wire type; its payload is bytes ``start`` to ``end`` of the file."""

    number: int
    wire: int
    start: int
    end: int
    value: int = 0  # of a varint


class _Wire:
    """Protobuf's wire format over one file's bytes; every error names the file and the offset."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            self.data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        if self.data.startswith(HDF5):
            raise DataError(f"{path}: expected Caffe's binary protobuf, got an HDF5 file")
        if TEXT.fullmatch(self.data, 0, TEXT_BYTES):
            raise DataError(
                f"{path}: expected Caffe's binary protobuf, got text, such as a .prototxt, which has no weights"
            )

    def error(self, offset: int, message: str) -> DataError:
        return DataError(f"{self.path}: damaged at byte {offset}: {message}")

    def varint(self, offset: int, end: int) -> tuple[int, int]:
        """The unsigned integer at ``offset`` and the offset after it."""
        value = 0
        for i in range(MAX_VARINT_BYTES):
            if offset + i >= end:
                raise self.error(offset, "expected a varint, got the end of the message")
            byte = self.data[offset + i]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value & (1 << 64) - 1, offset + i + 1
        raise self.error(offset, f"expected a varint of at most {MAX_VARINT_BYTES} bytes, got a longer one")

    def fields(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of the message in bytes ``start`` to ``end``."""
        while start < end:
            key, after = self.varint(start, end)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise self.error(start, "expected a field number from 1, got 0")
            value = 0
            if wire == VARINT:
                value, stop = self.varint(after, end)
            elif wire == BYTES:
                size, after = self.varint(after, end)
                stop = after + size
            elif wire in (FIXED32, FIXED64):
                stop = after + (4 if wire == FIXED32 else 8)
            else:
                raise self.error(start, f"field {number}: expected wire type 0, 1, 2 or 5, got {wire}")
            if stop > end:
                raise self.error(start, f"field {number}: {stop - end} bytes are missing")
            yield _Field(number, wire, after, stop, value)
            start = stop

    def expect(self, field: _Field, wire: int, name: str) -> _Field:
        if field.wire != wire:
            raise self.error(field.start, f"{name}: expected wire type {wire}, got {field.wire}")
        return field

    def text(self, field: _Field, name: str) -> str:
        self.expect(field, BYTES, name)
        try:
            return self.data[field.start : field.end].decode()
        except UnicodeDecodeError as error:
            raise self.error(field.start, f"{name}: expected UTF-8, got {error.object!r}") from error

    def numbers(self, field: _Field, dtype: np.dtype, name: str) -> np.ndarray:
        """A packed or a single unpacked fixed-width value, as a view of the file."""
        fixed = FIXED32 if dtype.itemsize == 4 else FIXED64
        if field.wire not in (BYTES, fixed):
            raise self.error(field.start, f"{name}: expected wire type {BYTES} or {fixed}, got {field.wire}")
        size = field.end - field.start
        if size % dtype.itemsize:
            raise self.error(field.start, f"{name}: expected whole {dtype.name}s, got {size} bytes")
        return np.frombuffer(self.data, dtype, size // dtype.itemsize, field.start)

    def integers(self, field: _Field, name: str) -> list[int]:
        """Signed integers, packed or a single one."""
        if field.wire == VARINT:
            values = [field.value]
        else:
            self.expect(field, BYTES, name)
            values, offset = [], field.start
            while offset < field.end:
                value, offset = self.varint(offset, field.end)
                values.append(value)
        return [value - (1 << 64) if value >> 63 else value for value in values]

    def integer(self, field: _Field, name: str) -> int:
        """A signed integer; the last of several."""
        if not (values := self.integers(field, name)):
            raise self.error(field.start, f"{name}: expected an integer, got none")
        return values[-1]


def read_caffemodel(path: str | Path) -> list[CaffeLayer]:
    """The layers of a ``.caffemodel`` that have blobs, in the file's order.

    Raises:
        DataError: the file is missing, damaged (with the offset), of the V0 format or another kind, or without weights.
    """
    wire = _Wire(path)
    layers = []
    for field in wire.fields(0, len(wire.data)):
        if field.number in (2, 100):
            wire.expect(field, BYTES, "layer")
            layer = _layer(wire, field, v1=field.number == 2)
            if layer.blobs:
                layers.append(layer)
    if not layers:
        raise DataError(f"{path}: expected a Caffe model (NetParameter) with weights, got none in it")
    return layers


def read_mean(path: str | Path) -> np.ndarray:
    """The mean image of a ``.binaryproto``: float32 [channels, height, width], channels in BGR order as Caffe has them.

    Raises:
        DataError: the file is missing, damaged, or not one image.
    """
    wire = _Wire(path)
    blob = _blob(wire, _Field(0, BYTES, 0, len(wire.data)), "mean")
    if blob.ndim == 4 and blob.shape[0] == 1:
        blob = blob[0]
    if blob.ndim != 3:
        raise DataError(f"{path}: expected one image [channels, height, width], got shape {list(blob.shape)}")
    return blob


def _layer(wire: _Wire, message: _Field, v1: bool) -> CaffeLayer:
    """LayerParameter: name = 1, type = 2, blobs = 7.  V1LayerParameter: name = 4, type = 5, blobs = 6."""
    name_at, type_at, blobs_at = (4, 5, 6) if v1 else (1, 2, 7)
    name, kind = "", ""
    blobs: list[np.ndarray] = []
    for field in wire.fields(message.start, message.end):
        if v1 and field.number == 1:
            raise wire.error(field.start, "a V0 layer; upgrade the file with Caffe's upgrade_net_proto_binary")
        if field.number == name_at:
            name = wire.text(field, "a layer's name")
        elif field.number == type_at and v1:
            value = wire.expect(field, VARINT, f"layer {name}: type").value
            kind = V1_TYPES.get(value, f"V1:{value}")
        elif field.number == type_at:
            kind = wire.text(field, f"layer {name}: type")
        elif field.number == blobs_at:
            wire.expect(field, BYTES, f"layer {name}: blob")
            blobs.append(_blob(wire, field, f"layer {name}: blob {len(blobs)}"))
    return CaffeLayer(name, kind, tuple(blobs))


def _blob(wire: _Wire, message: _Field, name: str) -> np.ndarray:
    """BlobProto: num, channels, height, width = 1 .. 4 where there are any, else shape = 7; double_data = 8 where there
    is any, else data = 5; as Caffe's Blob::FromProto has it.

    NVIDIA's Caffe has raw_data = 12 in their place, which is refused.
    """
    shape: list[int] | None = None
    legacy: dict[int, int] = {}
    singles: list[np.ndarray] = []
    doubles: list[np.ndarray] = []
    raw = False
    start = message.start
    while start < message.end:
        for field in wire.fields(start, message.end):
            start = field.end
            if field.number == 7:
                shape = _shape(wire, wire.expect(field, BYTES, f"{name}: shape"), name)
            elif field.number in (1, 2, 3, 4):
                legacy[field.number] = wire.integer(field, f"{name}: size")
            elif field.number == 8:
                doubles.append(wire.numbers(field, np.dtype("<f8"), f"{name}: double_data"))
            elif field.number == 5 and field.wire == FIXED32 and wire.data[field.start - 1] == UNPACKED_DATA:
                run = _unpacked_run(wire, field.start - 1, message.end)
                singles.append(run)
                start = field.start - 1 + 5 * len(run)
                break
            elif field.number == 5:
                singles.append(wire.numbers(field, np.dtype("<f4"), f"{name}: data"))
            elif field.number == 12:
                raw = True
    if legacy:
        shape = [legacy.get(number, 0) for number in (1, 2, 3, 4)]
    parts = doubles if any(map(len, doubles)) else singles
    if raw and not parts:
        raise DataError(
            f"{wire.path}: {name}: expected data or double_data, got raw_data of NVIDIA's Caffe, such as halves"
        )
    values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if shape is None:
        shape = [len(values)]
    if min(shape, default=1) < 0 or math.prod(shape) != len(values):
        raise wire.error(message.start, f"{name}: expected {shape} values, got {len(values)}")
    if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise wire.error(message.start, f"{name}: expected a blob of at most 2^31 - 1 values, got shape {shape}")
    return values.astype(values.dtype.newbyteorder("=")).reshape(shape)


def _shape(wire: _Wire, message: _Field, name: str) -> list[int]:
    """BlobShape: dim = 1, packed or not."""
    shape: list[int] = []
    for field in wire.fields(message.start, message.end):
        if field.number == 1:
            shape += wire.integers(field, f"{name}: dim")
    if len(shape) > MAX_DIMENSIONS:
        raise wire.error(message.start, f"{name}: expected at most {MAX_DIMENSIONS} dimensions, got {len(shape)}")
    return shape


def _unpacked_run(wire: _Wire, start: int, end: int) -> np.ndarray:
    """The unpacked floats that follow each other from ``start``: records of a tag byte and four bytes, without a Python
    step for each.  The stretch looked at doubles, so the cost is in proportion to the run."""
    record = np.dtype([("tag", "u1"), ("value", "<f4")])
    available, look = (end - start) // record.itemsize, 64
    while True:
        records = np.frombuffer(wire.data, record, min(look, available), start)
        others = np.flatnonzero(records["tag"] != UNPACKED_DATA)
        if len(others):
            return records["value"][: others[0]]
        if look >= available:
            return records["value"]
        look *= 2
