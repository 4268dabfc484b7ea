"""The head of a stream of planes: lanes, neighbour offsets and the planes' settings (docs/format.md, "Head")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clipq.byte_reader import ByteReader
from clipq.entropy.bit_fields import BitReader, BitWriter, number_size
from clipq.entropy.integer_log import S_MAX
from clipq.entropy.lanes import MAX_RATE, Closing
from clipq.entropy.plane_model import FeatureNumbers, PlaneSetting
from clipq.entropy.plane_order import Grid, Plane, planes

SLAB_POSITIONS = 1 << 20
MAX_OFFSETS = 8
#: The most weights of a layer.
MOST_WEIGHTS = 15 << 24
#: A lane takes part in at most so many decisions about which weights are kept, so that reading never crawls; in a layer
#: that has this many lanes further ones are there for more decisions each, as one slab has to take all of them back.
_POSITIONS_PER_LANE, _LANES, _POSITIONS_PER_FURTHER_LANE = 1 << 12, 1 << 8, 1 << 16
#: Means and biases are multiples of this, means of 1, 2, 4 or 8 times as much.
LOG_ODDS_STEP = 16
MOST_WEIGHT = 1 << 10
_MEAN_ORDER, _BIAS_ORDER, _WEIGHT_ORDER, _SLAB_ORDER, _RATE_ORDER = 1, 3, 3, 8, 1
#: A usual rate of the sign: that of decisions of a bit each.
_SIGN_RATE = 18


class Lanes(NamedTuple):
    """How many lanes a stream has after its last mask, and how fast they are closed in that and in the last plane."""

    exponent: int
    mantissa: int
    mask_rate: int
    sign_rate: int

    @property
    def after_mask(self) -> int:
        return (8 + self.mantissa << self.exponent) >> 3

    @property
    def in_mask(self) -> Closing:
        return Closing(self.after_mask, self.mask_rate)

    @property
    def in_sign(self) -> Closing:
        return Closing(1, self.sign_rate)

    def at_first(self, positions: int) -> int:
        """The lanes with which the stream starts: those that the last slab's mask, of so many decisions, closes are
        there from the first on."""
        return self.in_mask.still_open(positions)

    def closing(self, plane: int, sign: int) -> Closing | None:
        """How lanes are closed in the last slab's plane of this number; ``sign`` is that of the last plane."""
        return self.in_mask if plane == 0 else self.in_sign if plane == sign else None

    @classmethod
    def near(cls, wanted: int, least: int, mask_rate: int, sign_rate: int) -> Lanes:
        """About ``wanted`` lanes, not more unless ``least`` asks for it."""
        exponent = max(wanted, 1).bit_length() - 1
        mantissa = (max(wanted, 1) << 3 >> exponent) - 8
        while (8 + mantissa << exponent) >> 3 < least:
            exponent, mantissa = exponent + (mantissa == 7), (mantissa + 1) % 8
        return cls(exponent, mantissa, mask_rate, sign_rate)


def least_lanes(n: int) -> int:
    """The fewest lanes for n weights."""
    return max(min(-(-n // _POSITIONS_PER_LANE), _LANES + -(-n // _POSITIONS_PER_FURTHER_LANE)), 1)


def most_slabs(n: int) -> int:
    """Slabs of n weights: twice as many as are needed, since rows are not cut, but not one for a few weights."""
    return -(-2 * n // SLAB_POSITIONS)


def pack_head(grid: Grid, largest: int, settings: Sequence[PlaneSetting], lanes: Lanes) -> str:
    """The head's bits, as 0 and 1."""
    out = BitWriter()
    out.bits(lanes.exponent, 4)
    out.bits(lanes.mantissa, 3)
    out.number(lanes.mask_rate, _RATE_ORDER)
    out.signed(_SIGN_RATE - lanes.sign_rate, _RATE_ORDER)
    out.bits(grid.slab_rows < grid.rows, 1)
    if grid.slab_rows < grid.rows:
        out.number(grid.slab_rows - 1, _SLAB_ORDER)
    out.bits(grid.pace, 2)
    out.number(len(grid.offsets), 0)
    for offset in grid.offsets:
        out.bits(offset - 1, (grid.columns - 2).bit_length())
    numbers = FeatureNumbers(len(grid.offsets))
    for plane, setting in zip(planes(largest), settings, strict=True):
        _pack_setting(out, setting, numbers, numbers.allowed(plane, grid.kernel))
    return out.text


def setting_size(setting: PlaneSetting, grid: Grid, plane: Plane) -> int:
    """Bits of a plane's setting."""
    out, numbers = BitWriter(), FeatureNumbers(len(grid.offsets))
    _pack_setting(out, setting, numbers, numbers.allowed(plane, grid.kernel))
    return len(out.text)


def _pack_setting(out: BitWriter, s: PlaneSetting, numbers: FeatureNumbers, allowed: list[int]) -> None:
    if s.constant is not None:
        out.bits(2 | s.constant, 3)
        return
    out.bits(0 if s.weights else 1, 2 if s.weights else 1)
    for k in allowed if s.weights else []:
        out.bits(k in s.weights, 1)
    shift, value = _shortest_mean(s.mean)
    out.bits(shift, 2)
    out.signed(value, _MEAN_ORDER)
    if not s.weights:
        return
    out.signed((s.bias - s.mean) // LOG_ODDS_STEP, _BIAS_ORDER)
    for number, prior in enumerate(s.priors):
        if numbers.statistics(number) & s.weights.keys():
            out.bits(prior, 4)
    for _, weight in sorted(s.weights.items()):
        out.bits(weight < 0, 1)
        out.number(abs(weight) - 1, _WEIGHT_ORDER)


def _shortest_mean(mean: int) -> tuple[int, int]:
    """The shift and the value that stand for a mean."""
    steps = mean // LOG_ODDS_STEP
    shift = min((steps & -steps).bit_length() - 1, 3) if steps else 3
    return shift, steps >> shift


def mean_size(mean: int) -> int:
    """Bits of a mean."""
    value = _shortest_mean(mean)[1]
    return 2 + number_size(2 * value if value >= 0 else -2 * value - 1, _MEAN_ORDER)


def read_head(
    reader: ByteReader, bits: BitReader, rows: int, columns: int, kernel: int, largest: int
) -> tuple[Grid, list[PlaneSetting], Lanes]:
    """The inverse of ``pack_head``, with everything checked."""
    exponent, mantissa = bits.bits(4, "lanes"), bits.bits(3, "lanes")
    mask_rate = bits.number(_RATE_ORDER, "mask's rate")
    lanes = Lanes(exponent, mantissa, mask_rate, _SIGN_RATE - bits.signed(_RATE_ORDER, "sign's rate"))
    least = least_lanes(rows * columns)
    if lanes.after_mask < least or mask_rate > MAX_RATE or not 1 <= lanes.sign_rate <= MAX_RATE:
        reader.invalid(
            f"lanes: expected at least {least} and rates up to {MAX_RATE}, that of signs not 0, "
            f"got {lanes.after_mask}, {mask_rate}, {lanes.sign_rate}"
        )
    slab_rows = bits.number(_SLAB_ORDER, "rows of a slab") + 1 if bits.bits(1, "slabs") else rows
    most = most_slabs(rows * columns)
    if not 1 <= slab_rows <= rows or slab_rows * columns > SLAB_POSITIONS or slab_rows * most < rows:
        reader.invalid(
            f"rows of a slab: expected 1 to {rows}, at most {SLAB_POSITIONS} weights and {most} slabs, got {slab_rows}"
        )
    pace = bits.bits(2, "phases of a run")
    n_offsets = bits.number(0, "neighbour offsets")
    if n_offsets > (MAX_OFFSETS if columns > 1 else 0):
        reader.invalid(f"neighbour offsets: expected at most {MAX_OFFSETS} in {columns} columns, got {n_offsets}")
    offsets = tuple(bits.bits((columns - 2).bit_length(), "neighbour offset") + 1 for _ in range(n_offsets))
    if any(offset >= columns for offset in offsets):
        reader.invalid(f"neighbour offsets: expected 1 to {columns - 1}, got {offsets}")
    numbers = FeatureNumbers(n_offsets)
    settings = [
        _read_setting(reader, bits, numbers, numbers.allowed(plane, kernel), f"plane {plane.kind}")
        for plane in planes(largest)
    ]
    return Grid(rows, columns, kernel, offsets, slab_rows, pace), settings, lanes


def _read_setting(
    reader: ByteReader, bits: BitReader, numbers: FeatureNumbers, allowed: list[int], what: str
) -> PlaneSetting:
    chosen = []
    if not bits.bits(1, what):
        if bits.bits(1, what):
            return PlaneSetting(constant=bits.bits(1, what))
        chosen = [k for k in allowed if bits.bits(1, f"{what}: features")]
        if not chosen:
            reader.invalid(f"{what}: expected a feature, got none")
    shift = bits.bits(2, f"{what}: mean")
    mean = bits.signed(_MEAN_ORDER, f"{what}: mean") * LOG_ODDS_STEP << shift
    if not chosen:
        bias = mean
    else:
        bias = mean + bits.signed(_BIAS_ORDER, f"{what}: bias") * LOG_ODDS_STEP
    if max(abs(mean), abs(bias)) > S_MAX:
        reader.invalid(f"{what}: expected mean and bias from {-S_MAX} to {S_MAX}, got {mean}, {bias}")
    row, column, of_kernel, value = (
        bits.bits(4, f"{what}: prior") if numbers.statistics(number) & set(chosen) else 0 for number in numbers.own
    )
    weights = {k: _read_weight(reader, bits, what) for k in chosen}
    return PlaneSetting(None, mean, bias, (row, column, of_kernel, value), weights)


def _read_weight(reader: ByteReader, bits: BitReader, what: str) -> int:
    negative = bits.bits(1, f"{what}: weight")
    size = bits.number(_WEIGHT_ORDER, f"{what}: weight") + 1
    if size > MOST_WEIGHT:
        reader.invalid(f"{what}: expected a weight up to {MOST_WEIGHT}, got {size}")
    return -size if negative else size
