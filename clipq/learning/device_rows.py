"""Layers' weights on an accelerator: what pruning-quantization asks of them, of all layers at once, in few passes.

The weights lie in rows of ``ROW``, each layer from the start of a row on; zeros, which are pruned anyway, fill up.  So
one operation takes many layers together, and what differs from layer to layer is given by row.  The rows are taken in
blocks, whose intermediate results are small and stay in the processor's cache.

Whatever is added up is an integer, whose sum is the same in any order: results are the same in every run, and the
same for a layer alone as for one among others.

The cost of each pass is given in bytes that its operations read and write, for a float32 weight; a copy is 8.  With
the default conventions they are 151, or 19 copies, of which 18 are the weights and the results themselves; the rest
stays in a block.  Layers that are not large take 8 more, for the copy to their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch

ROW = 4096  # weights
BLOCK = 1024  # rows whose intermediate results stay in the cache
LARGE = 256  # rows of a layer whose sums many would wait for
LANES = 256  # sums of each code, that neighbouring weights do not wait for the same one
BINS = 1 << 16  # values of a digit: 16 bits
_INFINITE = {torch.float32: 0x7F80, torch.float64: 0x7FF0}  # the first digit of Inf, and at most that of NaN


class Layout:
    """Where the weights of layers of given ``sizes`` lie, on a device.

    first_row: of each layer, and the end.
    layer: int64 [rows], of each row.  number: the same, int32 [rows, 1].
    n, start, room: int64 [L], the weights of each layer, its first row, and the bits of a number of which as many as
        share a lane may be added up; of large layers twice as many, and those of a row.
    in_place: layers that fill whole blocks or more of whole rows, and are not copied.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes = sizes
        rows = [max(1, -(-n // ROW)) for n in sizes]
        self.first_row = [sum(rows[:i]) for i in range(len(rows) + 1)]
        self.in_place = [n % ROW == 0 and n >= BLOCK * ROW for n in sizes]
        spare = [(n * ROW // LANES).bit_length() for n in rows]
        room = [min(49, 61 - s) if n >= LARGE else 62 - s for n, s in zip(rows, spare, strict=True)]
        given = torch.tensor([rows, sizes, self.first_row[:-1], room], device="cpu").to(device, non_blocking=True)
        self.layer = torch.repeat_interleave(given[0], output_size=self.first_row[-1])
        self.number = self.layer.int()[:, None]
        self.n, self.start, self.room = given[1:].unbind()
        self._starts: dict[tuple[int, int], torch.Tensor] = {}
        self._lanes: dict[int, torch.Tensor] = {}
        self._sides: dict[int, torch.Tensor] = {}

    def runs(self) -> Iterator[tuple[list[int], slice]]:
        """Layers one behind the other that are copied together, or a single one that is not; their rows."""
        for _, run in groupby(range(len(self.sizes)), lambda i: (self.in_place[i], self.in_place[i] and i)):
            layers = list(run)
            yield layers, slice(self.first_row[layers[0]], self.first_row[layers[-1] + 1])

    def sides(self, each: int) -> torch.Tensor:
        """int32 [L, each]: 1, 2, ...: the number of each layer's sides, or of the only one."""
        if each not in self._sides:
            count = torch.arange(1, 1 + each * len(self.sizes), dtype=torch.int32, device=self.number.device)
            self._sides[each] = count.view(-1, each)
        return self._sides[each]

    def starts(self, factor: int, plus: int = 0) -> torch.Tensor:
        """int32 [rows, 1]: where the numbers of each row's layer start, of which a layer has ``factor``."""
        if (factor, plus) not in self._starts:
            self._starts[factor, plus] = self.number * factor + plus
        return self._starts[factor, plus]

    def lanes(self, factor: int) -> torch.Tensor:
        """int32 [ROW]: where the numbers of each weight's lane start."""
        if factor not in self._lanes:
            lane = torch.arange(ROW, device=self.number.device, dtype=torch.int32) % LANES
            self._lanes[factor] = lane * factor
        return self._lanes[factor]

    def span(self, layer: int) -> slice:
        """Of the rows, laid end to end, what is the layer's."""
        start = self.first_row[layer] * ROW
        return slice(start, start + self.sizes[layer])


@lru_cache(maxsize=16)
def layout(sizes: tuple[int, ...], device: torch.device) -> Layout:
    """Made once for a network and a device."""
    return Layout(sizes, device)


class Survey(NamedTuple):
    """Of each layer and side, the negative one first.

    bins: int32 [L, 2, BINS / 2], weights by the first digit of their magnitude, exact zeros among them.
    n: int64 [L, 2], weights.  extremes: float64 [L, 2], the largest magnitude; NaN in a bad layer.
    bad: bool [L], whether there are NaN or Inf in the layer.
    """

    bins: torch.Tensor
    n: torch.Tensor
    extremes: torch.Tensor
    bad: torch.Tensor


class Assignment(NamedTuple):
    """What gives weights their codes, and where they are added up.

    bounds: of the weights' type [L, K], ascending.
    code_of: uint8 [L, K + 2], of the weights below the first bound, from each bound on, and of ``dropped`` ones.
    scale: float64 [L], of a sum's unit.
    dropped: bool [rows, ROW], or None.
    counts: int32, sums: int64, [L, LANES, codes].
    """

    bounds: torch.Tensor
    code_of: torch.Tensor
    scale: torch.Tensor
    dropped: torch.Tensor | None
    counts: torch.Tensor
    sums: torch.Tensor


class DeviceRows:
    """weights: of one floating type, each of one dimension, on the layout's device.

    block: rows that are taken at a time.
    codes: uint8, quantized: of the weights' type, [rows, ROW]; valid after ``assign`` and ``write``.
    """

    block = BLOCK

    def __init__(self, weights: Sequence[torch.Tensor], layout: Layout) -> None:
        self.layout = layout
        like, n_rows = weights[0], layout.first_row[-1]
        self.quantized = like.new_empty(n_rows, ROW)
        self.codes = like.new_empty(n_rows, ROW, dtype=torch.uint8)
        self.dtype = like.dtype if like.dtype in _INFINITE else torch.float32
        self._blocks: list[tuple[slice, torch.Tensor]] = []
        for layers, rows in layout.runs():
            if layout.in_place[layers[0]]:
                values = weights[layers[0]].contiguous().view(-1, ROW)
            else:  # where the quantized weights will be in the end
                values = self._joined(weights, layers, self.quantized[rows])
            for first, x in enumerate(values.to(self.dtype).split(self.block)):
                start = rows.start + first * self.block
                self._blocks.append((slice(start, start + len(x)), x))

    def _joined(self, weights: Sequence[torch.Tensor], layers: list[int], out: torch.Tensor) -> torch.Tensor:
        first, zeros = self.layout.first_row, out.new_zeros(ROW)
        parts = [
            part for i in layers for part in (weights[i], zeros[: (first[i + 1] - first[i]) * ROW - len(weights[i])])
        ]
        torch.cat(parts, out=out.view(-1))
        return out

    def survey(self) -> Survey:
        """What is asked first."""
        layer, n_layers = self.layout.layer, len(self.layout.sizes)
        bins = self.codes.new_zeros(n_layers * BINS, dtype=torch.int32)
        n, extremes = layer.new_zeros(n_layers, 2), layer.new_zeros(n_layers, 2, dtype=torch.float64)
        for rows, x in self._blocks:
            n_of_rows, extremes_of_rows = self._survey_block(rows, x, bins)
            n.index_add_(0, layer[rows], n_of_rows)
            extremes.scatter_reduce_(0, layer[rows, None].expand(-1, 2), extremes_of_rows.double(), "amax")
        bins = bins.view(n_layers, 2, BINS // 2)
        bad = bins[:, :, _INFINITE[self.dtype] :].sum((1, 2)) > 0
        extremes += 0.0  # no negative zero
        return Survey(bins, n, extremes.masked_fill_(bad[:, None], float("nan")), bad)

    def _survey_block(self, rows: slice, x: torch.Tensor, bins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds to the bins of the first digit; int64 numbers and extremes of either sign, [rows, 2].

        12 bytes for the bins, 12 for the numbers, 4 for the extremes.
        """
        self._count_block(rows, x, (), bins)
        lowest, highest = x.aminmax(dim=1)
        return torch.stack([(x < 0).sum(1), (x > 0).sum(1)], 1), torch.stack([-lowest, highest], 1)

    def count(self, tables: Sequence[torch.Tensor], n_bins: int) -> torch.Tensor:
        """int32 [n_bins]: the weights by a digit of their bits, after the first, which has the sign.

        Digits are signed numbers: the bin is the digit's, from a middle on.

        tables: int32, for each digit before: from the bin of that one to the middle of the bins of the next.
        """
        bins = self.codes.new_zeros(n_bins, dtype=torch.int32)
        for rows, x in self._blocks:
            self._count_block(rows, x, tables, bins)
        return bins

    def _count_block(self, rows: slice, x: torch.Tensor, tables: Sequence[torch.Tensor], bins: torch.Tensor) -> None:
        """Adds to the bins: 12 bytes for the first digit, 20 more for each other."""
        digits = x.view(torch.int16).view(len(x), ROW, -1).unbind(2)[::-1]
        place = (self.layout.starts(BINS, BINS // 2)[rows] + digits[0]).view(-1)
        for table, digit in zip(tables, digits[1:], strict=False):
            place = table.index_select(0, place).view(-1, ROW).add_(digit).view(-1)
        bins.index_add_(0, place, torch.ones_like(bins[:1]).expand(len(place)))

    def drop_first(self, at: torch.Tensor, n: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """bool [rows, ROW]: of a side's weights of magnitude ``at`` the first, as many as make k with the smaller ones.

        at: float64, n, k: int64, [L, 2] or, of all weights together, [L, 1].
        """
        layer, start = self.layout.layer, self.layout.start
        dropped = torch.zeros_like(self.codes, dtype=torch.bool)
        for side in range(at.shape[1]):
            tied, at_least = torch.zeros_like(dropped), torch.zeros_like(start)
            bound = at[:, side].to(self.dtype).index_select(0, layer)[:, None]
            for rows, x in self._blocks:
                magnitude = x.abs() if at.shape[1] == 1 else (-x, x)[side]
                torch.eq(magnitude, bound[rows], out=tied[rows])
                at_least.index_add_(0, layer[rows], (magnitude >= bound[rows]).sum(1))
            in_row = tied.sum(1)
            before = in_row.cumsum(0) - in_row
            wanted = k[:, side] - (n[:, side] - at_least) + before.index_select(0, start)
            left = (wanted.index_select(0, layer) - before)[:, None]
            dropped.logical_or_(tied.cumsum(1, dtype=torch.int32).le(left).logical_and_(tied))
        return dropped

    def assign(
        self,
        bounds: torch.Tensor,
        code_of: torch.Tensor,
        n_codes: int,
        extreme: torch.Tensor,
        dropped: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gives every weight its code; the float64 sum and int64 count of each code's weights, [L, n_codes].

        Those of code 0 mean nothing.

        bounds, code_of, dropped: as ``Assignment`` has them.
        extreme: float64 [L], no weight is larger.
        """
        scale = _power_of_two((self.layout.room - torch.frexp(extreme).exponent).clamp(-1022, 1022))
        counts = self.codes.new_zeros(len(bounds), LANES, n_codes, dtype=torch.int32)
        sums = torch.zeros_like(counts, dtype=torch.int64)
        assignment = Assignment(bounds, code_of, scale, dropped, counts, sums)
        for rows, x in self._blocks:
            self._assign_block(rows, x, assignment)
        high, low = (sums >> 31).sum(1).double(), (sums & (2**31 - 1)).sum(1).double()
        return (high * 2.0**31 + low) / scale[:, None], counts.sum(1)

    def _assign_block(self, rows: slice, x: torch.Tensor, assignment: Assignment) -> None:
        """21 bytes for the code, 57 for sums and counts."""
        bounds, code_of, scale, dropped, counts, sums = assignment
        layer, n_codes = self.layout.layer[rows], counts.shape[2]
        place = torch.searchsorted(bounds.index_select(0, layer), x, right=True, out_int32=True)
        if dropped is not None:
            place.masked_fill_(dropped[rows], bounds.shape[1] + 1)
        place.add_(self.layout.starts(code_of.shape[1])[rows])
        torch.index_select(code_of.view(-1), 0, place.view(-1), out=self.codes[rows].view(-1))
        place = torch.add(self.codes[rows], self.layout.lanes(n_codes))
        place = place.add_(self.layout.starts(LANES * n_codes)[rows]).view(-1)
        counts.view(-1).index_add_(0, place, torch.ones_like(counts.view(-1)[:1]).expand(len(place)))
        sums.view(-1).index_add_(0, place, (x * scale.index_select(0, layer)[:, None]).long().view(-1))

    def write(self, values: torch.Tensor) -> None:
        """Gives every weight its code's value.  values: of the weights' type [L, codes]."""
        for rows, _ in self._blocks:
            self._write_block(rows, values)

    def _write_block(self, rows: slice, values: torch.Tensor) -> None:
        """13 bytes."""
        place = torch.add(self.codes[rows], self.layout.starts(values.shape[1])[rows]).view(-1)
        torch.index_select(values.view(-1), 0, place, out=self.quantized[rows].view(-1))


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent, exactly, float64.  exponent: int64, -1022 .. 1023."""
    return ((exponent + 1023) << 52).view(torch.float64)
