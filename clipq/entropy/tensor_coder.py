"""The exact elements of tensors in few bytes: coder ``entropy`` of the tensors' section (docs/format.md).

Biases and batch-norm parameters are trained numbers whose last bits are noise: what can be saved is in their exponents
and signs, which are coded by ``plane_coder``, in buffers that are constant, and in small integers.
"""

from __future__ import annotations

import math

import numpy as np

from clipq.bit_stream import pack_bits, packed_size, unpack_bits, varint
from clipq.byte_reader import ByteReader
from clipq.entropy.plane_coder import PlanePlan, decode_planes
from clipq.one_blas_thread import one_blas_thread
from clipq.tensor_bytes import element_size

RAW, CONSTANT, NARROW, FLOAT = range(4)
#: Bits of exponent and mantissa.
_FLOATS = {"float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7)}
#: Below this many elements the exponents' model costs more than it saves.
_FEWEST_FLOATS = 32


@one_blas_thread()
def pack_tensor(data: bytes, dtype: str) -> bytes:
    """``data``, a tensor's elements as coder ``raw`` has them, in the form of fewest bytes: its number, then it."""
    if not data:
        return b""
    words = _words(data, dtype)
    forms = [bytes([RAW]) + data]
    if np.all(words == words[0]):
        forms.append(bytes([CONSTANT]) + data[: words.itemsize])
    if words.itemsize > 1:
        width = max(1, -(-int(words.max()).bit_length() // 8))
        forms.append(bytes([NARROW, width]) + words[:, None].view(np.uint8)[:, :width].tobytes())
    if dtype in _FLOATS and words.size >= _FEWEST_FLOATS:
        forms += _float_forms(words, *_FLOATS[dtype])
    return min(forms, key=len)


@one_blas_thread()
def read_tensor(reader: ByteReader, dtype: str, shape: tuple[int, ...]) -> bytes:
    """The inverse of ``pack_tensor``: the elements as coder ``raw`` has them.

    Raises:
        ClipqFormatError: InvalidValueError, TruncatedError or AbsurdSizeError.
    """
    n, size = math.prod(shape), _word_size(dtype)
    n_words = n * element_size(dtype) // size
    if not n:
        return b""
    form = reader.u8("form of a tensor")
    if form == RAW:
        return bytes(reader.take(n_words * size, "elements"))
    if form == CONSTANT:
        return bytes(reader.take(size, "element")) * n_words
    if form == NARROW:
        width = reader.u8("bytes of an element")
        if not 1 <= width <= size:
            reader.invalid(f"bytes of an element: expected 1 to {size}, got {width}")
        out = np.zeros((n_words, size), np.uint8)
        out[:, :width] = np.frombuffer(reader.take(n_words * width, "elements"), np.uint8).reshape(n_words, width)
        return out.tobytes()
    if form == FLOAT and dtype in _FLOATS:
        return _read_float(reader, n, *_FLOATS[dtype]).astype(f"<u{size}").tobytes()
    return reader.invalid(f"form of a tensor: expected one for {dtype}, got {form}")


def _word_size(dtype: str) -> int:
    size = element_size(dtype)
    return size // 2 if dtype.startswith("complex") else size


def _words(data: bytes, dtype: str) -> np.ndarray:
    return np.frombuffer(data, f"<u{_word_size(dtype)}")


def _float_forms(words: np.ndarray, exponent_bits: int, mantissa_bits: int) -> list[bytes]:
    """Largest exponent; exponents below it and signs as planes, in which an element +0 is a pruned weight; mantissas of
    the others without the zero bits that end all of them.

    No form where exponents go from 0 to 255, or where all elements are +0.
    """
    where = words.nonzero()[0]
    if not where.size:
        return []
    n, words = words.size, words[where].astype(np.uint32)
    exponent = (words >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = words & ((1 << mantissa_bits) - 1)
    negative = (words >> (exponent_bits + mantissa_bits)).astype(np.bool_)
    largest = int(exponent.max())
    below = largest - exponent + 1
    spread = int(below.max())
    if spread > 255:
        return []
    together = int(np.bitwise_or.reduce(mantissa))
    zeros = (together & -together).bit_length() - 1 if together else mantissa_bits
    magnitudes, signs = np.zeros((1, n), np.uint8), np.zeros((1, n), np.bool_)
    magnitudes[0, where], signs[0, where] = below, negative
    planes = PlanePlan(magnitudes, signs, 1, spread).encode()
    mantissas = pack_bits(mantissa >> zeros, mantissa_bits - zeros)
    return [bytes([FLOAT, largest, spread, zeros]) + varint(len(planes)) + planes + mantissas]


def _read_float(reader: ByteReader, n: int, exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    largest, spread, zeros = reader.u8("largest exponent"), reader.u8("spread of exponents"), reader.u8("zero bits")
    if largest >> exponent_bits or not 1 <= spread <= largest + 1 or zeros > mantissa_bits:
        reader.invalid(f"exponents and mantissas: got {largest}, {spread}, {zeros}")
    planes = reader.part(reader.varint("length of exponents and signs"), "exponents and signs")
    below, negative, rest = decode_planes(planes, 1, n, 1, spread)
    planes.finish()
    if rest.any():
        reader.invalid("exponents and signs: expected the stream to end with its last symbol, bits are left")
    where = below[0].nonzero()[0]
    width = mantissa_bits - zeros
    data = reader.take(packed_size(where.size, width), "mantissas")
    try:
        mantissa = unpack_bits(data, width, where.size)
    except ValueError as fault:
        reader.invalid(f"mantissas: {fault}")
    exponent = np.uint32(largest + 1) - below[0, where]
    sign = negative[0, where].astype(np.uint32) << np.uint32(exponent_bits + mantissa_bits)
    words = np.zeros(n, np.uint32)
    words[where] = sign | exponent << np.uint32(mantissa_bits) | mantissa.astype(np.uint32) << np.uint32(zeros)
    return words
