"""Reads symbols by lanes: docs/format.md, "Lanes"."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from clipq.entropy.integer_log import PROBABILITY_BITS
from clipq.entropy.lanes import LOW, ONE, ONE_BY_ONE, STATE_BITS, Closing, SymbolTable, steps

_SLOT = np.int32(ONE - 1)
#: The bits that a state lacks, by what is left of it without its lowest ones: after a symbol it is 2^_SHORTEST or more.
_SHORTEST = STATE_BITS - PROBABILITY_BITS
_LENGTHS = np.arange(PROBABILITY_BITS + 2, dtype=np.int32)
_MISSING = np.repeat(_LENGTHS[::-1], 1 << np.maximum(_LENGTHS - 1, 0))
_FROM_HIGHEST = np.arange(STATE_BITS - 1, -1, -1, dtype=np.int32)
#: Streams of at most so many bytes are looked up by the bit.
_SMALL_STREAM = 1 << 16


class LaneDecoder:
    """Reads symbols from ``data``.

    The stream is its bits, the highest of a byte first, from ``at`` to ``n_bits`` - 1.
    kernels: ``lane_kernels``, or None.
    """

    def __init__(
        self, data: bytes | memoryview, n_bits: int, lanes: int, at: int = 0, kernels: ModuleType | None = None
    ) -> None:
        self._kernels = kernels
        stream = np.frombuffer(data, np.uint8)
        self._bytes = np.zeros(len(stream) + lanes * STATE_BITS // 8 + 16, np.uint8)
        self._bytes[: len(stream)] = stream
        self._words = self._four_bytes(0, len(self._bytes) - 3)
        self._from_bit = _from_each_bit(self._words) if self._words.size <= _SMALL_STREAM else None
        self._at, self._end = at, n_bits
        self._returned: list[np.ndarray] = []  # states of closed lanes that are still to be appended
        self._whole = n_bits  # so many bits are there without them
        self._open = lanes
        self._state = self._read(np.full(lanes, STATE_BITS, np.int32)) + np.int32(LOW)

    def decide(self, q: np.ndarray, closing: Closing | None = None) -> np.ndarray:
        """One decision (bool) for each probability (of a one) in ``q``, int32; lanes are closed as ``closing`` says.

        Raises:
            ValueError: the stream ends too early.
        """
        out, done = np.empty(q.size, np.bool_), 0
        for count, size, opened in steps(q.size, self._open, closing):
            self.close(opened)
            state, first = self._state[:size], done
            done += count * size
            if self._kernels:
                self._compiled(self._kernels.decide, (q, out), state, first, done)
                continue
            if size <= ONE_BY_ONE:
                states = state.tolist()
                out[first:done] = self._decide_few(q[first:done].tolist(), states)
                state[:] = states
                continue
            for at in range(first, done, size):
                self._decide_step(q[at : at + size], state, out[at : at + size])
        return out

    def _decide_step(self, q: np.ndarray, state: np.ndarray, ones: np.ndarray) -> None:
        slot, share = state & _SLOT, state >> PROBABILITY_BITS
        np.less(slot, q, out=ones)
        share *= q
        slot += share  # after a one
        share += q
        state -= share  # after a zero
        slot -= state
        slot *= ones
        state += slot
        self._refill(state)

    def _decide_few(self, q: list[int], states: list[int]) -> list[bool]:
        """Some steps of ``decide`` on few lanes, all in each, without the fixed cost of array operations."""
        ones: list[bool] = []
        lanes, words, at = len(states), self._words.data, self._at
        most = lanes * STATE_BITS
        for first in range(0, len(q), lanes):
            if at + most > self._whole:
                self._append_returned()
            for lane, share in enumerate(q[first : first + lanes]):
                state = states[lane]
                slot, high = state & (ONE - 1), state >> PROBABILITY_BITS
                one = slot < share
                ones.append(one)
                state = share * high + slot if one else state - share * (high + 1)
                if state < LOW:
                    missing = STATE_BITS + 1 - state.bit_length()
                    state = state << missing | (words[at >> 3] << (at & 7) & 0xFFFFFFFF) >> (32 - missing)
                    at += missing
                states[lane] = state
            if at > self._whole:
                self._at = at
                self._append_returned()
        self._at = at
        return ones

    def symbols(self, table: SymbolTable, n: int, closing: Closing | None = None) -> np.ndarray:
        """The next n symbols of a table, uint8; ``closing`` and errors as in ``decide``."""
        out, done = np.empty(n, np.uint8), 0
        for count, size, opened in steps(n, self._open, closing):
            self.close(opened)
            state, first = self._state[:size], done
            done += count * size
            if self._kernels:
                self._compiled(self._kernels.symbols, (table.symbol, table.entries, out), state, first, done)
                continue
            for at in range(first, done, size):
                self._symbol_step(table, state, out[at : at + size])
        return out

    def _compiled(self, kernel: Any, arrays: tuple[np.ndarray, ...], state: np.ndarray, first: int, stop: int) -> None:
        """The steps that take symbols ``first`` to ``stop`` - 1, by a kernel."""
        most = state.size * STATE_BITS
        while first < stop:
            if self._at + most > self._whole:
                self._append_returned()
            first, self._at = kernel(*arrays, state, self._words, first, stop, self._at, self._whole - most)
        if self._at > self._whole:
            self._append_returned()

    def _symbol_step(self, table: SymbolTable, state: np.ndarray, symbols: np.ndarray) -> None:
        slot = state & _SLOT
        table.symbol.take(slot, out=symbols, mode="clip")
        entry = table.entries.take(slot)
        state >>= PROBABILITY_BITS
        state *= (entry >> 16).view(np.int32)
        entry &= 0xFFFF
        state += entry.view(np.int32)
        self._refill(state)

    def finish(self) -> np.ndarray:
        """Closes all lanes: the bits that are left then, uint8 of 0 and 1."""
        self.close(0)
        self._append_returned()
        bits: np.ndarray = np.unpackbits(self._bytes[self._at // 8 : -(-self._end // 8)])[self._at % 8 :]
        return bits[: self._end - self._at]

    def _refill(self, state: np.ndarray) -> None:
        """Makes the states that have become too short long enough again."""
        missing = _MISSING.take(state >> _SHORTEST)
        state <<= missing
        state |= self._read(missing)

    def _read(self, widths: np.ndarray) -> np.ndarray:
        """The next unsigned integers of the given widths, int32 from 0 to STATE_BITS."""
        starts, first = widths.cumsum(dtype=np.int32), self._at
        self._at += int(starts[-1])
        if self._at > self._whole:
            self._append_returned()
        starts -= widths
        if self._from_bit is not None:
            words = self._from_bit[first:].take(starts)
        else:
            starts += first & 7
            words = _without_last(self._words[first >> 3 :].take(starts >> 3) << (starts & 7).view(np.uint32))
        words >>= 31 - widths
        return words

    def close(self, keep: int) -> None:
        """Gives the states of all lanes but the first ``keep`` back to the end of the stream."""
        if keep < self._open:
            self._returned.append(self._state[keep : self._open])
            self._end += (self._open - keep) * STATE_BITS
            self._open = keep

    def _append_returned(self) -> None:
        """Appends the closed lanes' states to the stream, when they are about to be read."""
        if self._at > self._end:
            raise ValueError("the stream ends too early")
        if not self._returned:
            return
        bits = ((np.concatenate(self._returned)[:, None] >> _FROM_HIGHEST) & 1).astype(np.uint8).reshape(-1)
        first, before = self._whole // 8, self._whole % 8
        packed = np.packbits(np.concatenate([np.unpackbits(self._bytes[first : first + 1])[:before], bits]))
        self._bytes[first : first + packed.size] = packed
        self._returned, self._whole = [], self._end
        start, stop = max(first - 3, 0), min(first + packed.size, len(self._words))
        self._words[start:stop] = self._four_bytes(start, stop)
        if self._from_bit is not None:
            self._from_bit[8 * start : 8 * stop] = _from_each_bit(self._words[start:stop])

    def _four_bytes(self, start: int, stop: int) -> np.ndarray:
        """The big-endian uint32 that starts at each byte."""
        words = self._bytes[start:stop].astype(np.uint32)
        for after in (1, 2, 3):  # in place, as these are most of what a large stream takes
            words <<= np.uint32(8)
            words |= self._bytes[start + after : stop + after]
        return words


def _from_each_bit(words: np.ndarray) -> np.ndarray:
    """For each bit that a word starts with at each byte: the 31 bits from it on, the last of which may be missing."""
    return _without_last((words[:, None] << np.arange(8, dtype=np.uint32)).reshape(-1))


def _without_last(words: np.ndarray) -> np.ndarray:
    """uint32 to int32."""
    return (words >> np.uint32(1)).view(np.int32)
