"""What takes lanes from step to step: Numba's kernels where they have proved themselves, or else NumPy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np

from clipq.entropy.lane_decoder import LaneDecoder
from clipq.entropy.lane_encoder import LaneEncoder, decided
from clipq.entropy.lanes import ONE, Closing, SymbolTable
from clipq.proved import unless_it_fails

WITHOUT_NUMBA = "entropy coding goes without Numba's kernels"
#: For fewer symbols Numba is not loaded, which takes as long as NumPy needs for about as many.
_WORTH_LOADING = 1 << 23
_numpy_alone = ContextVar("_numpy_alone", default=False)


def kernels_for(n: int) -> ModuleType | None:
    """What the coder of n symbols takes for its ``kernels``."""
    worth_it = n >= _WORTH_LOADING or "numba" in sys.modules
    return _proved_kernels() if worth_it and not _numpy_alone.get() else None


@contextmanager
def numpy_alone() -> Iterator[None]:
    """Until it ends lanes go as where Numba is not installed, for comparisons."""
    before = _numpy_alone.set(True)
    try:
        yield
    finally:
        _numpy_alone.reset(before)


@cache
def _proved_kernels() -> ModuleType | None:
    def proved() -> ModuleType | None:
        kernels = import_module("clipq.entropy.lane_kernels")
        return kernels if give_the_same(kernels) else None

    return unless_it_fails(proved, WITHOUT_NUMBA)


def give_the_same(kernels: ModuleType) -> bool:
    """Whether streams and what is read from them are those of NumPy, on few lanes and many."""
    return all(_coded(kernels, lanes) == _coded(None, lanes) for lanes in (1, 20, 700))


def _coded(kernels: ModuleType | None, lanes: int) -> list[bytes]:
    random = np.random.default_rng(lanes)
    q = np.concatenate([[1, ONE - 1, 1, ONE - 1], random.integers(1, ONE, 4000)]).astype(np.int32)
    ones = random.random(q.size) < q / ONE
    ones[:2] = True, False
    table = SymbolTable(np.array([1, 0, 5000, ONE - 5001]))
    some = random.choice(np.array([0, 2, 3], np.uint8), 1000)
    encoder, closings = LaneEncoder(kernels), (Closing(lanes // 2 + 1, 3, 9), Closing(1, 9))
    encoder.decide(decided(q, ones), closings[0])
    encoder.symbols(table, some, closings[1])
    stream = encoder.finish(lanes, np.ones(77, np.uint8))
    decoder = LaneDecoder(stream.data.tobytes(), stream.size, lanes, kernels=kernels)
    read = decoder.decide(q, closings[0]), decoder.symbols(table, some.size, closings[1]), decoder.finish()
    return [stream.data.tobytes(), *(part.tobytes() for part in read)]
