"""A layer's section of coder ``entropy``: codebook, and codes by the model that makes them smallest.

``planes`` (``clipq.plane_coder``) knows of rows, columns and neighbours; ``patterns`` (``clipq.pattern_coder``) of
nothing but is several times faster, and as good where weights are independent.  docs/format.md, coder ``entropy``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipq.bit_stream import packed_size
from clipq.byte_reader import ByteReader
from clipq.codebook import pack_codebook, read_codebook
from clipq.pattern_coder import PatternPlan, decode_patterns
from clipq.plane_coder import PlanePlan, decode_planes
from clipq.plane_header import MOST_WEIGHTS, SLAB_POSITIONS
from clipq.quantized_net import QuantizedLayer

EMPTY, PLANES, PATTERNS = range(3)
_UNEVEN = 4
#: Layers of more weights than this are modelled by planes only where a sample of their rows says that it pays.
LARGE = 1 << 19
_SAMPLE_WEIGHTS = 1 << 17
_WORTH = 0.997
_PLANES_HEADER = 60
_TABLES_TOO_LARGE = 1.002


@dataclass(frozen=True)
class EntropySection:
    """The parts of a section, in their order."""

    header: bytes
    codebook: bytes
    stream: bytes


def encode_entropy(layer: QuantizedLayer) -> EntropySection:
    """The section of a layer."""
    negative = _leading_negatives(layer.levels)
    if not layer.codes.any():
        none = np.zeros(layer.levels.size, np.bool_)
        return EntropySection(_head(EMPTY, negative, layer.b), pack_codebook(layer.levels, none, negative), b"")
    model, plan, used = _choose(layer.codes, layer.b, negative)
    head = _head(model, negative, layer.b)
    return EntropySection(head, pack_codebook(layer.levels, used, negative), plan.encode())


def _head(model: int, negative: int, b: int) -> bytes:
    """The model, and how many codes are negative, of which half are understood."""
    return bytes([model]) if negative == 2 ** (b - 1) else bytes([model | _UNEVEN, negative])


def entropy_size(codes: np.ndarray, b: int, levels: np.ndarray | None = None) -> tuple[int, int]:
    """About how many bytes header and codes, and the codebook, of such a layer take."""
    negative = 2 ** (b - 1)
    if levels is None:  # uniform ones, as partitioning makes them
        levels = np.array([*range(-negative, 0), *range(1, negative)], np.float32)
    else:
        negative = _leading_negatives(levels)
    if not codes.any():
        return 2, packed_size(levels.size, 1)
    _, plan, used = _choose(codes, b, negative)
    return 2 + plan.size(), len(pack_codebook(levels.astype(np.float32, copy=False), used, negative))


def decode_entropy(reader: ByteReader, shape: tuple[int, ...], b: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels, float32 [2^b - 1], and codes, uint8 of ``shape``.

    Raises:
        ClipqFormatError: InvalidValueError, TruncatedError or AbsurdSizeError.
    """
    model, negative = reader.u8("model"), 2 ** (b - 1)
    if model & _UNEVEN:
        model, negative = model & ~_UNEVEN, reader.u8("number of negative codes")
    if model > PATTERNS or negative >= 2**b:
        reader.invalid(f"expected a model up to {PATTERNS}, up to {2**b - 1} negative codes, got {model}, {negative}")
    levels, _ = read_codebook(reader, 2**b - 1, negative)
    n = math.prod(shape)
    if n == 0 and model != EMPTY:
        reader.invalid(f"model of a layer without weights: expected {EMPTY}, got {model}")
    if model == EMPTY:
        codes = np.zeros(n, np.uint8)
    elif model == PATTERNS:
        codes = decode_patterns(reader, n, b)
    else:
        largest = max(negative, 2**b - 1 - negative)
        magnitude, is_negative = decode_planes(reader, *matrix(shape), kernel_size(shape), largest)
        kept = np.flatnonzero(magnitude)
        of_kept = _signed_to_codes(magnitude.reshape(-1).take(kept), is_negative.reshape(-1).take(kept), negative)
        if kept.size and int(of_kept.max()) >= 2**b:
            reader.invalid(f"expected codes below 2^{b}, got {int(of_kept.max())}")
        codes = np.zeros(n, np.uint8)
        codes[kept] = of_kept
    return levels, codes.reshape(shape)


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns as which a layer is modelled: outputs, and all that goes into one."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // rows if rows else 0


def kernel_size(shape: tuple[int, ...]) -> int:
    """So many columns of that matrix belong to the same input."""
    return max(math.prod(shape[2:]), 1)


def _choose(codes: np.ndarray, b: int, negative: int) -> tuple[int, PlanePlan | PatternPlan, np.ndarray]:
    """The model of fewest bytes, for large layers on the word of a sample of their rows; and which codes occur."""
    every, kernel = codes.reshape(matrix(codes.shape)), kernel_size(codes.shape)
    patterns = PatternPlan(codes.reshape(-1), b)
    used = patterns.code_counts > 0
    too_large = every.shape[1] > SLAB_POSITIONS or codes.size > MOST_WEIGHTS
    if too_large or (codes.size > LARGE and not _planes_pay(every, b, negative, patterns)):
        return PATTERNS, patterns, used
    planes = _plane_plan(every, b, negative, kernel)
    return (PLANES, planes, used) if planes.size() < patterns.size() else (PATTERNS, patterns, used)


def _planes_pay(codes: np.ndarray, b: int, negative: int, patterns: PatternPlan) -> bool:
    """Whether planes will take clearly less than patterns, by a sample of the rows of ``codes`` [R, C]."""
    sample = codes[:: -(-codes.size // _SAMPLE_WEIGHTS)]
    if not sample.any():
        return False
    if patterns.size() > _TABLES_TOO_LARGE * patterns.bits() / 8:
        return True
    share = _plane_plan(sample, b, negative).bits() / PatternPlan(sample.reshape(-1), b).bits()
    return share * patterns.bits() / 8 + _PLANES_HEADER < _WORTH * patterns.size()


def _plane_plan(codes: np.ndarray, b: int, negative: int, kernel: int = 1) -> PlanePlan:
    return PlanePlan(*_codes_to_signed(codes, negative), kernel, max(negative, 2**b - 1 - negative))


def _leading_negatives(levels: np.ndarray) -> int:
    """How many levels, from the first one on, are negative."""
    return int(np.argmin(np.append(levels < 0, False)))


def _codes_to_signed(codes: np.ndarray, negative: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of levels from zero (uint8), and which weights are negative (bool)."""
    table = np.concatenate([[0], np.arange(negative, 0, -1), np.arange(1, 256 - negative)]).astype(np.uint8)
    return table[codes], (codes > 0) & (codes <= negative)


def _signed_to_codes(magnitude: np.ndarray, is_negative: np.ndarray, negative: int) -> np.ndarray:
    """The inverse, uint16; a negative magnitude beyond the codes gives 256, which is no code."""
    m = np.arange(256)
    of_negative = np.where(m <= negative, negative + 1 - m, 256)
    table = np.concatenate([negative + m, of_negative]).astype(np.uint16)
    table[[0, 256]] = 0
    return table.take(magnitude + (is_negative.astype(np.uint16) << np.uint16(8)))
