"""The relative index of a sparse layer: gaps between kept weights, bridged by filler zeros where they are too wide.

Source: Han et al., Deep Compression (ICLR 2016), section 2; CLIP-Q names the "standard sparse encoding scheme".
The rules are those of docs/format.md, coder ``fixed``; the width of an index is assumption A08.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_INDEX_BITS = 24


@dataclass(frozen=True, eq=False)
class RelativeIndex:
    """The stored entries of a layer of n weights.

    index_bits: width of a gap, 0..24.
    gaps: uint32 [n_entries], zero weights between an entry and the one before it, below 2^index_bits.
    codes: uint8 [n_entries], 0 for a filler.
    """

    index_bits: int
    gaps: np.ndarray
    codes: np.ndarray

    @property
    def n_entries(self) -> int:
        return self.codes.size

    @property
    def n_fillers(self) -> int:
        return self.codes.size - int(np.count_nonzero(self.codes))


def zero_runs(codes: np.ndarray) -> np.ndarray:
    """The number of zeros before each kept weight, in C order: int64 [n_kept] of ``codes`` (any shape)."""
    return np.diff(np.flatnonzero(codes.reshape(-1) != 0), prepend=-1) - 1


def entry_counts(runs: np.ndarray) -> list[int]:
    """The number of entries, fillers included, for each index width w = 0, 1, ... up to the first without fillers."""
    n_kept = runs.size
    counts: list[int] = []
    while len(counts) <= MAX_INDEX_BITS:
        counts.append(n_kept + int(runs.sum()))
        if counts[-1] == n_kept:
            break
        runs = runs >> 1
        runs = runs[runs > 0]
    return counts


def relative_index(codes: np.ndarray, index_bits: int) -> RelativeIndex:
    """The entries of a layer's ``codes`` (uint8, any shape, C order) with gaps of ``index_bits`` bits."""
    flat = codes.reshape(-1)
    kept = np.flatnonzero(flat != 0)
    runs = np.diff(kept, prepend=-1) - 1
    fillers = runs >> index_bits
    places = np.cumsum(fillers + 1) - 1  # where each kept weight stands among the entries
    n_entries = int(places[-1]) + 1 if kept.size else 0
    gaps = np.full(n_entries, 2**index_bits - 1, np.uint32)
    gaps[places] = runs & (2**index_bits - 1)
    entries = np.zeros(n_entries, np.uint8)
    entries[places] = flat[kept]
    return RelativeIndex(index_bits, gaps, entries)


def expand(index: RelativeIndex, n: int) -> np.ndarray:
    """The codes of all n weights, uint8 [n]: the inverse of ``relative_index``.

    Raises:
        ValueError: an entry lies beyond the n weights, a filler is not a full one, or one is the last entry.
    """
    codes = np.zeros(n, np.uint8)
    if not index.n_entries:
        return codes
    positions = np.cumsum(index.gaps, dtype=np.int64)
    positions += np.arange(index.n_entries)
    if positions[-1] >= n:
        raise ValueError(f"expected entries within the layer's {n} weights, got the position {int(positions[-1])}")
    if index.codes[-1] == 0 or np.any(index.gaps[index.codes == 0] != 2**index.index_bits - 1):
        raise ValueError(f"expected fillers to have gap {2**index.index_bits - 1} and a kept weight after them")
    codes[positions] = index.codes
    return codes
