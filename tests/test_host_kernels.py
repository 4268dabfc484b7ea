"""Numba's kernels: every bit is NumPy's, and where they are not there or fail, NumPy does the work."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipq.learning import host_passes
from clipq.learning.host_part import Gap, Part
from clipq.learning.host_passes import gives_the_same, part_kind

FLOAT32 = np.dtype(np.float32)
values = st.sampled_from([0.0, -0.0, np.nan, 0.5, -0.5, 1e-40]) | st.floats(-2, 2, width=32)


def compiled() -> type[Part]:
    return pytest.importorskip("clipq.learning.host_kernels", exc_type=ImportError).CompiledPart


@settings(max_examples=300)
@given(
    x=hnp.arrays(np.float32, st.integers(0, 3000), elements=values),
    ends=st.tuples(st.floats(0, 2, width=32), st.floats(0, 2, width=32)),
    thresholds=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=70).map(sorted),
    share=st.floats(0, 1),
    double=st.booleans(),
)
def test_every_result_is_that_of_numpy(x, ends, thresholds, share, double):
    """Codes, sums, counts and places, whatever positions are thought to be enough."""
    number = np.float64 if double else np.float32
    x, thresholds = x.astype(number), np.array(thresholds, number)
    gap = Gap(-number(ends[0]), number(ends[1]))
    known = np.flatnonzero(~gap.holds(x))
    known = known[: int(share * len(known))]
    results = []
    for kind in (Part, compiled()):
        part = kind(x)
        part.take_candidates(gap, known)
        codes, sums, counts = part.assigned(thresholds, gap, None)
        out = np.zeros(len(x), np.float32)
        part.put(np.arange(72, dtype=np.float32), part.where, codes, out)
        candidates = set(range(len(x)) if part.where is None else part.where.tolist())
        assert candidates >= set(np.flatnonzero(~gap.holds(x)).tolist())
        assert np.array_equal(part.values, part.of_candidates(x), equal_nan=True)
        results.append([part.count_signs(), out.tobytes(), sums[1:].tobytes(), counts[1:].tobytes()])
    assert results[0] == results[1]


def test_they_prove_themselves():
    assert part_kind(FLOAT32) is compiled()
    assert part_kind(np.dtype(np.float64)) is compiled()


class OneCountedTwice(Part):
    def count_signs(self):
        n_neg, n_pos = super().count_signs()
        return n_neg, n_pos + 1


class OneMissing(Part):
    def take_candidates(self, gap, known=None):
        super().take_candidates(gap, known)
        if self.where is not None:
            self.where, self.values = self.where[1:], self.values[1:]


class SummedBackwards(Part):
    """The same numbers, but for rounding."""

    def assigned(self, thresholds, kept, also_pruned):
        codes, _, counts = super().assigned(thresholds, kept, also_pruned)
        sums = np.bincount(codes[::-1].astype(int), weights=self.values[::-1], minlength=len(counts))
        return codes, sums, counts


class PutElsewhere(Part):
    @staticmethod
    def put(entries, where, codes, out):
        Part.put(entries, where, np.roll(codes, 1), out)


class Failing(Part):
    def assigned(self, thresholds, kept, also_pruned):
        raise RuntimeError("no compiler")


@pytest.mark.parametrize("kind", [OneCountedTwice, OneMissing, SummedBackwards, PutElsewhere])
def test_whatever_differs_is_noticed(kind):
    assert gives_the_same(Part, np.float32)
    assert not gives_the_same(kind, np.float32)


@pytest.mark.parametrize(("kind", "warning"), [(OneMissing, "other results"), (Failing, "no compiler")])
def test_kernels_that_fail_are_not_used(kind, warning, monkeypatch):
    monkeypatch.setitem(sys.modules, "clipq.learning.host_kernels", SimpleNamespace(CompiledPart=kind))
    with pytest.warns(UserWarning, match=warning):
        assert host_passes.part_kind.__wrapped__(FLOAT32) is Part


def test_without_numba_numpy_does_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "clipq.learning.host_kernels", raising=False)
    assert host_passes.part_kind.__wrapped__(FLOAT32) is Part
