"""The stream that an encoder by lanes writes, which goes from its end to its front."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from types import ModuleType

import numpy as np

#: So that what is worked on stays in the processor's cache.
_FIELDS_AT_ONCE = 1 << 14
#: Of more fields at once those without bits are dropped.
_FEW = 1000


class QueueShortError(Exception):
    """So many bits more are asked for than there are."""

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


class BitQueue:
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
            QueueShortError: there are fewer.
        """
        missing = n - self._end.size
        if missing > 0:
            fields = []
            while missing > 0:
                if not self._fields:
                    raise QueueShortError(missing)
                fields.append(self._fields.popleft())
                missing -= int(np.add.reduce(fields[-1][1]))
            self._end = np.concatenate([_as_bits(*_joined(fields)), self._end])
        self._end, taken = self._end[: self._end.size - n], self._end[self._end.size - n :]
        return taken

    def packed(self) -> tuple[bytes, int]:
        """All bits as bytes, the highest bit of a byte first, and their number."""
        end = self._end.astype(np.int32), np.ones(self._end.size, np.int32)
        return _pack_fields(*_joined([end, *self._fields]), self._kernels)


def _as_bits(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The bits of each value, the highest of its width first: uint8 of 0 and 1."""
    ends = widths.cumsum(dtype=np.int32)
    shifts = ends.repeat(widths)
    shifts -= np.arange(1, shifts.size + 1, dtype=np.int32)
    bits = values.repeat(widths)
    bits >>= shifts
    return bits.astype(np.uint8) & np.uint8(1)


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
