"""A layer's codes as one stream of lanes: the strong model of coder ``entropy`` (docs/format.md, "Planes")."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from clipq.byte_reader import ByteReader
from clipq.entropy.bit_fields import BitReader, bit_array
from clipq.entropy.bit_queue import Bits, concatenated
from clipq.entropy.integer_log import PROBABILITY_BITS
from clipq.entropy.lane_decoder import LaneDecoder
from clipq.entropy.lane_encoder import SHARE, LaneEncoder, decided
from clipq.entropy.lane_passes import kernels_for
from clipq.entropy.lanes import ONE
from clipq.entropy.plane_fit import PlaneSample, Truth, choose_offsets, first_settings, fit_plane, usual_grid
from clipq.entropy.plane_header import Lanes, pack_head, read_head
from clipq.entropy.plane_lanes import LastSlab, mask_positions
from clipq.entropy.plane_model import FeatureNumbers, PlaneSetting
from clipq.entropy.plane_order import Grid, planes
from clipq.entropy.plane_sample import Fitted
from clipq.entropy.plane_walk import PlaneWalk, View

#: -log2 of each share.
_BITS_OF = (PROBABILITY_BITS - np.log2(np.maximum(np.arange(ONE + 1), 1))).astype(np.float32)


class _Taken(NamedTuple):
    """A plane's decisions in a slab, with their probabilities (``lane_encoder.decided``); each run's end and bits."""

    plane: int
    decisions: np.ndarray
    ends: list[int]
    bits: np.ndarray
    last_slab: bool

    def to_come(self) -> list[tuple[int, float]]:
        """The decisions, and their bits, from the start of each run on."""
        n, bits = np.cumsum(np.diff(self.ends, prepend=0)[::-1]), np.cumsum(self.bits[::-1])
        return list(zip(n.tolist(), bits.tolist(), strict=True))


_NOTHING = _Taken(-1, np.zeros(0, np.int16), [], np.zeros(0), False)


class _Writer:
    """Takes the true decisions; those planes that are not ``fitted`` are fitted to what comes of them first."""

    def __init__(self, truth: Truth, settings: list[PlaneSetting], grid: Grid, largest: int, fitted: bool) -> None:
        self._truth, self._settings = truth, settings
        self._planes, self._grid = planes(largest), grid
        self._to_fit = set() if fitted else {i for i, setting in enumerate(settings) if setting.weights}
        self.taken: list[_Taken] = []
        self.narrowed = 0, 0

    def take(self, view: View, last_slab: bool) -> np.ndarray:
        i, ones = view.number, self._truth.at(view.number, view.items.at)
        view.learn_all(ones)
        if i in self._to_fit:
            self._to_fit.remove(i)
            sample = PlaneSample.of(view, ones)
            self._settings[i] = fit_plane(self._settings[i], sample, self._grid, self._planes[i])
        decisions, bits = coded(view, ones)
        self.taken.append(_Taken(i, decisions, [run.stop for run in view.runs()], bits, last_slab))
        return ones

    def narrow(self, kept: int) -> None:
        self.narrowed = len(self.taken), kept


def coded(view: View, ones: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A plane's ``decided`` items, and the bits that the decisions of each run take, float64 [runs]."""
    decisions, bits = np.empty(ones.size, np.int16), []
    for run, q in view.all_probabilities():
        part = slice(run.start, run.stop)
        decisions[part] = decided(q, ones[part])
        bits.append(_BITS_OF.take(decisions[part] & SHARE).sum(dtype=np.float64))
    return decisions, np.array(bits)


class _Reader:
    """Gets the decisions from the lanes."""

    def __init__(self, decoder: LaneDecoder, lanes: Lanes, sign: int) -> None:
        self._decoder, self._lanes, self._sign = decoder, lanes, sign

    def take(self, view: View, last_slab: bool) -> np.ndarray:
        n = view.items.at.size
        closing = self._lanes.closing(view.number, self._sign) if last_slab else None
        ones = np.empty(n, np.bool_)
        for run in view.runs():
            part = slice(run.start, run.stop)
            after = closing and closing._replace(after=n - run.stop)
            ones[part] = self._decoder.decide(view.probabilities(run), after)
            view.learn(run, ones[part])
        return ones

    def narrow(self, kept: int) -> None:
        self._decoder.close(self._lanes.in_sign.still_open(kept))


class PlanePlan:
    """A layer's stream, but for its bits: grid, settings of all planes, and the decisions with their probabilities.

    magnitude: uint8 [R, C], 0 for a pruned weight, else the number of its level from zero, at most ``largest``.
    negative: bool [R, C].
    kernel: so many columns, one after the other, belong to the same input; a divisor of C.
    fitted: to the layer already; otherwise it is fitted to its first slab.
    """

    def __init__(
        self, magnitude: np.ndarray, negative: np.ndarray, kernel: int, largest: int, fitted: Fitted | None = None
    ) -> None:
        rows, columns = magnitude.shape
        offsets = fitted.offsets if fitted else choose_offsets(magnitude, negative)
        self.grid = grid = usual_grid(rows, columns, kernel, offsets)
        self._largest = largest
        self.settings = list(fitted.settings) if fitted else first_settings(magnitude, negative, grid, largest)
        truth = Truth(magnitude, negative, grid, largest)
        writer = _Writer(truth, self.settings, grid, largest, bool(fitted))
        walk = PlaneWalk(grid, largest, self.settings)
        for first, stop in grid.slabs():
            truth.begin(first, stop)
            walk.slab(stop - first, writer, last=stop == rows)
        self._taken, self._narrowed = writer.taken, writer.narrowed
        self.grid, self.settings = _without_unused_offsets(grid, self.settings)
        self._last = self._last_slab()

    def encode(self, rest: str = "") -> bytes:
        """Head and stream, with these bits, 0 and 1, at its end."""
        lanes = self._last.lanes(len(rest))
        encoder = LaneEncoder(kernels_for(self.grid.rows * self.grid.columns))
        sign = len(self.settings) - 1
        for i, (plane, decisions, ends, _, last_slab) in enumerate([*self._taken, _NOTHING]):
            if i == self._narrowed[0]:
                encoder.close(lanes.in_sign.still_open(self._narrowed[1]))
            closing = lanes.closing(plane, sign) if last_slab else None
            for start, stop in pairwise([0, *ends]):
                encoder.decide(decisions[start:stop], closing and closing._replace(after=decisions.size - stop))
        head = bit_array(pack_head(self.grid, self._largest, self.settings, lanes))
        stream = encoder.finish(lanes.at_first(self._last.positions), bit_array(rest))
        return concatenated([Bits.of(head), stream, Bits.of(np.ones(1, np.uint8))]).data.tobytes()

    def size(self, rest: int = 0) -> int:
        """Bytes of head and stream but for so many bits at its end, within a few, without coding them."""
        head = len(pack_head(self.grid, self._largest, self.settings, self._last.lanes(rest)))
        return round((head + self.bits() + self._last.wasted(rest)) / 8) + 1

    def bits(self) -> float:
        """Bits of the decisions."""
        return sum(float(taken.bits.sum()) for taken in self._taken)

    def _last_slab(self) -> LastSlab:
        sign, last = len(self.settings) - 1, {taken.plane: taken for taken in self._taken if taken.last_slab}
        bits = np.array([float(last[i].bits.sum()) if i in last else 0.0 for i in range(sign + 1)])
        of_mask, of_sign = (last[i].to_come() if i in last else [] for i in (0, sign))
        n, positions = self.grid.rows * self.grid.columns, mask_positions(self.grid, self.settings)
        return LastSlab(n, positions, self._narrowed[1], bits, of_mask, of_sign)


def _without_unused_offsets(grid: Grid, settings: list[PlaneSetting]) -> tuple[Grid, list[PlaneSetting]]:
    """The same, without the offsets at which no plane looks."""
    before = FeatureNumbers(len(grid.offsets))
    used = {k for setting in settings for k in setting.weights}
    stay = [k for k in range(before.d) if {before.neighbour(k), before.parent_neighbour(k)} & used]
    after = FeatureNumbers(len(stay))
    renamed = {before.likeness: after.likeness, before.size: after.size} | {k: k for k in before.own}
    renamed |= {before.parent_statistic(k): after.parent_statistic(k) for k in before.of_parent}
    for new, old in enumerate(stay):
        renamed[before.neighbour(old)] = after.neighbour(new)
        renamed[before.parent_neighbour(old)] = after.parent_neighbour(new)
    smaller = [replace(s, weights={renamed[k]: w for k, w in s.weights.items()}) for s in settings]
    return replace(grid, offsets=tuple(grid.offsets[k] for k in stay)), smaller


def decode_planes(
    reader: ByteReader, rows: int, columns: int, kernel: int, largest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Magnitudes (uint8 [R, C]) and negative weights (bool [R, C]) from what is left but for zero bytes at the end.

    And the bits that are at the stream's end, uint8 of 0 and 1, with zeros after them.

    Raises:
        ClipqFormatError: InvalidValueError, TruncatedError or AbsurdSizeError.
    """
    data = reader.take_but_zeros()
    bits = BitReader(reader, data)
    grid, settings, lanes = read_head(reader, bits, rows, columns, kernel, largest)
    magnitude, negative = np.zeros((rows, columns), np.uint8), np.zeros((rows, columns), np.bool_)
    walk = PlaneWalk(grid, largest, settings)
    try:
        without_last_bit = data[:-1] + bytes([data[-1] & data[-1] - 1])
        opened, kernels = lanes.at_first(mask_positions(grid, settings)), kernels_for(rows * columns)
        decoder = LaneDecoder(without_last_bit, bits.size, opened, bits.at, kernels)
        decisions = _Reader(decoder, lanes, len(settings) - 1)
        for first, stop in grid.slabs():
            kept, sizes, signs = walk.slab(stop - first, decisions, last=stop == rows)
            if sizes.size and int(sizes.max()) > largest:
                raise ValueError(f"expected magnitudes up to {largest}, got {int(sizes.max())}")
            magnitude[first + kept.row, kept.column] = sizes
            negative[first + kept.row, kept.column] = signs
        rest = decoder.finish()
    except ValueError as fault:
        reader.invalid(str(fault))
    return magnitude, negative, rest
