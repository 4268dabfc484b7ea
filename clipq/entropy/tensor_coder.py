"""The exact elements of tensors in few bytes: coder ``entropy`` of the tensors' section (docs/format.md).

Biases and batch-norm parameters are trained numbers whose last bits are noise: what can be saved is in their exponents
and signs, in buffers that are constant, and in small integers.  Exponents are coded by ``plane_coder``, with the signs,
or, where there are many, by ``pattern_coder``, which is as good then and many times faster.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from clipq.bit_stream import pack_bits, packed_size, unpack_bits, varint
from clipq.byte_reader import ByteReader
from clipq.entropy.pattern_coder import MOST_SYMBOLS, PatternPlan, decode_patterns
from clipq.entropy.plane_coder import PlanePlan, decode_planes
from clipq.one_blas_thread import one_blas_thread
from clipq.tensor_bytes import element_size

RAW, CONSTANT, NARROW, PLANES, PATTERNS = range(5)
#: Bits of exponent and mantissa.
_FLOATS = {"float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7)}
#: Below this many elements the exponents' model costs more than it saves; of more than the second they are patterns.
_FEWEST_FLOATS, MOST_OF_PLANES = 32, 1 << 14


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
    if dtype in _FLOATS and _FEWEST_FLOATS <= words.size <= MOST_SYMBOLS:
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
    if form in (PLANES, PATTERNS) and dtype in _FLOATS:
        return _read_floats(reader, form, n, *_FLOATS[dtype]).astype(f"<u{size}").tobytes()
    return reader.invalid(f"form of a tensor: expected one for {dtype}, got {form}")


def _word_size(dtype: str) -> int:
    size = element_size(dtype)
    return size // 2 if dtype.startswith("complex") else size


def _words(data: bytes, dtype: str) -> np.ndarray:
    return np.frombuffer(data, f"<u{_word_size(dtype)}")


class _Floats(NamedTuple):
    """Floats taken apart, of which some are not +0.

    kept: those that are not +0, bool [n].  Of them
    below: how far the exponent is below ``largest`` + 1, from 1 to ``spread``, uint8.
    negative: bool.
    mantissa: uint32, without the ``zeros`` zero bits that end all of them.
    """

    largest: int
    spread: int
    zeros: int
    kept: np.ndarray
    below: np.ndarray
    negative: np.ndarray
    mantissa: np.ndarray

    def of_all(self, values: np.ndarray) -> np.ndarray:
        """One of the above, and 0 for +0."""
        out = np.zeros(self.kept.size, values.dtype)
        out[self.kept] = values
        return out


def _taken_apart(words: np.ndarray, exponent_bits: int, mantissa_bits: int) -> _Floats | None:
    """None where exponents go from 0 to 255, or where all elements are +0."""
    kept = words != 0
    if not kept.any():
        return None
    words = words[kept].astype(np.uint32, copy=False)
    exponent = (words >> mantissa_bits) & ((1 << exponent_bits) - 1)
    largest = int(exponent.max())
    spread = largest - int(exponent.min()) + 1
    if spread > 255:
        return None
    mantissa = words & ((1 << mantissa_bits) - 1)
    together = int(np.bitwise_or.reduce(mantissa))
    zeros = (together & -together).bit_length() - 1 if together else mantissa_bits
    negative = (words >> (exponent_bits + mantissa_bits)).astype(np.bool_)
    below = (largest + 1 - exponent).astype(np.uint8)
    return _Floats(largest, spread, zeros, kept, below, negative, mantissa >> zeros)


def _float_forms(words: np.ndarray, exponent_bits: int, mantissa_bits: int) -> list[bytes]:
    """Largest exponent, spread, and zeros that end the mantissas; exponents and signs; mantissas."""
    floats = _taken_apart(words, exponent_bits, mantissa_bits)
    if floats is None:
        return []
    head, width = bytes([floats.largest, floats.spread, floats.zeros]), mantissa_bits - floats.zeros
    if words.size > MOST_OF_PLANES:
        patterns = PatternPlan(floats.of_all(floats.below), _bits_of(floats.spread)).encode("")
        signed = floats.mantissa | floats.negative.astype(np.uint32) << np.uint32(width)
        return [bytes([PATTERNS]) + head + patterns + pack_bits(signed, width + 1)]
    magnitude, negative = floats.of_all(floats.below), floats.of_all(floats.negative)
    planes = PlanePlan(magnitude[None], negative[None], 1, floats.spread).encode()
    return [bytes([PLANES]) + head + varint(len(planes)) + planes + pack_bits(floats.mantissa, width)]


def _bits_of(spread: int) -> int:
    """Of a code up to ``spread``."""
    return max(spread.bit_length(), 2)


def _read_floats(reader: ByteReader, form: int, n: int, exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    """The inverse of ``_float_forms``: words, uint32 [n]."""
    largest, spread, zeros = reader.u8("largest exponent"), reader.u8("spread of exponents"), reader.u8("zero bits")
    if largest >> exponent_bits or not 1 <= spread <= largest + 1 or zeros > mantissa_bits:
        reader.invalid(f"exponents and mantissas: got {largest}, {spread}, {zeros}")
    read = _read_patterns if form == PATTERNS else _read_planes
    below, negative, mantissa = read(reader, n, spread, mantissa_bits - zeros)
    kept = below != 0
    some = negative << np.uint32(exponent_bits + mantissa_bits)
    some |= (np.uint32(largest + 1) - below[kept].astype(np.uint32)) << np.uint32(mantissa_bits)
    some |= mantissa << np.uint32(zeros)
    if not some.all():
        reader.invalid("exponents: expected none of an element +0")
    words = np.zeros(n, np.uint32)
    words[kept] = some
    return words


def _read_patterns(reader: ByteReader, n: int, spread: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far exponents are below, uint8 [n], 0 for +0; of the others signs and mantissas of ``width`` bits, uint32."""
    below, of_kept, rest = decode_patterns(reader, n, _bits_of(spread))
    if of_kept.size and int(of_kept.max()) > spread:
        reader.invalid(f"exponents: expected at most {spread} below the largest, got {int(of_kept.max())}")
    _check_end(reader, rest)
    signed = _read_bits(reader, width + 1, of_kept.size)
    return below, signed >> np.uint32(width), signed & np.uint32((1 << width) - 1)


def _read_planes(reader: ByteReader, n: int, spread: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of the form PLANES."""
    planes = reader.part(reader.varint("length of exponents and signs"), "exponents and signs")
    (below,), (negative,), rest = decode_planes(planes, 1, n, 1, spread)
    planes.finish()
    _check_end(reader, rest)
    of_kept = negative[below != 0].astype(np.uint32)
    return below, of_kept, _read_bits(reader, width, of_kept.size)


def _check_end(reader: ByteReader, rest: np.ndarray) -> None:
    if rest.any():
        reader.invalid("exponents and signs: expected the stream to end with its last symbol, bits are left")


def _read_bits(reader: ByteReader, width: int, n: int) -> np.ndarray:
    """Mantissas, uint32 [n]."""
    data = reader.take(packed_size(n, width), "mantissas")
    try:
        return unpack_bits(data, width, n).astype(np.uint32, copy=False)
    except ValueError as fault:
        reader.invalid(f"mantissas: {fault}")
