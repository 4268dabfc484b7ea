"""How many lanes a stream of planes has: as many as the decisions of its last slab can take back (docs/format.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipq.entropy.lanes import STATE_BITS, rate_for
from clipq.entropy.plane_header import Lanes, least_lanes
from clipq.entropy.plane_model import PlaneSetting
from clipq.entropy.plane_order import Grid

#: The share of the last decisions' bits that lanes may take back: less only where those lanes save this share of a
#: slab's bits, as where the last decisions tell nothing.
_TAKEN_BACK, _FEWER, _WORTH = 0.9, (0.5, 0.2, 0.05, 0.0), 0.002
#: About what a lane costs.
_BITS_OF_A_LANE = 0.06
#: The most lanes that are of use, but for one for so many weights.  In a mask there may be more, and of a small layer
#: there are not more than one for so few weights.
_MOST_LANES, _MOST_POSITIONS, _MOST_IN_MASK, _LEAST_POSITIONS = 2048, 4096, 4096, 64
_ToCome = list[tuple[int, float]]


class LastSlab(NamedTuple):
    """What the decisions of a layer's last slab take.

    n: the layer's weights.  positions: ``mask_positions``.  kept: those of the slab's weights that are kept.
    bits: of each plane.
    of_mask, of_sign: of the first plane and of the last, the decisions to come at the start of each run, and what bits
        they take.
    """

    n: int
    positions: int
    kept: int
    bits: np.ndarray
    of_mask: _ToCome
    of_sign: _ToCome

    @classmethod
    def alike(cls, n: int, positions: int, kept: int, bits: np.ndarray) -> LastSlab:
        """As if each plane's decisions took the same everywhere; positions: all of the slab's weights."""
        of_mask = [(positions, float(bits[0]))] if bits[0] else []
        return cls(n, positions if bits[0] else 0, kept, bits, of_mask, [(kept, float(bits[-1]))] if kept else [])

    def lanes(self, rest: int) -> Lanes:
        """How many lanes the decisions, and ``rest`` bits after them, can take back, and how fast."""
        usual = self._lanes(rest, _TAKEN_BACK)
        if self._not_taken_back(usual, rest) <= _WORTH * float(self.bits.sum()):
            return usual
        fewer = [self._lanes(rest, share) for share in _FEWER]
        return min([usual, *fewer], key=lambda lanes: self._not_taken_back(lanes, rest))

    def _lanes(self, rest: int, share: float) -> Lanes:
        most = min(max(_MOST_LANES, self.n // _MOST_POSITIONS), self.n // _LEAST_POSITIONS)
        wanted = min(int((share * self._closing_bits() + rest) / STATE_BITS), most)
        lanes = Lanes.near(
            wanted, least_lanes(self.n), rate_for(_least(self.of_mask)), max(rate_for(_least(self.of_sign)), 1)
        )
        most = min(_MOST_IN_MASK, self.n // _LEAST_POSITIONS)
        while lanes.mask_rate and lanes.at_first(self.positions) > most:
            lanes = lanes._replace(mask_rate=lanes.mask_rate - 1)
        return lanes

    def wasted(self, rest: int) -> float:
        """About the bits of lanes that neither decisions nor ``rest`` take back, and of what lanes cost."""
        lanes = self.lanes(rest)
        return self._not_taken_back(lanes, rest) + _BITS_OF_A_LANE * lanes.at_first(self.positions)

    def _not_taken_back(self, lanes: Lanes, rest: int) -> float:
        missing = [lanes.after_mask * STATE_BITS - float(self.bits[1:].sum())]
        for to_come, bits in self.of_sign or [(self.kept, 0.0)]:
            opened = min(lanes.in_sign.still_open(to_come), lanes.after_mask)
            missing.append(opened * STATE_BITS - bits)
        return max(max(missing) - rest, 0.0)

    def _closing_bits(self) -> float:
        """Bits of the decisions that can take lanes back: those after the last mask, where signs tell enough of them to
        close the last lanes."""
        return float(self.bits[1 if rate_for(_least(self.of_sign)) else -1 :].sum())


def _least(to_come: _ToCome) -> float:
    """Bits of a decision, on average from the start of any run on: of these the least."""
    return min((min(bits / n, 1.0) for n, bits in to_come), default=0.0)


def mask_positions(grid: Grid, settings: Sequence[PlaneSetting]) -> int:
    """How many decisions on which weights are kept the last slab has."""
    return (grid.rows % grid.slab_rows or grid.slab_rows) * grid.columns if settings[0].constant is None else 0
