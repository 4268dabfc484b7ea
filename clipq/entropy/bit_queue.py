"""The stream that an encoder by lanes writes, which goes from its end to its front."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

#: So that what is worked on stays in the processor's cache.
_FIELDS_AT_ONCE = 1 << 14
#: Of more fields at once those without bits are dropped.
_FEW = 1000
#: So many fields wait to be packed, at most, and those put last.
_WAITING = 1 << 16


class QueueShortError(Exception):
    """So many bits more are asked for than there are."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


class Bits(NamedTuple):
    """The first ``size`` bits of ``data`` (uint8), the highest bit of a byte first; those after them are 0."""

    data: np.ndarray
    size: int

    @classmethod
    def of(cls, bits: np.ndarray) -> Bits:
        """Of an array of 0 and 1."""
        return cls(np.packbits(bits), bits.size)

    def unpacked(self) -> np.ndarray:
        """uint8 of 0 and 1."""
        return np.unpackbits(self.data, count=self.size)


def concatenated(parts: Sequence[Bits]) -> Bits:
    """One part's bits after the other's."""
    size = sum(part.size for part in parts)
    data, at = np.zeros(size // 8 + 2, np.uint8), 0
    for part in parts:
        first, shift = divmod(at, 8)
        data[first : first + part.data.size] |= part.data >> np.uint8(shift)
        if shift:
            data[first + 1 : first + 1 + part.data.size] |= part.data << np.uint8(8 - shift)
        at += part.size
    return Bits(data[: (size + 7) // 8], size)


class BitQueue:
    """A queue of bits that is written at its front and gives bits back from its end, where ``end`` (0 and 1) stands.

    A field is an integer and how many of its lowest bits count.  What was put first is packed when much waits.
    """

    def __init__(self, end: np.ndarray, kernels: ModuleType | None) -> None:
        self._kernels = kernels
        self._fields: list[tuple[np.ndarray, np.ndarray]] = []  # in the order of their coming: the last first
        self._waiting = 0
        self._packed: deque[Bits] = deque()  # so, too
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
        self._waiting += widths.size
        if self._waiting > _WAITING:
            self._pack()

    def take(self, n: int) -> np.ndarray:
        """The last n bits, in their order, as uint8 of 0 and 1.

        Raises:
            QueueShortError: there are fewer.
        """
        if n > self._end.size:
            self._unpack(n - self._end.size)
        self._end, taken = self._end[: self._end.size - n], self._end[self._end.size - n :]
        return taken

    def _unpack(self, missing: int) -> None:
        """Puts so many bits more to the end, or more of them."""
        bits = [self._end]
        while missing > 0:
            if not self._packed:
                self._pack()
            if not self._packed:
                raise QueueShortError(missing)
            bits.append(self._packed.popleft().unpacked())
            missing -= bits[-1].size
        self._end = np.concatenate(bits[::-1])

    def _pack(self) -> None:
        if self._fields:
            self._packed.append(_pack_fields(*_joined(self._fields), self._kernels))
            self._fields, self._waiting = [], 0

    def packed(self) -> Bits:
        """All bits."""
        self._pack()
        return concatenated([*reversed(self._packed), Bits.of(self._end)])


def _joined(fields: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """These fields, the last ones first."""
    values, widths = zip(*fields, strict=True)
    return np.concatenate(values[::-1]), np.concatenate(widths[::-1])


def _pack_fields(values: np.ndarray, widths: np.ndarray, kernels: ModuleType | None) -> Bits:
    """The fields, one after the other."""
    n_bits = int(widths.sum(dtype=np.int64))
    words = np.zeros(n_bits // 32 + 2, np.uint32)
    (kernels.pack if kernels else _pack)(values, widths, words)
    return Bits(words.astype(">u4").view(np.uint8)[: (n_bits + 7) // 8], n_bits)


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
