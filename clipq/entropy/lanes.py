"""Many range coders side by side ("lanes", rANS) on one stream of bits: docs/format.md, "Lanes".

A lane's state is an integer of STATE_BITS bits after its leading one.  All lanes decode a symbol in one step of a few
array operations (``lane_decoder``; its inverse is ``lane_encoder``).  Lanes read and return whole bits, and a lane that
is closed gives its state back to the end of the stream; so however many lanes there are, they cost next to nothing: an
encoder starts a lane from bits that are to be stored anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clipq.entropy.integer_log import PROBABILITY_BITS

STATE_BITS = 21
ONE = 1 << PROBABILITY_BITS
#: The least state.
LOW = 1 << STATE_BITS
#: The unit of a closing's rate, and the most, of 6 bits: so closing lanes takes a bounded number of steps.
RATE_BITS, MAX_RATE = 9, 63
#: Steps of so few symbols are faster without arrays.
ONE_BY_ONE = 32
#: Lanes are closed in steps, and so some of them late; and a lane that stays open holds bits back.
_ROUNDED_UP, _HELD_BACK = 1.25, 0.6


class Closing(NamedTuple):
    """How many lanes stay open: ``base``, and so many for each 2^RATE_BITS symbols to come; and those after a run."""

    base: int
    rate: int
    after: int = 0

    def still_open(self, to_come: int) -> int:
        """Large numbers are rounded up to three bits, so that many lanes are closed at a time."""
        wanted = to_come * self.rate >> RATE_BITS
        coarse = max(wanted.bit_length() - 3, 0)
        return self.base + (-(-wanted >> coarse) << coarse)

    def least(self, opened: int) -> int:
        """The fewest symbols to come for which so many lanes, at most those open now, stay open."""
        if opened <= self.base:
            return 0
        below = opened - self.base - 1
        coarse = max(below.bit_length() - 3, 0)
        return -(-(((below >> coarse << coarse) + 1) << RATE_BITS) // self.rate)


def rate_for(bits: float) -> int:
    """The rate at which symbols of so many bits each, those of the next step left out, fill the lanes' states."""
    needed = _ROUNDED_UP * (STATE_BITS + _HELD_BACK + bits)
    return min(int(bits * (1 << RATE_BITS) / needed), MAX_RATE)


def steps(n: int, opened: int, closing: Closing | None) -> Iterator[tuple[int, int, int]]:
    """The steps of a run of n symbols at whose start so many lanes are open, those of the same size together.

    How many steps, how many symbols each, one a lane on the first lanes, and how many lanes are open before them.
    """
    while n:
        if closing is not None:
            opened = min(opened, closing.still_open(n + closing.after))
        size = min(n, opened)
        count = n // size
        if closing is not None:
            count = max(1, min(count, (n + closing.after - closing.least(opened)) // size + 1))
        yield count, size, opened
        n -= count * size


class SymbolTable:
    """Symbols 0 .. k - 1 with fixed probabilities: ``shares`` in units of 2^-15 that sum to 2^15; 0 never occurs."""

    def __init__(self, shares: np.ndarray) -> None:
        self.shares = shares.astype(np.int32)
        self.starts = np.cumsum(self.shares, dtype=np.int32) - self.shares
        self.symbol = np.repeat(np.arange(shares.size), shares).astype(np.uint8)
        within = np.arange(ONE, dtype=np.int32) - self.starts[self.symbol]
        #: For each slot: the share of its symbol (high 16 bits) and its place within that share (low ones).
        self.entries = self.shares[self.symbol].view(np.uint32) << np.uint32(16) | within.view(np.uint32)
