"""A short run of the fuzzer, and that it sees what it is there to see."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from scripts import fuzz

CODERS = ("fixed", "entropy", "best")
FILES = [
    encode_sparse_quantized_net_v2(fuzz.random_net(np.random.default_rng(i)), CODERS[i % 3]).to_bytes()  # type: ignore[arg-type]
    for i in range(30)
]


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_a_damaged_file_of_any_coder_is_a_named_error_or_a_network(seed: int) -> None:
    _, data = fuzz.case(FILES, np.random.default_rng(seed))
    fuzz.read(data)


def test_a_run_counts_every_case() -> None:
    seen: list[int] = []
    report = fuzz.fuzz(200, 0, FILES, seen.append)
    assert sum(report["outcomes"].values()) == report["cases"] == 200 and seen[-1] == 200
    assert {outcome.split(":")[0] for outcome in report["outcomes"]} >= {
        "hand-made", "plain", "cut", "section, checksums right",
    }  # fmt: skip
    assert any(outcome.endswith(": network") for outcome in report["outcomes"])


def test_kernels_that_read_otherwise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "by_numpy", lambda data: fuzz.decode_sparse_quantized_net_v2(FILES[0]))
    assert fuzz.read(FILES[0]) == "network"
    with pytest.raises(AssertionError, match="without Numba's kernels"):
        fuzz.read(FILES[1])


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), ZeroDivisionError()])
def test_another_exception_ends_a_run_with_the_file(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise error

    monkeypatch.setattr(fuzz, "decode_sparse_quantized_net_v2", broken)
    with pytest.raises(RuntimeError, match=r"case 0 \(hand-made\): " + type(error).__name__):
        fuzz.fuzz(1, 0, FILES, lambda done: None)
