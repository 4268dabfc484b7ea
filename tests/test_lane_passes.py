"""Numba's kernels for lanes: every bit is NumPy's, and where they are not there or fail, NumPy does the work."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.entropy import lane_passes
from clipq.entropy.lane_decoder import LaneDecoder
from clipq.entropy.lane_passes import give_the_same, kernels_for, numpy_alone
from clipq.entropy.lanes import ONE, Closing, SymbolTable


def compiled() -> ModuleType:
    return pytest.importorskip("clipq.entropy.lane_kernels", exc_type=ImportError)


def read(kernels: ModuleType | None, data: bytes, n_bits: int, at: int, lanes: int, seed: int) -> list[Any]:
    """What a stream gives, decisions and symbols in turn, or what it is refused with."""
    rng = np.random.default_rng(seed)
    table = SymbolTable(np.array([1, 0, 5000, ONE - 5001]))
    found: list[Any] = []
    try:
        decoder = LaneDecoder(data, n_bits, lanes, at, kernels)
        for _ in range(4):
            q = rng.integers(1, ONE, rng.integers(0, 200)).astype(np.int32)
            closing = [None, Closing(lanes // 3 + 1, 20, 40), Closing(1, 63)][rng.integers(3)]
            found.append(decoder.decide(q, closing).tolist())
            found.append(decoder.symbols(table, int(rng.integers(0, 200)), closing).tolist())
        found.append(decoder.finish().tolist())
    except ValueError as error:
        found.append(str(error))
    return found


@settings(max_examples=300)
@given(
    data=st.binary(min_size=1, max_size=400),
    cut=st.integers(0, 7),
    at=st.integers(0, 5),
    lanes=st.integers(1, 150),
    seed=st.integers(0, 2**32),
)
def test_any_stream_gives_the_same(data: bytes, cut: int, at: int, lanes: int, seed: int) -> None:
    """Whatever the bits are, and wherever they end."""
    arguments = data, max(8 * len(data) - cut, at), at, lanes, seed
    assert read(compiled(), *arguments) == read(None, *arguments)


def test_they_prove_themselves() -> None:
    assert kernels_for(1 << 30) is compiled()


def test_comparisons_go_without_them() -> None:
    with numpy_alone():
        assert kernels_for(1 << 30) is None
    assert kernels_for(1 << 30) is compiled()


@pytest.mark.parametrize("name", ["decide", "symbols", "backward", "pack"])
def test_whatever_differs_is_noticed(name: str) -> None:
    """A kernel that sees its integers one too large."""
    real = compiled()

    def wrong(*arguments: Any) -> Any:
        return getattr(real, name)(*(a + 1 if i == 0 else a for i, a in enumerate(arguments)))

    names = "decide", "symbols", "backward", "pack"
    stand_in = SimpleNamespace(**{k: wrong if k == name else getattr(real, k) for k in names})
    assert give_the_same(real)
    assert not give_the_same(stand_in)  # type: ignore[arg-type]


def test_kernels_that_fail_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clipq.entropy.lane_kernels", SimpleNamespace())
    with pytest.warns(UserWarning, match="entropy coding goes without Numba's kernels: .*no attribute"):
        assert lane_passes._proved_kernels.__wrapped__() is None


def test_without_numba_numpy_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "clipq.entropy.lane_kernels", raising=False)
    assert lane_passes._proved_kernels.__wrapped__() is None


def test_numba_is_not_loaded_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    assert kernels_for(1000) is None
    assert "numba" not in sys.modules
