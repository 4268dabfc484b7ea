"""A layer's codes as one stream of lanes: the strong model of coder ``entropy`` (docs/format.md, "Planes")."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from clipq.bit_stream import varint
from clipq.byte_reader import ByteReader
from clipq.integer_log import PROBABILITY_BITS
from clipq.lane_coder import MAX_TAPER, MIN_TAPER, STATE_BITS, LaneDecoder, LaneEncoder
from clipq.plane_fit import Truth, choose_offsets, fit_planes
from clipq.plane_model import MEAN_STEP, Feature, FeatureNumbers, PlaneSetting, probabilities
from clipq.plane_order import Grid, Plane, planes
from clipq.plane_walk import PlaneWalk

SLAB_POSITIONS = 1 << 20
MAX_LANES = 1 << 16
MAX_PHASE_BITS = 6
MAX_OFFSETS = 8
#: A lane takes part in at most this many decisions about which weights are kept, so that reading never crawls.
MAX_POSITIONS_PER_LANE = 4096


#: How a plane's setting starts: 0 or 1 where it is constant, then these.
_MODELLED, _PLAIN = 2, 3
#: The share of the last decisions' bits that lanes may take back, and the most lanes that are of use.
_TAKEN_BACK, _MOST_LANES = 0.8, 4096
#: Lanes are closed in steps, and so some of them a little late.
_ROUNDED_UP = 1.2


class _Writer:
    """Takes the true decisions, passes them on to the lanes, and counts their bits.

    bits: of each plane's decisions.  last_bits: of the last slab's decisions after its mask.
    each_sign: bits of a sign, on average from any run of them to the end of the last slab: of these the least.
    """

    def __init__(self, truth: Truth, settings: Sequence[PlaneSetting]) -> None:
        self._truth, self._settings = truth, settings
        self.lanes = LaneEncoder()
        self.bits = np.zeros(len(settings))
        self.last_bits = 0.0
        self._signs: list[tuple[int, float]] = []
        self._narrowed = False

    def take(self, number: int, at: np.ndarray, features: dict[int, Feature], after: int | None) -> np.ndarray:
        ones = self._truth.at(number, at)
        q = probabilities(self._settings[number], features, at.size)
        self.lanes.decide(q, ones, after)
        bits = ideal_bits(q, ones)
        self.bits[number] += bits
        if self._narrowed:
            self.last_bits += bits
        if after is not None:
            self._signs.append((q.size, bits))
        return ones

    @property
    def each_sign(self) -> float:
        n, bits = np.cumsum(np.array(self._signs or [(1, 1.0)])[::-1], axis=0).T
        return float((bits / n).min())

    def narrow(self, kept: int) -> None:
        self._narrowed = True
        self.lanes.narrow(kept)


class _Reader:
    """Gets the decisions from the lanes."""

    def __init__(self, settings: Sequence[PlaneSetting], lanes: LaneDecoder) -> None:
        self._settings, self._lanes = settings, lanes

    def take(self, number: int, at: np.ndarray, features: dict[int, Feature], after: int | None) -> np.ndarray:
        return self._lanes.decide(probabilities(self._settings[number], features, at.size), after)

    def narrow(self, kept: int) -> None:
        self._lanes.narrow(kept)


def ideal_bits(q: np.ndarray, ones: np.ndarray) -> float:
    """-log2 of the probability of these decisions."""
    share = np.where(ones, q, (1 << PROBABILITY_BITS) - q)
    return float(PROBABILITY_BITS * q.size - np.log2(share, dtype=np.float32).sum(dtype=np.float64))


class PlanePlan:
    """What the stream says before its decisions: the grid and the settings of all planes.

    magnitude: uint8 [R, C], 0 for a pruned weight, else the number of its level from zero, at most ``largest``.
    negative: bool [R, C].
    """

    def __init__(self, magnitude: np.ndarray, negative: np.ndarray, largest: int) -> None:
        rows, columns = magnitude.shape
        signed = np.where(negative, np.int8(-1), (magnitude > 0).view(np.int8))
        most = max(1, SLAB_POSITIONS // max(columns, 1))
        slab_rows = -(-rows // -(-rows // most))  # slabs of equal size, as the last one has to take all lanes back
        self.grid = Grid(rows, columns, choose_offsets(signed), _phase_bits(magnitude.size), slab_rows)
        self.largest = largest
        self._truth = Truth(magnitude, negative, self.grid, largest)
        self.settings = fit_planes(magnitude, negative, self.grid, largest)

    def encode(self) -> bytes:
        """The header and the stream."""
        lanes, taper = self._lanes()
        stream, n_bits = self._written.lanes.finish(lanes, taper)
        return pack_header(self.grid, self.settings, lanes, taper) + varint(n_bits) + stream

    def size(self) -> int:
        """Bytes of header and stream, within a few, without coding them."""
        lanes, taper = self._lanes()
        wasted = max(lanes * STATE_BITS - self._written.last_bits, 0.0)
        return len(pack_header(self.grid, self.settings, lanes, taper)) + 4 + round((self.bits() + wasted) / 8)

    def bits(self) -> float:
        """Bits of the decisions."""
        return float(self._written.bits.sum())

    def _lanes(self) -> tuple[int, int]:
        """How many lanes the last decisions can take back, and how fast."""
        n, written = self.grid.rows * self.grid.columns, self._written
        least = max(-(-n // MAX_POSITIONS_PER_LANE), 1)
        lanes = min(max(int(_TAKEN_BACK * written.last_bits / STATE_BITS), least), _MOST_LANES)
        taper = math.ceil(math.log2(_ROUNDED_UP * STATE_BITS / max(written.each_sign, 1e-3)))
        return lanes, min(max(taper, MIN_TAPER), MAX_TAPER)

    @cached_property
    def _written(self) -> _Writer:
        writer = _Writer(self._truth, self.settings)
        walk = PlaneWalk(self.grid, self.largest, self.settings)
        for first, stop in self.grid.slabs():
            self._truth.begin(first, stop)
            walk.slab(stop - first, writer, last=stop == self.grid.rows)
        return writer


def _phase_bits(n: int) -> int:
    """More phases know more of each other; small layers have too few weights for them, large ones need none."""
    return 4 if 4096 <= n < SLAB_POSITIONS else 3


def decode_planes(reader: ByteReader, rows: int, columns: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes (uint8 [R, C]) and negative weights (bool [R, C]), the rest of the section having been read.

    Raises:
        ClipqFormatError: InvalidValueError, TruncatedError or AbsurdSizeError.
    """
    grid, settings, lanes, taper = read_header(reader, rows, columns, largest)
    n_bits = reader.varint("length of the stream")
    data = reader.take((n_bits + 7) // 8, "stream")
    magnitude, negative = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.bool_)
    walk = PlaneWalk(grid, largest, settings)
    try:
        decoder = LaneDecoder(data, n_bits, lanes, taper)
        decisions = _Reader(settings, decoder)
        for first, stop in grid.slabs():
            kept, sizes, signs = walk.slab(stop - first, decisions, last=stop == rows)
            if sizes.size and int(sizes.max()) > largest:
                raise ValueError(f"expected magnitudes up to {largest}, got {int(sizes.max())}")
            magnitude[first + kept.row, kept.column] = sizes
            negative[first + kept.row, kept.column] = signs
        decoder.finish()
    except ValueError as fault:
        reader.invalid(str(fault))
    return magnitude, negative


def pack_header(grid: Grid, settings: Sequence[PlaneSetting], lanes: int, taper: int) -> bytes:
    in_slabs, with_offsets = grid.slab_rows < grid.rows, bool(grid.offsets)
    steps = grid.phase_bits | (taper - MIN_TAPER) << 3 | in_slabs << 6 | with_offsets << 7
    out = [varint(lanes), bytes([steps]), varint(grid.slab_rows) if in_slabs else b""]
    if with_offsets:
        out += [varint(offset) for offset in (len(grid.offsets), *grid.offsets)]
    for s in settings:
        if s.constant is not None:
            out.append(varint(s.constant))
            continue
        if not s.weights:
            out.append(varint(_PLAIN + (2 * s.mean if s.mean >= 0 else -2 * s.mean - 1)))
            continue
        out += [varint(_MODELLED), varint(sum(1 << number for number in s.weights))]
        out.append(struct.pack("<bhB", s.mean, s.bias, s.row_prior | s.column_prior << 4))
        out.append(bytes(weight & 0xFF for _, weight in sorted(s.weights.items())))
    return b"".join(out)


def read_header(reader: ByteReader, rows: int, columns: int, largest: int) -> tuple[Grid, list[PlaneSetting], int, int]:
    """The inverse of ``pack_header``, with everything checked."""
    lanes = reader.varint("lanes")
    if not max(1, -(-rows * columns // MAX_POSITIONS_PER_LANE)) <= lanes <= MAX_LANES:
        reader.invalid(f"lanes: expected 1 to {MAX_LANES}, and one for {MAX_POSITIONS_PER_LANE} weights, got {lanes}")
    steps = reader.u8("phases and taper")
    phase_bits, taper = steps & 7, MIN_TAPER + (steps >> 3 & 7)
    if phase_bits > MAX_PHASE_BITS:
        reader.invalid(f"phases: expected at most 2^{MAX_PHASE_BITS}, got 2^{phase_bits}")
    slab_rows = reader.varint("rows of a slab") if steps >> 6 & 1 else rows
    if not 1 <= slab_rows <= rows or slab_rows * columns > SLAB_POSITIONS:
        reader.invalid(f"rows of a slab: expected 1 to {rows} and at most {SLAB_POSITIONS} weights, got {slab_rows}")
    n_offsets = reader.varint("neighbour offsets") if steps >> 7 else 0
    if n_offsets > MAX_OFFSETS:
        reader.invalid(f"neighbour offsets: expected at most {MAX_OFFSETS}, got {n_offsets}")
    offsets = tuple(reader.varint("neighbour offset") for _ in range(n_offsets))
    if any(not 1 <= offset < columns for offset in offsets):
        reader.invalid(f"neighbour offsets: expected 1 to {columns - 1}, got {offsets}")
    numbers = FeatureNumbers(n_offsets)
    settings = [_read_setting(reader, numbers, plane) for plane in planes(largest)]
    return Grid(rows, columns, offsets, phase_bits, slab_rows), settings, lanes, taper


def _read_setting(reader: ByteReader, numbers: FeatureNumbers, plane: Plane) -> PlaneSetting:
    kind = reader.varint("plane")
    if kind < _MODELLED:
        return PlaneSetting(constant=kind)
    if kind >= _PLAIN:
        half, odd = divmod(kind - _PLAIN, 2)
        if half > 127:
            reader.invalid(f"plane: expected a mean from -128 to 127, got the code {kind}")
        mean = -half - 1 if odd else half
        return PlaneSetting(None, mean, mean * MEAN_STEP)
    features = reader.varint("plane: features")
    allowed = numbers.allowed(plane.kind)
    if not features or features & ~allowed:
        reader.invalid(f"plane {plane.kind}: expected some of the features {allowed:#x}, got the set {features:#x}")
    mean, bias, priors = struct.unpack("<bhB", reader.take(4, "plane: mean, bias and priors"))
    chosen = [k for k in range(numbers.count) if features >> k & 1]
    weights = struct.unpack(f"{len(chosen)}b", reader.take(len(chosen), "plane: weights"))
    return PlaneSetting(None, mean, bias, priors & 0x0F, priors >> 4, dict(zip(chosen, weights, strict=True)))
