"""A step of training on a CUDA device by kernels of Triton alone, for the default readings: started as one graph for
any number of layers, in little more than the time of reading the weights three times and writing the results.

A program takes a part of a row of a layer, as ``device_rows`` lays them out, but reads the weights where they are.  A
side's clip is the k-th of its magnitudes, taken as integers: keys.  A sample tells between which keys it lies, most
likely; the first pass counts what lies below and sorts what lies between into bins, the next ones what lies in the bin
that holds the clip.  Where the sample misled, the second pass takes all keys.  Passes that are not needed end at once.

Sums are of integers, the same in any order, and the same as those of ``device_rows``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import torch

from clipq.learning import device_rows
from clipq.learning import device_step_kernels as kernels
from clipq.learning.device_rows import LANES, ROW, layout
from clipq.learning.device_weights import DeviceLayers, Numbers
from clipq.quantized_net import LayerSetting

SAMPLE = 4096  # weights of a layer
MARGIN = 5.0  # standard deviations of a rank in the sample
PASSES = 4  # after a first one for nothing, 31 bits of a key, 12 at a time
USUAL = 2  # passes that mostly find the clip
MANY = 8  # parts that a program of a further pass looks at
USES = 3  # of a plan, before it is made a graph
COUNTED = {"SIZE": ROW // 2, "PARTS": 2, "num_warps": 8}  # the parts of a row that are counted
ASSIGNED = {"SIZE": ROW // 8, "PARTS": 8, "num_warps": 1}  # and those that get their codes


def learn_step(weights: Sequence[torch.Tensor], settings: Sequence[LayerSetting]) -> DeviceLayers:
    """``device_weights.learn_together`` for the default readings and weights of up to 32 bits."""
    weights = [x.contiguous() for x in weights]
    like, n_layers = weights[0], len(weights)
    n_codes = 2 ** max(setting.b for setting in settings)
    addresses = [x.data_ptr() for x in weights]
    aligned = all(address % 16 == 0 for address in addresses)
    stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0
    plan = _plan(tuple(x.numel() for x in weights), n_codes, aligned, like.dtype, like.device, stream)
    n_rows = plan.rows.first_row[-1]
    quantized, codes = like.new_empty(n_rows, ROW), like.new_empty(n_rows, ROW, dtype=torch.uint8)
    results = like.new_empty(sum(_sizes(n_layers, n_codes)), dtype=torch.int64)
    plan.run([quantized.data_ptr(), codes.data_ptr(), results.data_ptr(), *addresses], settings)
    return DeviceLayers(range(n_layers), plan.rows, quantized, codes, partial(_numbers, results, n_layers, n_codes))


def _sizes(n_layers: int, n_codes: int) -> list[int]:
    """Of counts, sides and levels, which lie one behind the other, in words of 8 bytes."""
    return [n_layers * n_codes, n_layers * 6, n_layers * n_codes // 2]


def _numbers(results: torch.Tensor, n_layers: int, n_codes: int) -> Numbers:
    counts, sides, levels = results.split(_sizes(n_layers, n_codes))
    levels, counts = levels.view(torch.float32).view(n_layers, -1), counts.view(n_layers, -1)
    return Numbers(levels[:, 1:], counts[:, 1:], sides.view(torch.float64).view(6, -1))


class Plan:
    """The kernels' starts for layers of given sizes, on one stream, and the memory that they share.

    rows: where quantized weights and codes lie.
    """

    def __init__(
        self, sizes: tuple[int, ...], n_codes: int, aligned: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        n = len(sizes)
        self.rows = layout(sizes, device)
        self._n_codes, self._aligned = n_codes, aligned
        self._like = torch.empty(1, dtype=dtype, device=device)
        self._table = torch.empty(3 + n, dtype=torch.int64, device=device)
        self._p, self._scale = torch.empty(2, n, dtype=torch.float64, device=device)
        self._b = torch.empty(n, dtype=torch.int32, device=device)
        self._sent: list[list[Any]] = [[], [], []]
        self._bounds = torch.empty(n, n_codes, dtype=torch.float32, device=device)
        self._middles = torch.empty_like(self._bounds, dtype=torch.float64)
        shapes = [(PASSES, n, 2, kernels.BINS.value), (n, 2, kernels.FIELDS.value)]
        shapes += [(n, kernels.SEEN.value, kernels.FIELDS.value), (n, LANES, n_codes), (n, LANES, 2 * n_codes)]
        numbers = [torch.Size(shape).numel() for shape in shapes]
        self._zeros = torch.empty(sum(numbers), dtype=torch.int32, device=device)
        parts = [part.view(shape) for part, shape in zip(self._zeros.split(numbers), shapes, strict=True)]
        self._bins, self._state, self._seen, self._counts, sums = parts
        self._sums = sums.view(torch.int64)
        self._uses, self._lock = 0, Lock()
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, addresses: list[int], settings: Sequence[LayerSetting]) -> None:
        """addresses: of quantized weights, codes, ``_numbers`` and each layer's weights."""
        numbers: list[list[Any]] = [addresses, [float(s.p) for s in settings], [int(s.b) for s in settings]]
        with self._lock, torch.cuda.device_of(self._like):
            for i, (given, new) in enumerate(zip((self._table, self._p, self._b), numbers, strict=True)):
                if new != self._sent[i]:
                    given.copy_(torch.tensor(new, dtype=given.dtype, device="cpu"), non_blocking=True)
                    self._sent[i] = new
            if self._graph:
                self._graph.replay()
            else:
                self._start()
                self._uses += 1
                if self._uses == USES and self._like.is_cuda:
                    self._graph = _captured(self._start)

    def _start(self) -> None:
        n_layers, n_rows, n_codes = self._b.numel(), self.rows.first_row[-1], self._n_codes
        layers = (self._table, self.rows.n)
        by_part = (*layers, self.rows.start, self.rows.number, self._like, self._state)
        self._zeros.zero_()
        kernels.bracket[(n_layers, 2)](*layers, self._p, self._like, self._state, MARGIN, SAMPLE=SAMPLE, num_warps=8)
        for i, bins in enumerate(self._bins):
            n_parts, each = n_rows * COUNTED["PARTS"], 1 if i < USUAL else MANY
            kernels.count[(-(-n_parts // each),)](
                *by_part, self._seen, bins, n_parts, FIRST=i == 0, EACH=each, ALIGNED=self._aligned, **COUNTED
            )
            kernels.choose[(n_layers, 2)](self._p, self._state, self._seen, bins, FIRST=i == 0, num_warps=8)
        kernels.partition[(n_layers,)](
            self._table, self._b, self.rows.room, self._state, self._seen, self._scale, self._bounds, self._middles,
            n_layers, N=n_codes, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
        sums = (self._scale, self._sums, self._counts)
        kernels.assign[(n_rows * ASSIGNED["PARTS"],)](
            *by_part,
            self._p,
            self._bounds,
            *sums,
            N=n_codes,
            LARGE=device_rows.LARGE * ROW,
            LANES=LANES,
            ALIGNED=self._aligned,
            **ASSIGNED,
        )
        kernels.average[(n_layers, n_codes)](
            self._table, self._seen, *sums, self._middles, n_layers, N=n_codes, LANES=LANES, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
        kernels.write[(n_rows,)](self._table, self.rows.number, self._like, n_layers, N=n_codes, ROW=ROW, num_warps=8)


@lru_cache(maxsize=32)
def _plan(
    sizes: tuple[int, ...], n_codes: int, aligned: bool, dtype: torch.dtype, device: torch.device, stream: int
) -> Plan:
    with torch.inference_mode(False):  # whoever comes first; its memory is written to in any mode
        return Plan(sizes, n_codes, aligned, dtype, device)


def _captured(start: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """What starts, as a graph.  Nothing in it is made anew, so that no allocator takes part."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        start()
        graph.capture_end()
    return graph
