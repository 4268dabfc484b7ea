"""Writes symbols by lanes, the last one first: the inverse of ``lane_decoder``; docs/format.md, "Lanes"."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np

from clipq.entropy.bit_queue import BitQueue, Bits, QueueShortError
from clipq.entropy.integer_log import PROBABILITY_BITS
from clipq.entropy.lanes import LOW, ONE, ONE_BY_ONE, STATE_BITS, Closing, SymbolTable, steps

#: So that what is worked on stays in the processor's cache.
_SYMBOLS_AT_ONCE = 1 << 14
#: The bits of a share.
SHARE = ONE - 1
_WORTH = (1 << np.arange(STATE_BITS - 1, -1, -1)).astype(np.float32)


#: Shares and starts, int32, of the symbols from one number to before another one.
_Part = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class _Run(NamedTuple):
    """Symbols of the decoder's order, and how lanes are closed meanwhile; ``keep``: lanes closed before, if so."""

    size: int
    part: _Part
    closing: Closing | None
    keep: int | None = None


def _none(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, np.int32), np.zeros(0, np.int32)


def decided(q: np.ndarray, ones: np.ndarray) -> np.ndarray:
    """Decisions ``ones`` (bool) and their probabilities ``q`` of a one, 1 to ONE - 1, in one number each: int16.

    It is q for a one and -q for a zero; so its lowest bits are the decision's own share.
    """
    signed: np.ndarray = np.where(ones, q, -q).astype(np.int16)
    return signed


class LaneEncoder:
    """Collects symbols in the decoder's order; ``finish`` codes them, last one first.  Arrays are not copied.

    kernels: as the decoder's.
    """

    def __init__(self, kernels: ModuleType | None = None) -> None:
        self._runs: list[_Run] = []
        self._kernels = kernels

    def decide(self, decisions: np.ndarray, closing: Closing | None = None) -> None:
        """Decisions as ``decided`` has them; ``closing`` as in ``LaneDecoder.decide``."""

        def part(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            some = decisions[first:stop].astype(np.int32)
            return some & SHARE, np.maximum(-some, 0)

        self._runs.append(_Run(decisions.size, part, closing))

    def symbols(self, table: SymbolTable, symbols: np.ndarray, closing: Closing | None = None) -> None:
        """Symbols (uint8) of a table."""

        def part(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            return table.shares.take(symbols[first:stop]), table.starts.take(symbols[first:stop])

        self._runs.append(_Run(symbols.size, part, closing))

    def close(self, keep: int) -> None:
        """As ``LaneDecoder.close``."""
        self._runs.append(_Run(0, _none, None, keep))

    def finish(self, lanes: int, rest: np.ndarray) -> Bits:
        """The stream.

        rest: uint8 of 0 and 1, what the decoder's ``finish`` gives, but for zeros after it.
        """
        while True:
            try:
                return self._code(lanes, BitQueue(rest, self._kernels))
            except QueueShortError as short:  # too many lanes for the symbols after them: some start from zeros
                rest = np.concatenate([rest, np.zeros(short.missing, np.uint8)])

    def _code(self, lanes: int, bits: BitQueue) -> Bits:
        state, started = np.full(lanes, LOW, np.int32), 0
        planned, opened = [], lanes
        for run in self._runs:
            if run.keep is not None:
                planned.append([(0, 1, min(opened, run.keep))])
            else:
                planned.append(list(steps(run.size, opened, run.closing)))
            opened = planned[-1][-1][2] if planned[-1] else opened
        for run, of_run in zip(reversed(self._runs), reversed(planned), strict=True):
            stop, backward = run.size, _Backward(run.part, self._kernels)
            for count, size, opened in reversed(of_run):
                if opened > started:
                    _start(state[started:opened], bits)
                    started = opened
                backward.steps(range(stop - count * size, stop, size), state[:size], bits)
                stop -= count * size
        if started < lanes:
            _start(state[started:], bits)
        bits.put(state - LOW, np.full(lanes, STATE_BITS, np.int32))
        return bits.packed()


class _Backward:
    """The inverse of the decoder's steps over a run, from its last one to its first."""

    def __init__(self, part: _Part, kernels: ModuleType | None) -> None:
        self._part, self._kernels, self._first = part, kernels, -1

    def steps(self, starts: range, state: np.ndarray, bits: BitQueue) -> None:
        """The steps that start with these symbols, one symbol for each state."""
        size, stop = starts.step, starts.start + len(starts) * starts.step
        if self._kernels:
            self._compiled(starts.start, stop, state, bits)
            return
        if size <= ONE_BY_ONE:
            share, start = self._part(starts.start, stop)
            bits.keep(*_few_backward(share, start, state))
            return
        for first in reversed(starts):
            if self._first < 0 or first < self._first:
                self._look_at(min(first, max(first + size - _SYMBOLS_AT_ONCE, 0)), first + size)
            self._step(slice(first - self._first, first + size - self._first), state, bits)

    def _compiled(self, first: int, stop: int, state: np.ndarray, bits: BitQueue) -> None:
        """The same by a kernel, some steps at a time."""
        assert self._kernels
        together = max(_SYMBOLS_AT_ONCE // state.size, 1) * state.size
        values, widths = np.empty((2, min(together, stop - first)), np.int32)
        while stop > first:
            begin = max(first, stop - together)
            share, start = self._part(begin, stop)
            some = self._kernels.backward(share, start, state, values, widths)
            bits.keep(values[some:].copy(), widths[some:].copy())
            stop = begin

    def _look_at(self, first: int, stop: int) -> None:
        self._first = first
        share, self._start = self._part(first, stop)
        limit = share << (STATE_BITS + 1 - PROBABILITY_BITS)
        self._excess = np.maximum((STATE_BITS + 1) - _bit_length(limit), 0)
        self._one_more = limit << self._excess
        self._share, self._rest = share.astype(np.float32), ONE - share

    def _step(self, part: slice, state: np.ndarray, bits: BitQueue) -> None:
        excess = self._excess[part] + (state >= self._one_more[part])
        bits.put(state, excess)
        high = state >> excess
        quotient = (high.astype(np.float32) / self._share[part]).astype(np.int32)  # exact: 64 <= quotient < 128
        quotient *= self._rest[part]
        quotient += high
        np.add(quotient, self._start[part], out=state)


def _few_backward(share: np.ndarray, start: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some steps on few lanes, all in each, without the fixed cost of array operations: the fields they put."""
    lanes, n = state.size, share.size
    shares, starts, widths = share.tolist(), start.tolist(), [0] * n
    values = widths.copy()
    for lane, x in enumerate(state.tolist()):
        for i in range(n - lanes + lane, -1, -lanes):
            f = shares[i]
            high = x
            while high >= f << (STATE_BITS + 1 - PROBABILITY_BITS):
                high >>= 1
                widths[i] += 1
            values[i] = x
            x = high + high // f * (ONE - f) + starts[i]
        state[lane] = x
    return np.array(values, np.int32), np.array(widths, np.int32)


def _start(state: np.ndarray, bits: BitQueue) -> None:
    """Starts lanes from the stream's last bits, which the decoder gets back when it closes these lanes."""
    taken = bits.take(state.size * STATE_BITS).reshape(-1, STATE_BITS).astype(np.float32)
    state[:] = LOW + (taken @ _WORTH).astype(np.int32)  # exact


def _bit_length(x: np.ndarray) -> np.ndarray:
    """The number of bits of integers from 1 to 2^24 - 1, by the exponent of their exact float32."""
    return (x.astype(np.float32).view(np.int32) >> 23) - 126
