"""The kernels of ``device_step``, in the order in which they are started.

Pointers to what changes its place from step to step are in a table of addresses: of the quantized weights, the codes,
the results, and each layer's weights.  The weights are taken in parts of rows, counted from the first row of all on.

state: int32 [L, 2, FIELDS], of a side the first key among which its clip may be; how far keys from there are shifted to
    be bins; how many keys there are, 0 where one is left; the clip's rank there.
seen: int32 [L, SEEN, FIELDS], of some parts the number of each side's weights, of those that are below, and the
    largest key.
"""

from __future__ import annotations

import triton
from triton import language as tl

FIELDS = tl.constexpr(8)
LOW, SHIFT, SPAN, RANK = (tl.constexpr(i) for i in range(4))
N_SIDE, BELOW, LARGEST = (tl.constexpr(i) for i in (0, 2, 4))  # the negative side's; the positive side's follow
SEEN = tl.constexpr(64)  # lanes
BITS = tl.constexpr(12)
BINS = tl.constexpr(1 << 12)
OFTEN = tl.constexpr(32)  # one in so many weights
FEW = tl.constexpr(0.7)  # the pruning rate from which on few weights are kept
INFINITE = tl.constexpr(0x7F800000)
QUANTIZED, CODES, RESULTS, WEIGHTS = (tl.constexpr(i) for i in range(4))  # in the table


@triton.jit
def _part(table, n, start, layer, part, like, ALIGNED: tl.constexpr, PARTS: tl.constexpr, SIZE: tl.constexpr):
    """A part's weights as float32, zeros beyond the layer's end.

    like: a pointer to numbers of their type.  PARTS: in a row, each of SIZE weights.
    """
    before = (part - tl.load(start + layer) * PARTS) * SIZE
    left = tl.load(n + layer) - before
    at = tl.load(table + WEIGHTS + layer).to(like.dtype) + before
    column = tl.arange(0, SIZE)
    if ALIGNED:  # so that four weights are read together, up to three beyond the end
        x = tl.load(tl.multiple_of(at, 16) + column, mask=column // 4 * 4 < left, other=0)
        x = tl.where(column < left, x, 0)
    else:
        x = tl.load(at + column, mask=column < left, other=0)
    return x.to(tl.float32)


@triton.jit
def bracket(table, n, p, like, state, margin, SAMPLE: tl.constexpr):
    """Where a side's clip is, most likely: between keys whose upper 15 bits a sample of the layer tells."""
    layer, side = tl.program_id(0), tl.program_id(1)
    i, of = tl.arange(0, SAMPLE), tl.load(n + layer)
    at = tl.where(of > SAMPLE, i.to(tl.int64) * of // SAMPLE, i)
    at += tl.randint(0, i).to(tl.uint32).to(tl.int64) % tl.maximum(of // SAMPLE, 1)
    x = tl.load(tl.load(table + WEIGHTS + layer).to(like.dtype) + at, mask=at < of, other=0).to(tl.float32)
    bits, share = x.to(tl.int32, bitcast=True), tl.load(p + layer)
    own = ((bits < 0) == (side == 0)) & (bits & 0x7FFFFFFF > 0)
    key = tl.where(own, bits & 0x7FFFFFFF, 0x7FFFFFFF)
    rank = share * tl.sum(own.to(tl.int32))
    spare = margin * tl.sqrt(rank * (1 - share)) + 2
    low, high = side * 0, side * 0
    for j in range(15):
        step = (1 << 30) >> j
        below = tl.sum((key < low + step).to(tl.int32) + ((key < high + step).to(tl.int32) << 16))
        low += tl.where((below & 0xFFFF) <= rank - spare, step, 0)
        high += tl.where((below >> 16) <= rank + spare, step, 0)
    low = tl.maximum(low, 1)  # zeros are in no bin
    span = tl.maximum(high - low, 0).to(tl.int64) + 65536
    shift = tl.sum((span > (1 << tl.arange(0, 32).to(tl.int64)) * BINS).to(tl.int32))
    of_side = state + (layer * 2 + side) * FIELDS
    tl.store(of_side + LOW, low)
    tl.store(of_side + SHIFT, shift)
    tl.store(of_side + SPAN, tl.minimum(span, 0x7FFFFFFF).to(tl.int32))


@triton.jit
def count(
    table, n, start, layer_of, like, state, seen, bins, n_parts,
    FIRST: tl.constexpr, EACH: tl.constexpr, ALIGNED: tl.constexpr, PARTS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Sorts keys, where the clips may be, into bins.  The first time it also counts them, and finds the largest.

    EACH: parts that a program takes.
    """
    for i in range(EACH):
        part = tl.minimum(tl.program_id(0) * EACH + i, n_parts - 1)
        layer = tl.load(layer_of + part // PARTS)
        neg = state + layer * 2 * FIELDS
        pos = neg + FIELDS
        span_neg, span_pos = tl.load(neg + SPAN), tl.load(pos + SPAN)
        if (part == tl.program_id(0) * EACH + i) & ((span_neg > 0) | (span_pos > 0)):
            bits = _part(table, n, start, layer, part, like, ALIGNED, PARTS, SIZE).to(tl.int32, bitcast=True)
            key, is_neg = bits & 0x7FFFFFFF, bits < 0
            low = tl.where(is_neg, tl.load(neg + LOW), tl.load(pos + LOW))
            at = (key - low).to(tl.uint32, bitcast=True)
            inside = at < tl.where(is_neg, span_neg, span_pos).to(tl.uint32, bitcast=True)
            at = (at >> tl.where(is_neg, tl.load(neg + SHIFT), tl.load(pos + SHIFT)).to(tl.uint32)).to(tl.int32)
            tl.atomic_add(bins + layer * 2 * BINS + tl.where(is_neg, at, at + BINS), 1, mask=inside, sem="relaxed")
            if FIRST:
                number = tl.where(key > 0, tl.where(is_neg, 1, 1 << 16), 0)
                below = tl.sum(tl.where(key < low, number, 0))
                number, own = tl.sum(number), seen + (layer * SEEN + part % SEEN) * FIELDS
                tl.atomic_add(own + N_SIDE, number & 0xFFFF, sem="relaxed")
                tl.atomic_add(own + N_SIDE + 1, number >> 16, sem="relaxed")
                tl.atomic_add(own + BELOW, below & 0xFFFF, sem="relaxed")
                tl.atomic_add(own + BELOW + 1, below >> 16, sem="relaxed")
                tl.atomic_max(own + LARGEST, tl.max(tl.where(is_neg, key, 0)), sem="relaxed")
                tl.atomic_max(own + LARGEST + 1, tl.max(bits), sem="relaxed")


@triton.jit
def _seen(seen, layer, field):
    """A field of all lanes."""
    return tl.load(seen + (layer * SEEN + tl.arange(0, SEEN)) * FIELDS + field)


@triton.jit
def choose(p, state, seen, bins, FIRST: tl.constexpr):
    """The bin in which a side's clip is, and its rank there.  The first time also its rank in the side, k (A02)."""
    layer, side = tl.program_id(0), tl.program_id(1)
    of_side = state + (layer * 2 + side) * FIELDS
    if tl.load(of_side + SPAN) > 0:
        shift = tl.load(of_side + SHIFT)
        up_to = tl.cumsum(tl.load(bins + (layer * 2 + side) * BINS + tl.arange(0, BINS)))
        if FIRST:
            n = tl.sum(_seen(seen, layer, N_SIDE + side))
            product = tl.load(p + layer) * n
            k = product.to(tl.int32)
            k = tl.minimum(k + (k < product).to(tl.int32), n)
            rank = k - tl.sum(_seen(seen, layer, BELOW + side))
        else:
            rank = tl.load(of_side + RANK)
        before = up_to < rank
        low = tl.load(of_side + LOW) + (tl.sum(before.to(tl.int32)) << shift)
        left = rank - tl.max(tl.where(before, up_to, 0))
        span = tl.where(shift > 0, 1 << shift, 0)
        if FIRST:
            misled = (rank <= 0) | (rank > tl.max(up_to))
            low, left, span = tl.where(misled, 1, low), tl.where(misled, k, left), tl.where(misled, 0x7FFFFFFF, span)
            shift = tl.where(misled, 31, shift)
            low, span = tl.where(k > 0, low, 0), tl.where(k > 0, span, 0)
        tl.store(of_side + LOW, low)
        tl.store(of_side + SHIFT, tl.maximum(shift - BITS, 0))
        tl.store(of_side + SPAN, span)
        tl.store(of_side + RANK, left)


@triton.jit
def _number(key):
    """The magnitude of a key, float64."""
    return key.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _end(c, e, j, m):
    """The j-th of the ends of m intervals: ``partition.side_ends``."""
    return tl.where(j == m, e, c + (e - c) * j / m)


@triton.jit
def partition(table, b, room, state, seen, scale, bounds, middles, n_layers, N: tl.constexpr):
    """A layer's clips, bounds and middles (``partition``), and the unit of its sums.

    bounds: float32 [L, N], of each code from 1 on the least weight; the last is infinite.
    """
    layer, i = tl.program_id(0), tl.arange(0, N)
    neg = state + layer * 2 * FIELDS
    pos = neg + FIELDS
    k_neg, k_pos = tl.load(neg + LOW), tl.load(pos + LOW)
    c_neg, c_pos = _number(k_neg), _number(k_pos)
    nan = float("nan")  # not in a tuple, for Triton 3.3
    largest_neg, largest_pos = tl.max(_seen(seen, layer, LARGEST)), tl.max(_seen(seen, layer, LARGEST + 1))
    e_neg, e_pos, largest = _number(largest_neg), _number(largest_pos), tl.maximum(largest_neg, largest_pos)
    bad = largest >= INFINITE
    sides = (tl.load(table + RESULTS) + 8 * n_layers * N).to(tl.pointer_type(tl.float64)) + layer
    tl.store(sides, tl.where(bad, nan, c_neg))
    tl.store(sides + n_layers, tl.where(bad, nan, e_neg))
    tl.store(sides + 2 * n_layers, _number(k_neg + 1))
    tl.store(sides + 3 * n_layers, tl.where(bad, nan, c_pos))
    tl.store(sides + 4 * n_layers, tl.where(bad, nan, e_pos))
    tl.store(sides + 5 * n_layers, _number(k_pos + 1))
    exponent = ((_number(largest).to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1022
    unit = tl.minimum(tl.load(room + layer) - exponent, 1022) + 1023
    tl.store(scale + layer, (unit << 52).to(tl.float64, bitcast=True))

    half = 1 << (tl.load(b + layer) - 1)  # intervals of the negative side; the positive one has one less
    edge = tl.where(i < half, -_end(c_neg, e_neg, half - i, half), _end(c_pos, e_pos, i - half, half - 1))
    edge = tl.where(i == half, 0.0, edge)
    above = edge.to(tl.float32)
    key = above.to(tl.int32, bitcast=True)
    next_above = tl.where(above == 0, 1, tl.where(above > 0, key + 1, key - 1)).to(tl.float32, bitcast=True)
    exact = above.to(tl.float64)
    above = tl.where((exact < edge) | ((exact == edge) & (edge <= 0)), next_above, above)  # A06: outer
    above = tl.where(i == 0, float("-inf"), tl.where(i < 2 * half - 1, above, float("inf")))
    tl.store(bounds + layer * N + i, above)

    nearer, further = _end(c_neg, e_neg, half - i, half), _end(c_neg, e_neg, half - i + 1, half)
    of_neg = (further * -1.0 + nearer * -1.0) / 2  # Triton's minus makes 0 of 0
    nearer, further = _end(c_pos, e_pos, i - half - 1, half - 1), _end(c_pos, e_pos, i - half, half - 1)
    middle = tl.where(i <= half, of_neg, (nearer + further) / 2)
    tl.store(middles + layer * N + i, tl.where((i > 0) & (i < 2 * half), middle, 0.0))


@triton.jit
def assign(
    table, n, start, layer_of, like, state, p, bounds, scale, sums, counts,
    N: tl.constexpr, LARGE: tl.constexpr, LANES: tl.constexpr, ALIGNED: tl.constexpr, PARTS: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """The codes of a part; in its lane of each code the number and, in fixed point, the sum of its weights.

    In layers of LARGE weights and more, where most are kept, codes that occur often are summed by all threads:
    additions to memory would wait for each other.
    """
    part = tl.program_id(0)
    layer, column = tl.load(layer_of + part // PARTS), tl.arange(0, SIZE)
    x = _part(table, n, start, layer, part, like, ALIGNED, PARTS, SIZE)
    code, step = tl.zeros([SIZE], tl.int32), N // 2
    while step > 0:
        code = tl.where(x >= tl.load(bounds + layer * N + code + step - 1), code + step, code)
        step = step // 2
    neg, bits = state + layer * 2 * FIELDS, x.to(tl.int32, bitcast=True)
    c = tl.where(bits < 0, tl.load(neg + LOW), tl.load(neg + FIELDS + LOW))
    code = tl.where((bits & 0x7FFFFFFF) > c, code, 0)
    codes = tl.load(table + CODES).to(tl.pointer_type(tl.uint8))
    tl.store(codes + part.to(tl.int64) * SIZE + column, code.to(tl.uint8))
    each: tl.constexpr = N if N > 32 else 32  # Triton's max is a tensor before 3.6
    number, place = tl.histogram(code, each), (layer * LANES + part % LANES) * N
    tl.atomic_add(counts + place + tl.arange(0, each), number, mask=tl.arange(0, each) < N, sem="relaxed")
    units = (x.to(tl.float64) * tl.load(scale + layer)).to(tl.int64)
    if N <= 32:  # noqa: SIM102 (Triton decides it where it compiles)
        if (tl.load(p + layer) < FEW) & (tl.load(n + layer) >= LARGE):
            often = tl.sum((number * OFTEN > SIZE).to(tl.int32) << tl.arange(0, 32))
            for which in range(1, N):
                if (often >> which) & 1:
                    own = code == which
                    tl.atomic_add(sums + place + which, tl.sum(tl.where(own, units, 0)), sem="relaxed")
                    code = tl.where(own, 0, code)
    tl.atomic_add(sums + (layer * LANES + column % LANES) * N + code, units, mask=code > 0, sem="relaxed")


@triton.jit
def average(
    table, seen, scale, sums, counts, middles, n_layers, N: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """A code's level and count, over all lanes."""
    layer, code = tl.program_id(0), tl.program_id(1)
    lane = (layer * LANES + tl.arange(0, LANES)) * N + code
    total = tl.load(sums + lane)
    high, low = tl.sum(total >> 31).to(tl.float64), tl.sum(total & 0x7FFFFFFF).to(tl.float64)
    n = tl.where(code > 0, tl.sum(tl.load(counts + lane).to(tl.int64)), 0)
    mean = (high * 2147483648.0 + low) / tl.load(scale + layer) / tl.maximum(n, 1).to(tl.float64)
    level = tl.where(n > 0, mean, tl.load(middles + layer * N + code)).to(tl.float32)
    bad = tl.maximum(tl.max(_seen(seen, layer, LARGEST)), tl.max(_seen(seen, layer, LARGEST + 1))) >= INFINITE
    results = tl.load(table + RESULTS)
    tl.store(results.to(tl.pointer_type(tl.int64)) + layer * N + code, n)
    levels = (results + 8 * n_layers * (N + 6)).to(tl.pointer_type(tl.float32))
    tl.store(levels + layer * N + code, tl.where(bad, float("nan"), level))


@triton.jit
def write(table, layer_of, like, n_layers, N: tl.constexpr, ROW: tl.constexpr):
    """Every weight's level."""
    row, column = tl.program_id(0), tl.arange(0, ROW)
    at = row.to(tl.int64) * ROW + column
    code = tl.load(tl.load(table + CODES).to(tl.pointer_type(tl.uint8)) + at).to(tl.int32)
    levels = (tl.load(table + RESULTS) + 8 * n_layers * (N + 6)).to(tl.pointer_type(tl.float32))
    tl.store(tl.load(table + QUANTIZED).to(like.dtype) + at, tl.load(levels + tl.load(layer_of + row) * N + code))
