"""The passes over float32 weights as kernels of Triton, for CUDA devices: ``device_rows`` with a tenth of the traffic.

A program takes a row, which it keeps in registers.  Bytes for a float32 weight: 4 for the survey, 4 for the second
digit, 5 to assign codes and 5 to write: with the default conventions 18, a bit more than 2 copies; and, of layers that
are not large, 8 for the copy to their rows.  On top come additions to memory: in the survey one for a weight, for codes
two for a weight that is kept.  They are of integers, so the results are those of ``device_rows``, bit for bit.

Nothing of a block's size is stored, so a block may have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from triton import language as tl

from clipq.learning import device_rows
from clipq.learning.device_rows import BINS, LANES, Assignment, DeviceRows


class KernelRows(DeviceRows):
    """Of weights that are float32, or are taken as such."""

    block = 1 << 30

    def _survey_block(self, rows: slice, x: torch.Tensor, bins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = torch.empty_like(self.layout.layer[rows, None].expand(-1, 2), memory_format=torch.contiguous_format)
        extremes = torch.empty_like(n, dtype=torch.float32)
        _run(_survey, x, self.layout.number[rows], bins, n, extremes, BINS=BINS)
        return n, extremes

    def _count_block(self, rows: slice, x: torch.Tensor, tables: Sequence[torch.Tensor], bins: torch.Tensor) -> None:
        (table,) = tables
        _run(_count_second, x, self.layout.number[rows], table, bins, BINS=BINS)

    def _assign_block(self, rows: slice, x: torch.Tensor, assignment: Assignment) -> None:
        bounds, code_of, scale, dropped, counts, sums = assignment
        if dropped is not None:  # seldom wanted
            return super()._assign_block(rows, x, assignment)
        n_bounds = bounds.shape[1]
        step = 1 << (n_bounds.bit_length() - 1)
        _run(
            _assign, x, self.layout.number[rows], bounds, code_of, scale, counts, sums, self.codes[rows],
            n_bounds, step, counts.shape[2], LANES=LANES,
        )  # fmt: skip
        return None

    def _write_block(self, rows: slice, values: torch.Tensor) -> None:
        _run(_write, self.codes[rows], self.layout.number[rows], values, self.quantized[rows], values.shape[1])


def _run(kernel: Any, by_row: torch.Tensor, *others: torch.Tensor | int, **constants: int) -> None:
    """A program for each row; all tensors are contiguous."""
    with torch.cuda.device_of(by_row):
        kernel[(len(by_row),)](by_row, *others, ROW=device_rows.ROW, num_warps=8, **constants)


@triton.jit
def _survey(X, layer_of, bins, n, extremes, ROW: tl.constexpr, BINS: tl.constexpr):
    """Zeros, which are never asked for, are left out: they would all go to one bin."""
    row = tl.program_id(0)
    x = tl.load(X + row.to(tl.int64) * ROW + tl.arange(0, ROW))
    first = tl.load(layer_of + row) * BINS + BINS // 2
    tl.atomic_add(bins + first + (x.to(tl.int32, bitcast=True) >> 16), 1, mask=x != 0, sem="relaxed")
    tl.store(n + row * 2, tl.sum((x < 0).to(tl.int32)).to(tl.int64))
    tl.store(n + row * 2 + 1, tl.sum((x > 0).to(tl.int32)).to(tl.int64))
    tl.store(extremes + row * 2, tl.max(-x))
    tl.store(extremes + row * 2 + 1, tl.max(x))


@triton.jit
def _count_second(X, layer_of, table, bins, ROW: tl.constexpr, BINS: tl.constexpr):
    row = tl.program_id(0)
    bits = tl.load(X + row.to(tl.int64) * ROW + tl.arange(0, ROW)).to(tl.int32, bitcast=True)
    first = tl.load(layer_of + row) * BINS + BINS // 2
    middle = tl.load(table + first + (bits >> 16))
    tl.atomic_add(bins + middle + ((bits << 16) >> 16), 1, mask=middle != BINS // 2, sem="relaxed")


@triton.jit
def _assign(
    X, layer_of, bounds, code_of, scale, counts, sums, codes, n_bounds, step, n_codes,
    ROW: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """step: the largest power of two up to n_bounds."""
    row = tl.program_id(0)
    layer, column = tl.load(layer_of + row), tl.arange(0, ROW)
    x = tl.load(X + row.to(tl.int64) * ROW + column)
    reached = tl.zeros([ROW], tl.int32)  # bounds that are at most x
    while step > 0:
        further = reached + step
        bound = tl.load(bounds + layer * n_bounds + further - 1, mask=further <= n_bounds, other=float("inf"))
        reached = tl.where((x >= bound) & (further <= n_bounds), further, reached)
        step = step // 2
    code = tl.load(code_of + layer * (n_bounds + 2) + reached)
    tl.store(codes + row.to(tl.int64) * ROW + column, code)
    place = (layer * LANES + column % LANES) * n_codes + code.to(tl.int32)
    units = (x.to(tl.float64) * tl.load(scale + layer)).to(tl.int64)
    tl.atomic_add(counts + place, 1, mask=code != 0, sem="relaxed")
    tl.atomic_add(sums + place, units, mask=code != 0, sem="relaxed")


@triton.jit
def _write(codes, layer_of, values, quantized, n_codes, ROW: tl.constexpr):
    row = tl.program_id(0)
    at = row.to(tl.int64) * ROW + tl.arange(0, ROW)
    first = tl.load(layer_of + row) * n_codes
    tl.store(quantized + at, tl.load(values + first + tl.load(codes + at).to(tl.int32)))
