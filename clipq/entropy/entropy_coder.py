"""A layer's section of coder ``entropy``: codes by the model that makes them smallest, and codebook.

``planes`` (``plane_coder``) knows of rows, columns and neighbours; ``patterns`` (``pattern_coder``) of nothing but is
several times faster, and as good where weights are independent.  docs/format.md, coder ``entropy``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipq.byte_reader import ByteReader
from clipq.entropy.bit_fields import BitReader
from clipq.entropy.codebook import pack_codebook, read_codebook
from clipq.entropy.pattern_coder import MOST_SYMBOLS, PatternPlan, byte_counts, decode_patterns
from clipq.entropy.plane_coder import PlanePlan, decode_planes
from clipq.entropy.plane_estimate import estimate_planes
from clipq.entropy.plane_header import MOST_WEIGHTS, SLAB_POSITIONS
from clipq.entropy.plane_sample import CodedLayer, Fitted, LayerSample
from clipq.errors import SettingError
from clipq.one_blas_thread import one_blas_thread
from clipq.quantized_net import QuantizedLayer

EMPTY, PLANES, PATTERNS = range(3)
_UNEVEN = 4
#: Layers of more weights than this are modelled by planes only where a sample of them says that it pays: that planes
#: take less than this share of what patterns take; and less than the second share of layers of more than so many.  For
#: some million weights planes take a second more, and the tables of patterns may take 0.3 %.
LARGE = 1 << 19
_WORTH, _LARGER, _WORTH_OF_LARGER = 0.999, 1 << 22, 0.997
#: How many weights of how many parts of a large layer are looked at to choose its model, to fit it, and to count the
#: bytes of a layer of more weights than ``_WHOLE``.
_TO_CHOOSE, _TO_FIT, _TO_COUNT = (1 << 18, 4), (1 << 21, 4), (1 << 23, 8)
_WHOLE = 1 << 24
#: Where these have a byte for more weights than this, as a sample has it, they are counted whole, too: that is fast
#: then, and what few weights are kept, or what all rows have in common, shows too little in some of the rows.
_SPARSE = 256
#: The model is chosen by more weights if fewer than this of them are kept.
_KEPT_TO_CHOOSE = 1 << 14
_AT_ONCE = 1 << 16
#: About what a level takes.
_BITS_PER_LEVEL = 22


@dataclass(frozen=True)
class EntropySection:
    """A section, and about how many of its bytes are those of the codebook."""

    header: bytes
    stream: bytes
    codebook: int

    @property
    def data(self) -> bytes:
        return self.header + self.stream


@one_blas_thread()
def encode_entropy(layer: QuantizedLayer) -> EntropySection:
    """The section of a layer.

    Raises:
        SettingError: a layer of more than MOST_SYMBOLS weights.
    """
    if layer.codes.size > MOST_SYMBOLS:
        raise SettingError(
            f"layer {layer.name}: expected at most {MOST_SYMBOLS} weights for coder entropy, got {layer.codes.size}"
        )
    if not layer.codes.any():
        return EntropySection(bytes([EMPTY]), b"", 0)
    negative = _leading_negatives(layer.levels)
    model, plan, used = _choose(layer.codes, layer.b, negative)
    codebook = pack_codebook(layer.levels, used, negative)
    return EntropySection(_head(model, negative, layer.b), plan.encode(codebook), len(codebook) // 8)


def _head(model: int, negative: int, b: int) -> bytes:
    """The model, and how many codes are negative, of which half are understood."""
    return bytes([model]) if negative == 2 ** (b - 1) else bytes([model | _UNEVEN, negative])


@one_blas_thread()
def entropy_size(codes: np.ndarray, b: int, levels: np.ndarray | None = None) -> tuple[int, int]:
    """About how many bytes header and codes, and the codebook, of such a layer take."""
    if not codes.any():
        return 1, 0
    negative = 2 ** (b - 1) if levels is None else _leading_negatives(levels)
    if codes.size > _WHOLE:
        size, used, exact = _large_size(codes, b, negative)
        if exact or _SPARSE * size >= codes.size:
            return 2 + size, _codebook_bits(levels, used, negative) // 8
    _, plan, used = _choose(codes, b, negative)
    codebook = _codebook_bits(levels, used, negative)
    return 2 + (plan.size(codebook) if isinstance(plan, PlanePlan) else plan.size()), codebook // 8


def _codebook_bits(levels: np.ndarray | None, used: np.ndarray, negative: int) -> int:
    """Of the levels that are used; about, where they are not known."""
    if levels is None:
        return _BITS_PER_LEVEL * int(np.count_nonzero(used))
    return len(pack_codebook(levels.astype(np.float32, copy=False), used, negative))


@one_blas_thread()
def decode_entropy(reader: ByteReader, shape: tuple[int, ...], b: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels, float32 [2^b - 1], and codes, uint8 of ``shape``.

    Raises:
        ClipqFormatError: InvalidValueError, TruncatedError or AbsurdSizeError.
    """
    model, negative, n = reader.u8("model"), 2 ** (b - 1), math.prod(shape)
    if model == EMPTY:
        return np.zeros(2**b - 1, np.float32), np.zeros(shape, np.uint8)
    if model & _UNEVEN:
        model, negative = model & ~_UNEVEN, reader.u8("number of negative codes")
    if model not in (PLANES, PATTERNS) or n == 0 or negative >= 2**b:
        reader.invalid(
            f"expected model {PLANES} or {PATTERNS} ({EMPTY} of no weights), up to {2**b - 1} negative codes, "
            f"got {model} of {n} weights, {negative} negative codes"
        )
    if model == PATTERNS:
        codes, of_kept, rest = decode_patterns(reader, n, b)
        used = _used(of_kept, b)
    else:
        largest = max(negative, 2**b - 1 - negative)
        magnitude, is_negative, rest = decode_planes(reader, *matrix(shape), kernel_size(shape), largest)
        codes, used = _codes_of(reader, magnitude.reshape(-1), is_negative.reshape(-1), b, negative)
    return _read_levels(reader, rest, used, negative), codes.reshape(shape)


def _codes_of(
    reader: ByteReader, magnitude: np.ndarray, is_negative: np.ndarray, b: int, negative: int
) -> tuple[np.ndarray, np.ndarray]:
    """The codes of weights under planes, uint8 [n], and which of them occur."""
    codes, used = np.zeros(magnitude.size, np.uint8), np.zeros(2**b - 1, np.bool_)
    for part in _parts(magnitude.size):
        kept = np.flatnonzero(magnitude[part] != 0)  # faster than that of integers
        of_kept = _signed_to_codes(magnitude[part].take(kept), is_negative[part].take(kept), negative)
        if kept.size and int(of_kept.max()) >= 2**b:
            reader.invalid(f"expected codes below 2^{b}, got {int(of_kept.max())}")
        codes[part][kept] = of_kept
        used |= _used(of_kept, b)
    return codes, used


def _parts(n: int) -> list[slice]:
    """Of n weights as many at once as the processor's cache takes: NumPy looks up by copies of 64 bits."""
    return [slice(i, i + _AT_ONCE) for i in range(0, n, _AT_ONCE)]


def _read_levels(reader: ByteReader, rest: np.ndarray, used: np.ndarray, negative: int) -> np.ndarray:
    """The levels from the bits ``rest`` (uint8 of 0 and 1) of a stream, which are zeros after them."""
    bits = BitReader(reader, np.packbits(np.append(rest, np.uint8(1))).tobytes())
    levels = read_codebook(bits, used, negative)
    if rest[bits.at :].any():
        reader.invalid("expected the stream to end with the codebook, bits are left")
    return levels


def _used(codes: np.ndarray, b: int) -> np.ndarray:
    """Which codes from 1 on occur among ``codes`` (uint8 or uint16, none 0) of kept weights: bool [2^b - 1]."""
    return byte_counts(codes)[1 : 2**b] > 0


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns as which a layer is modelled: outputs, and all that goes into one."""
    rows = shape[0] if len(shape) > 1 else 1
    return rows, math.prod(shape) // rows if rows else 0


def kernel_size(shape: tuple[int, ...]) -> int:
    """So many columns of that matrix belong to the same input."""
    return max(math.prod(shape[2:]), 1)


def _choose(codes: np.ndarray, b: int, negative: int) -> tuple[int, PlanePlan | PatternPlan, np.ndarray]:
    """The model, and which codes occur: planes, but for large layers of which patterns, by a sample, take less."""
    if codes.size <= LARGE:
        return PLANES, _plane_plan(codes, b, negative), _used(codes[codes != 0], b)
    layer, patterns = _both(codes, b, negative)
    used = patterns.code_counts > 0
    if not _planes_pay(layer, patterns):
        return PATTERNS, patterns, used
    fitted = LayerSample(layer, *_TO_FIT).fit() if codes.size > SLAB_POSITIONS else None
    planes = _plane_plan(codes, b, negative, fitted)
    return (PLANES, planes, used) if planes.size() < patterns.size() else (PATTERNS, patterns, used)


def _large_size(codes: np.ndarray, b: int, negative: int) -> tuple[int, np.ndarray, bool]:
    """The bytes of a large layer's codes, which codes occur, and whether no sample was needed to count them."""
    layer, patterns = _both(codes, b, negative)
    size, used = patterns.size(), patterns.code_counts > 0
    if not _planes_pay(layer, patterns):
        return size, used, True
    fitted = LayerSample(layer, *_TO_FIT).fit()
    return min(size, estimate_planes(LayerSample(layer, *_TO_COUNT), fitted)), used, False


def _both(codes: np.ndarray, b: int, negative: int) -> tuple[CodedLayer, PatternPlan]:
    """A large layer as each of the models has it."""
    every, patterns = codes.reshape(matrix(codes.shape)), PatternPlan(codes.reshape(-1), b)
    kept = (every != 0).view(np.uint8).sum(1, dtype=np.uint32)
    counts = np.append(codes.size - patterns.code_counts.sum(), patterns.code_counts)
    meaning = _codes_to_signed(np.arange(counts.size), negative)
    return CodedLayer(every, kept, counts, *meaning, kernel_size(codes.shape)), patterns


def _planes_pay(layer: CodedLayer, patterns: PatternPlan) -> bool:
    """Whether planes have room for so large a layer, and may take clearly less than patterns: by a sample, if one is
    much smaller than the layer.
    """
    if layer.codes.shape[1] > SLAB_POSITIONS or layer.codes.size > MOST_WEIGHTS:
        return False
    walked, parts = _TO_CHOOSE
    enough = _KEPT_TO_CHOOSE * layer.codes.size // int(layer.kept.sum())
    sample = LayerSample(layer, max(walked, enough), parts)
    worth = _WORTH_OF_LARGER if layer.codes.size > _LARGER else _WORTH
    return 2 * sample.walked > layer.codes.size or estimate_planes(sample, sample.fit()) < worth * patterns.size()


def _plane_plan(codes: np.ndarray, b: int, negative: int, fitted: Fitted | None = None) -> PlanePlan:
    signed = _codes_to_signed(codes.reshape(matrix(codes.shape)), negative)
    return PlanePlan(*signed, kernel_size(codes.shape), max(negative, 2**b - 1 - negative), fitted)


def _leading_negatives(levels: np.ndarray) -> int:
    """How many levels, from the first one on, are negative.  Half of them where signs allow it: those that no weight
    takes are 0."""
    half = (levels.size + 1) // 2
    if (levels[:half] <= 0).all() and (levels[half:] >= 0).all():
        return half
    return int(np.argmin(np.append(levels < 0, False)))


def _codes_to_signed(codes: np.ndarray, negative: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of levels from zero (uint8), and which weights are negative (bool)."""
    table = np.concatenate([[0], np.arange(negative, 0, -1), np.arange(1, 256 - negative)]).astype(np.uint8)
    magnitude = np.empty(codes.shape, np.uint8)
    for part in _parts(codes.size):
        magnitude.reshape(-1)[part] = table.take(codes.reshape(-1)[part])
    return magnitude, (codes > 0) & (codes <= negative)


def _signed_to_codes(magnitude: np.ndarray, is_negative: np.ndarray, negative: int) -> np.ndarray:
    """The inverse, uint16; a negative magnitude beyond the codes gives 256, which is no code."""
    m = np.arange(256)
    of_negative = np.where(m <= negative, negative + 1 - m, 256)
    table = np.concatenate([negative + m, of_negative]).astype(np.uint16)
    table[[0, 256]] = 0
    return table.take(magnitude + (is_negative.astype(np.uint16) << np.uint16(8)))
