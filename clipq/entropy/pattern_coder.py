"""A layer's codes as two runs of symbols with fixed probabilities: the fast model of coder ``entropy``.

First which weights are kept, eight at a time; then the codes of those that are.  docs/format.md, "Patterns".
"""

from __future__ import annotations

import numpy as np

from clipq.bit_stream import pack_bits, packed_size, unpack_bits, varint
from clipq.byte_reader import ByteReader
from clipq.entropy.bit_fields import bit_array
from clipq.entropy.integer_log import PROBABILITY_BITS
from clipq.entropy.lane_decoder import LaneDecoder
from clipq.entropy.lane_encoder import LaneEncoder
from clipq.entropy.lane_passes import kernels_for
from clipq.entropy.lanes import MAX_RATE, ONE, STATE_BITS, Closing, SymbolTable, rate_for

#: Eight weights need at most 8 of these lanes' symbols, so that reading never crawls.
MAX_SYMBOLS_PER_LANE = 4096
MAX_LANES = 1 << 16
MOST_SYMBOLS = 8 * MAX_SYMBOLS_PER_LANE * MAX_LANES
_USUAL_LANES = 4096
#: The share of the codes' bits that lanes may take back.
_TAKEN_BACK = 0.8
#: Patterns with a smaller share than this, in 2^-15, are written out.
_RARE = 0.6
_COUNTED_AT_ONCE, _PICKED_AT_ONCE = 1 << 16, 1 << 18


class PatternPlan:
    """The tables for a layer's ``codes``, uint8 [n], of b bits, of which at least one is not 0.

    code_counts: int64 [2^b - 1], how many weights have each code from 1 on.
    """

    def __init__(self, codes: np.ndarray, b: int) -> None:
        mask = codes != 0
        blocks = range(0, max(codes.size, 1), _PICKED_AT_ONCE)
        self._kept = np.concatenate(
            [codes[i : i + _PICKED_AT_ONCE].take(np.flatnonzero(mask[i : i + _PICKED_AT_ONCE])) for i in blocks]
        )
        self._patterns = np.packbits(mask, bitorder="little")
        self._pattern_counts = byte_counts(self._patterns)
        self.code_counts = byte_counts(self._kept)[1 : 2**b]
        rare = (self._pattern_counts > 0) & (self._pattern_counts * ONE < _RARE * self._patterns.size)
        self._rare = np.flatnonzero(rare)
        self._written = int(self._pattern_counts[self._rare].sum())
        if self._written:  # the first of them now stands for all
            self._pattern_counts[self._rare] = 0
            self._pattern_counts[self._rare[0]] = self._written
        self._shares = whole_shares(self._pattern_counts), whole_shares(self.code_counts)
        self._code_bits = _cost(self.code_counts, self._shares[1])
        least = -(-codes.size // (8 * MAX_SYMBOLS_PER_LANE))
        self._lanes = min(max(least, 1, min(int(_TAKEN_BACK * self._code_bits / STATE_BITS), _USUAL_LANES)), MAX_LANES)

    def size(self) -> int:
        """Bytes of header and stream, within a few, without coding them."""
        not_taken_back = max(self._lanes * STATE_BITS - self._code_bits, 0.0)
        return len(self._header(b"")) + 8 + round((self.bits() + not_taken_back) / 8)

    def bits(self) -> float:
        """Bits of what follows the tables."""
        return _cost(self._pattern_counts, self._shares[0]) + self._code_bits + 8 * self._written

    def encode(self, rest: str) -> bytes:
        """Header and stream, with these bits, 0 and 1, at its end."""
        patterns, codes = (SymbolTable(shares) for shares in self._shares)
        written_out = np.zeros(0, np.uint8)
        if self._written:
            rare = np.zeros(256, np.bool_)
            rare[self._rare] = True
            places = np.flatnonzero(rare[self._patterns])
            written_out = self._patterns[places]
            self._patterns[places] = self._rare[0]
        rate = max(rate_for(self._code_bits / self._kept.size), 1)
        encoder = LaneEncoder(kernels_for(self._patterns.size))
        encoder.symbols(patterns, self._patterns)
        encoder.symbols(codes, self._kept - np.uint8(1), Closing(1, rate))
        stream = encoder.finish(self._lanes, bit_array(rest))
        head = varint(self._lanes) + bytes([rate])
        return self._header(head) + written_out.tobytes() + varint(stream.size) + stream.data.tobytes()

    def _header(self, head: bytes) -> bytes:
        parts = [head, *(_pack_table(shares) for shares in self._shares)]
        parts += [varint(self._written), bytes([self._rare[0]]) if self._written else b""]
        return b"".join(parts)


def decode_patterns(reader: ByteReader, n: int, b: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The codes of a layer's n weights, uint8 [n], those of the kept ones alone, and the bits at the stream's end.

    There are zeros after them.

    Raises:
        ClipqFormatError: InvalidValueError or TruncatedError.
    """
    n_patterns = (n + 7) // 8
    lanes, rate = reader.varint("lanes"), reader.u8("rate")
    if not max(1, -(-n // (8 * MAX_SYMBOLS_PER_LANE))) <= lanes <= MAX_LANES or not 1 <= rate <= MAX_RATE:
        reader.invalid(f"lanes and rate: expected lanes for {n} weights, at most {MAX_LANES}, got {lanes}, {rate}")
    tables = [_read_table(reader, 256), _read_table(reader, 2**b - 1)]
    n_written = reader.varint("number of patterns written out")
    stands_for_them = reader.u8("pattern for those written out") if n_written else None
    written_out = np.frombuffer(reader.take(n_written, "patterns written out"), np.uint8)
    n_bits = reader.varint("length of the stream")
    data = reader.take((n_bits + 7) // 8, "stream")
    if data and data[-1] & (1 << -n_bits % 8) - 1:
        reader.invalid("stream: expected unused bits of 0 in its last byte")
    try:
        decoder = LaneDecoder(data, n_bits, lanes, kernels=kernels_for(n_patterns))
        patterns = decoder.symbols(tables[0], n_patterns)
        if stands_for_them is not None:
            places = np.flatnonzero(patterns == stands_for_them)
            if places.size != n_written:
                raise ValueError(f"expected {n_written} patterns that are written out, got {places.size}")
            patterns[places] = written_out
        mask = np.unpackbits(patterns, bitorder="little").view(np.bool_)
        if mask[n:].any():
            raise ValueError("expected no weight beyond the last one")
        of_kept = decoder.symbols(tables[1], int(np.count_nonzero(mask)), Closing(1, rate))
        rest = decoder.finish()
    except ValueError as fault:
        reader.invalid(str(fault))
    del decoder  # it has four bytes for each of the stream
    of_kept += np.uint8(1)
    return _spread(of_kept, mask[:n]), of_kept, rest


def _spread(of_kept: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The codes of all weights: 0 where ``mask`` is False, and in their order ``of_kept``."""
    codes, done = np.zeros(mask.size, np.uint8), 0
    for i in range(0, mask.size, _PICKED_AT_ONCE):  # what is worked on stays in the cache
        places = np.flatnonzero(mask[i : i + _PICKED_AT_ONCE])
        codes[i : i + _PICKED_AT_ONCE][places] = of_kept[done : done + places.size]
        done += places.size
    return codes


def byte_counts(values: np.ndarray) -> np.ndarray:
    """How often each of 0..255 occurs in ``values``, integers [n], all of them below 256: int64 [256]."""
    counts = np.zeros(256, np.int64)
    for i in range(0, values.size, _COUNTED_AT_ONCE):  # bincount makes a copy of 64 bits
        counts += np.bincount(values[i : i + _COUNTED_AT_ONCE], minlength=256)
    return counts


def whole_shares(counts: np.ndarray) -> np.ndarray:
    """Shares in 2^-15 near the counts' (of which one at least is not 0), which sum to 2^15; 0 only where a count is."""
    shares = np.where(counts > 0, np.maximum(counts * ONE // counts.sum(), 1), 0)
    while (excess := int(shares.sum()) - ONE) != 0:
        largest = int(shares.argmax())
        shares[largest] -= min(excess, int(shares[largest]) // 2)
    return shares


def _cost(counts: np.ndarray, shares: np.ndarray) -> float:
    """Bits of so many symbols with these shares."""
    some = counts > 0
    return float((counts[some] * (PROBABILITY_BITS - np.log2(shares[some]))).sum())


def _pack_table(shares: np.ndarray) -> bytes:
    present = shares > 0
    return pack_bits(present.view(np.uint8), 1) + b"".join(varint(int(share)) for share in shares[present])


def _read_table(reader: ByteReader, size: int) -> SymbolTable:
    data = reader.take(packed_size(size, 1), "symbols that occur")
    try:
        present = unpack_bits(data, 1, size)
    except ValueError as fault:
        reader.invalid(f"symbols that occur: {fault}")
    shares = np.array([reader.varint("share of a symbol") if occurs else 0 for occurs in present.tolist()])
    if np.count_nonzero(shares) < np.count_nonzero(present) or shares.max() > ONE or shares.sum() != ONE:
        reader.invalid(f"expected shares from 1 on that sum to {ONE}")
    return SymbolTable(shares)
