"""The steps of lanes compiled by Numba, where that is installed: the integers of decoder and encoder, in one pass.

Nothing checks that places are inside an array: ``lane_decoder`` sees to it that as many bits are there as can be read.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from clipq.entropy.integer_log import PROBABILITY_BITS as SHARE_BITS
from clipq.entropy.lanes import LOW, ONE, STATE_BITS

_SLOT = ONE - 1


@njit(nogil=True, cache=True)
def _refilled(x, words, at):
    """A state that has become too short, long enough again, and the next bit."""
    while x < LOW:
        x = x << 1 | (words[at >> 3] >> (31 - (at & 7))) & 1
        at += 1
    return x, at


@njit(nogil=True, cache=True)
def decide(q, ones, state, words, first, stop, at, last):
    """Decisions from number ``first`` on, with probabilities ``q`` of a one; each step takes one for each state.

    words: the 32 bits that start at each byte of the stream.  at: the next bit.
    Ends before decision ``stop``, or after a step that leaves ``at`` beyond ``last``: where it ended, and ``at``.
    """
    while True:
        for lane in range(state.size):
            x, share = state[lane], q[first + lane]
            slot, high = x & _SLOT, x >> SHARE_BITS
            one = slot < share
            ones[first + lane] = one
            x = share * high + slot if one else x - share * (high + 1)
            state[lane], at = _refilled(x, words, at)
        first += state.size
        if first >= stop or at > last:
            return first, at


@njit(nogil=True, cache=True)
def symbols(symbol, entries, out, state, words, first, stop, at, last):
    """Symbols of a table from number ``first`` on; otherwise as ``decide``."""
    while True:
        for lane in range(state.size):
            x = state[lane]
            slot = x & _SLOT
            entry = np.int64(entries[slot])
            out[first + lane] = symbol[slot]
            x = (entry >> 16) * (x >> SHARE_BITS) + (entry & 0xFFFF)
            state[lane], at = _refilled(x, words, at)
        first += state.size
        if first >= stop or at > last:
            return first, at


@njit(nogil=True, cache=True)
def backward(share, start, state, values, widths):
    """Undoes steps of the decoder, the last one first; the bits that it will read are put as fields, that have some.

    They fill ``values`` and ``widths``, at least as long as ``share``, from the end: the number of the first one.
    """
    free, i = values.size, share.size
    while i:
        for lane in range(state.size - 1, -1, -1):
            i -= 1
            x, f, width = state[lane], share[i], 0
            while x >> width >= f << (STATE_BITS + 1 - SHARE_BITS):
                width += 1
            if width:
                free -= 1
                values[free], widths[free] = x, width
            high = x >> width
            state[lane] = high + high // f * (ONE - f) + start[i]
    return free


@njit(nogil=True, cache=True)
def pack(values, widths, words):
    """Puts the lowest bits of each value, one field after the other, into ``words``, uint32 and 0 at first."""
    at = 0
    for i in range(values.size):
        width = widths[i]
        field = np.uint64(values[i] & (1 << width) - 1) << np.uint64(64 - (at & 31) - width)
        words[at >> 5] |= np.uint32(field >> np.uint64(32))
        words[(at >> 5) + 1] |= np.uint32(field & np.uint64(0xFFFFFFFF))
        at += width
