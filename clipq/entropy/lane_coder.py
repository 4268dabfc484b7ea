"""Many range coders side by side ("lanes", rANS) on one stream of bits: docs/format.md, "Lanes".

A lane's state is an integer of STATE_BITS bits after its leading one.  All lanes decode a symbol in one step of a few
array operations.  Lanes read and return whole bits, and a lane that is closed gives its state back to the end of the
stream; so however many lanes there are, they cost next to nothing: an encoder starts a lane from bits that are to be
stored anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from clipq.entropy.integer_log import PROBABILITY_BITS

STATE_BITS = 21
ONE = 1 << PROBABILITY_BITS
_LOW = 1 << STATE_BITS
#: The unit of a closing's rate, and the most, of 6 bits: so closing lanes takes a bounded number of steps.
RATE_BITS, MAX_RATE = 9, 63
_SLOT = np.int32(ONE - 1)
#: Lanes are closed in steps, and so some of them late; and a lane that stays open holds bits back.
_ROUNDED_UP, _HELD_BACK = 1.25, 0.6
#: So that what is worked on stays in the processor's cache.
_FIELDS_AT_ONCE, _SYMBOLS_AT_ONCE = 1 << 14, 1 << 14
_FEW = 1000
_FROM_HIGHEST = np.arange(STATE_BITS - 1, -1, -1, dtype=np.int32)
_WORTH = (1 << _FROM_HIGHEST).astype(np.float32)
#: The bits that a state lacks, by what is left of it without its lowest ones: after a symbol it is 2^_SHORTEST or more.
_SHORTEST = STATE_BITS - PROBABILITY_BITS
_LENGTHS = np.arange(PROBABILITY_BITS + 2, dtype=np.int32)
_MISSING = np.repeat(_LENGTHS[::-1], 1 << np.maximum(_LENGTHS - 1, 0))
#: Steps of so few symbols are faster without arrays.
_ONE_BY_ONE = 32
#: Streams of at most so many bytes are looked up by the bit.
_SMALL_STREAM = 1 << 16


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
        self._state = self._read(np.full(lanes, STATE_BITS, np.int32)) + np.int32(_LOW)

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
            if size <= _ONE_BY_ONE:
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
                if state < _LOW:
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
        part = self._bytes[start : stop + 3].astype(np.uint32)
        return part[:-3] << 24 | part[1:-2] << 16 | part[2:-1] << 8 | part[3:]


def _from_each_bit(words: np.ndarray) -> np.ndarray:
    """For each bit that a word starts with at each byte: the 31 bits from it on, the last of which may be missing."""
    return _without_last((words[:, None] << np.arange(8, dtype=np.uint32)).reshape(-1))


def _without_last(words: np.ndarray) -> np.ndarray:
    """uint32 to int32."""
    return (words >> np.uint32(1)).view(np.int32)


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


class LaneEncoder:
    """Collects symbols in the decoder's order; ``finish`` codes them, last one first.  Arrays are not copied.

    kernels: as the decoder's.
    """

    def __init__(self, kernels: ModuleType | None = None) -> None:
        self._runs: list[_Run] = []
        self._kernels = kernels

    def decide(self, q: np.ndarray, ones: np.ndarray, closing: Closing | None = None) -> None:
        """Decisions ``ones`` (bool) with probabilities ``q`` of a one; ``closing`` as in ``LaneDecoder.decide``."""

        def part(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            of_part, p = ones[first:stop], q[first:stop].astype(np.int32)
            return np.where(of_part, p, ONE - p), np.where(of_part, 0, p)

        self._runs.append(_Run(q.size, part, closing))

    def symbols(self, table: SymbolTable, symbols: np.ndarray, closing: Closing | None = None) -> None:
        """Symbols (uint8) of a table."""

        def part(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            return table.shares.take(symbols[first:stop]), table.starts.take(symbols[first:stop])

        self._runs.append(_Run(symbols.size, part, closing))

    def close(self, keep: int) -> None:
        """As ``LaneDecoder.close``."""
        self._runs.append(_Run(0, _none, None, keep))

    def finish(self, lanes: int, rest: np.ndarray) -> tuple[bytes, int]:
        """The stream and how many bits of it count.

        rest: uint8 of 0 and 1, what the decoder's ``finish`` gives, but for zeros after it.
        """
        while True:
            try:
                return self._code(lanes, _BitQueue(rest, self._kernels))
            except _QueueShortError as short:  # too many lanes for the symbols after them: some start from zeros
                rest = np.concatenate([rest, np.zeros(short.missing, np.uint8)])

    def _code(self, lanes: int, bits: _BitQueue) -> tuple[bytes, int]:
        state, started = np.full(lanes, _LOW, np.int32), 0
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
        bits.put(state - _LOW, np.full(lanes, STATE_BITS, np.int32))
        return bits.packed()


class _Backward:
    """The inverse of the decoder's steps over a run, from its last one to its first."""

    def __init__(self, part: _Part, kernels: ModuleType | None) -> None:
        self._part, self._kernels, self._first = part, kernels, -1

    def steps(self, starts: range, state: np.ndarray, bits: _BitQueue) -> None:
        """The steps that start with these symbols, one symbol for each state."""
        size, stop = starts.step, starts.start + len(starts) * starts.step
        if self._kernels:
            self._compiled(starts.start, stop, state, bits)
            return
        if size <= _ONE_BY_ONE:
            share, start = self._part(starts.start, stop)
            bits.keep(*_few_backward(share, start, state))
            return
        for first in reversed(starts):
            if self._first < 0 or first < self._first:
                self._look_at(min(first, max(first + size - _SYMBOLS_AT_ONCE, 0)), first + size)
            self._step(slice(first - self._first, first + size - self._first), state, bits)

    def _compiled(self, first: int, stop: int, state: np.ndarray, bits: _BitQueue) -> None:
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

    def _step(self, part: slice, state: np.ndarray, bits: _BitQueue) -> None:
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


def _start(state: np.ndarray, bits: _BitQueue) -> None:
    """Starts lanes from the stream's last bits, which the decoder gets back when it closes these lanes."""
    taken = bits.take(state.size * STATE_BITS).reshape(-1, STATE_BITS).astype(np.float32)
    state[:] = _LOW + (taken @ _WORTH).astype(np.int32)  # exact


def _bit_length(x: np.ndarray) -> np.ndarray:
    """The number of bits of integers from 1 to 2^24 - 1, by the exponent of their exact float32."""
    return (x.astype(np.float32).view(np.int32) >> 23) - 126


def _as_bits(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The bits of each value, the highest of its width first: uint8 of 0 and 1."""
    ends = widths.cumsum(dtype=np.int32)
    shifts = ends.repeat(widths)
    shifts -= np.arange(1, shifts.size + 1, dtype=np.int32)
    bits = values.repeat(widths)
    bits >>= shifts
    return bits.astype(np.uint8) & np.uint8(1)


class _QueueShortError(Exception):
    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


class _BitQueue:
    """A queue of bits that is written at its front and gives bits back from its end, where ``end`` (0 and 1) stands.

    A field is an integer and how many of its lowest bits count.  What has not been asked for yet stays in fields.
    """

    def __init__(self, end: np.ndarray, kernels: ModuleType | None) -> None:
        self._kernels = kernels
        self._fields: deque[tuple[np.ndarray, np.ndarray]] = deque()  # in the order of their coming: the last first
        self._end = end

    def put(self, values: np.ndarray, widths: np.ndarray) -> None:
        """Puts copies of these fields, the first one foremost, before everything else."""
        if widths.size > _FEW:  # most fields have no bits: it pays to drop them while they are in the cache
            some = widths.nonzero()[0]
            values, widths = values.take(some), widths.take(some)
        else:
            values = values.copy()
        self.keep(values, widths)

    def keep(self, values: np.ndarray, widths: np.ndarray) -> None:
        """Puts these fields themselves."""
        self._fields.append((values, widths))

    def take(self, n: int) -> np.ndarray:
        """The last n bits, in their order, as uint8 of 0 and 1.

        Raises:
            _QueueShortError: there are fewer.
        """
        missing = n - self._end.size
        if missing > 0:
            fields = []
            while missing > 0:
                if not self._fields:
                    raise _QueueShortError(missing)
                fields.append(self._fields.popleft())
                missing -= int(np.add.reduce(fields[-1][1]))
            self._end = np.concatenate([_as_bits(*_joined(fields)), self._end])
        self._end, taken = self._end[: self._end.size - n], self._end[self._end.size - n :]
        return taken

    def packed(self) -> tuple[bytes, int]:
        """All bits as bytes, the highest bit of a byte first, and their number."""
        end = self._end.astype(np.int32), np.ones(self._end.size, np.int32)
        return _pack_fields(*_joined([end, *self._fields]), self._kernels)


def _joined(fields: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """These fields, the last ones first."""
    values, widths = zip(*fields, strict=True)
    return np.concatenate(values[::-1]), np.concatenate(widths[::-1])


def _pack_fields(values: np.ndarray, widths: np.ndarray, kernels: ModuleType | None) -> tuple[bytes, int]:
    """The fields, one after the other from the highest bit of the first byte, and how many bits they are."""
    n_bits = int(widths.sum(dtype=np.int64))
    words = np.zeros(n_bits // 32 + 2, np.uint32)
    (kernels.pack if kernels else _pack)(values, widths, words)
    return words.astype(">u4").tobytes()[: (n_bits + 7) // 8], n_bits


def _pack(values: np.ndarray, widths: np.ndarray, words: np.ndarray) -> None:
    """Puts the fields into ``words``, uint32 and 0 at first."""
    at = 0
    for i in range(0, values.size, _FIELDS_AT_ONCE):
        width = widths[i : i + _FIELDS_AT_ONCE]
        starts = width.cumsum(dtype=np.int32)
        total = int(starts[-1])
        starts += (at & 31) - width
        # A field lies in the 64 bits that start with its word; fields do not overlap, so that sums are unions.
        word, room = starts >> 5, 64 - (starts & 31) - width
        first = np.flatnonzero(np.diff(word, prepend=-1))
        value = values[i : i + _FIELDS_AT_ONCE] & (1 << width) - 1
        sums = np.add.reduceat(value.astype(np.uint64) << room.astype(np.uint64), first)
        place = word[first] + (at >> 5)
        words[place] |= (sums >> np.uint64(32)).astype(np.uint32)
        words[place + 1] |= sums.astype(np.uint32)
        at += total
