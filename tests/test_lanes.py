from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.entropy.lane_decoder import LaneDecoder
from clipq.entropy.lane_encoder import LaneEncoder, decided
from clipq.entropy.lanes import ONE, Closing, SymbolTable, steps

NOTHING = np.zeros(0, np.uint8)
both_ways = pytest.mark.parametrize("compiled", [False, True])


def kernels(compiled: bool) -> ModuleType | None:
    return pytest.importorskip("clipq.entropy.lane_kernels", exc_type=ImportError) if compiled else None


@both_ways
def test_a_stream_by_hand(compiled: bool) -> None:
    """docs/format.md, "Worked example of a lane"."""
    encoder = LaneEncoder(kernels(compiled))
    encoder.decide(decided(np.array([0x4000, 0x1000, 0x6000], np.int32), np.array([True, False, True])))
    stream, n_bits = encoder.finish(1, NOTHING)
    assert (stream.tobytes().hex(" "), n_bits) == ("85 00 00", 22)


def test_one_decision_after_the_other_as_the_document_has_it() -> None:
    """The state of the one lane, step by step, from the stream of the example above."""
    bits = [1, 0, 0, 0, 0, 1, 0, 1, *[0] * 14]
    x = int("1" + "".join(map(str, bits[:21])), 2)
    rest = bits[21:]
    seen = []
    for q in (0x4000, 0x1000, 0x6000):
        slot = x % ONE
        one = slot < q
        share, start = (q, 0) if one else (ONE - q, q)
        x = share * (x >> 15) + slot - start
        while x < 1 << 21:
            x = 2 * x + rest.pop(0)
        seen.append(one)
    assert seen == [True, False, True]
    assert (x, rest) == (1 << 21, [])


@both_ways
@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    lanes=st.integers(1, 40),
    n=st.integers(0, 300),
    m=st.integers(0, 200),
    rate=st.integers(0, 63),
    fair=st.booleans(),
)
def test_what_was_encoded_is_decoded(
    compiled: bool, seed: int, lanes: int, n: int, m: int, rate: int, fair: bool
) -> None:
    rng = np.random.default_rng(seed)
    q = rng.integers(1, ONE, n).astype(np.int32)
    ones = rng.random(n) < (q / ONE if fair else 0.5)
    table = SymbolTable(np.array([1, 0, 5000, ONE - 5001]))
    symbols = rng.choice(np.array([0, 2, 3], np.uint8), m)
    half, rest = Closing(2, rate, m - m // 2), Closing(1, rate)
    encoder = LaneEncoder(kernels(compiled))
    encoder.decide(decided(q, ones), Closing(lanes // 2 + 1, 3))
    encoder.close(1 + lanes // 3)
    encoder.symbols(table, symbols[: m // 2], half)
    encoder.symbols(table, symbols[m // 2 :], rest)
    end = rng.integers(0, 2, seed % 100).astype(np.uint8)
    stream, n_bits = encoder.finish(lanes, end)
    assert len(stream) == (n_bits + 7) // 8
    decoder = LaneDecoder(stream, n_bits, lanes, kernels=kernels(compiled))
    assert np.array_equal(decoder.decide(q, Closing(lanes // 2 + 1, 3)), ones)
    decoder.close(1 + lanes // 3)
    assert np.array_equal(decoder.symbols(table, m // 2, half), symbols[: m // 2])
    assert np.array_equal(decoder.symbols(table, m - m // 2, rest), symbols[m // 2 :])
    left = decoder.finish()
    assert np.array_equal(left[: end.size], end)
    assert not left[end.size :].any()


def test_a_certain_symbol_takes_no_bits() -> None:
    certain = SymbolTable(np.array([0, ONE, 0]))
    encoder = LaneEncoder()
    encoder.symbols(certain, np.ones(1000, np.uint8))
    stream, n_bits = encoder.finish(3, NOTHING)
    assert n_bits <= 3 * 21 + 21  # the lanes' states, and the zeros that one of them starts from
    assert LaneDecoder(stream, n_bits, 3).symbols(certain, 1000).tolist() == [1] * 1000


@pytest.mark.parametrize("lanes", [1, 20, 300])
def test_lanes_cost_next_to_nothing(lanes: int) -> None:
    """Within 8 bytes and 0.05 % of the decisions' own information, however many lanes there are."""
    rng = np.random.default_rng(lanes)
    q = rng.integers(300, ONE - 300, 20_000).astype(np.int32)
    ones = rng.random(q.size) < q / ONE
    information = -np.log2(np.where(ones, q, ONE - q) / ONE).sum() / 8
    encoder = LaneEncoder()
    encoder.decide(decided(q, ones), Closing(1, 12))
    stream, _ = encoder.finish(lanes, NOTHING)
    assert information <= len(stream) + 4
    assert len(stream) <= 1.0005 * information + 8


def test_steps_keep_a_lane_for_each_so_many_symbols_to_come() -> None:
    assert list(steps(10, 4, None)) == [(2, 4, 4), (1, 2, 4)]
    half = 256  # of 2^9
    assert list(steps(7, 9, Closing(1, half))) == [(1, 4, 4), (1, 2, 2), (1, 1, 1)]
    assert list(steps(3, 4, Closing(1, half, after=3))) == [(1, 3, 4)]
    assert list(steps(2, 1, Closing(1, 1))) == [(2, 1, 1)]
    assert list(steps(0, 4, Closing(1, 1))) == []


def test_large_numbers_of_lanes_are_rounded_up_to_three_bits() -> None:
    assert [Closing(2, 512).still_open(n) for n in (0, 7, 8, 9, 15, 17, 33, 64, 65)] == [
        2,
        9,
        10,
        12,
        18,
        22,
        42,
        66,
        82,
    ]


@both_ways
def test_a_stream_that_ends_early_is_refused(compiled: bool) -> None:
    encoder = LaneEncoder()
    q = np.full(1000, ONE // 2, np.int32)
    encoder.decide(decided(q, np.arange(1000) % 3 == 0))
    stream, n_bits = encoder.finish(4, NOTHING)
    for shorter in (50, n_bits - 1):
        with pytest.raises(ValueError, match="ends too early"):
            LaneDecoder(stream[: (shorter + 7) // 8], shorter, 4, kernels=kernels(compiled)).decide(q)


def test_what_is_left_is_given() -> None:
    encoder = LaneEncoder()
    q = np.full(100, ONE // 2, np.int32)
    encoder.decide(decided(q, np.zeros(100, np.bool_)))
    stream, n_bits = encoder.finish(1, np.ones(5, np.uint8))
    decoder = LaneDecoder(stream, n_bits, 1)
    decoder.decide(q)
    left = decoder.finish()
    assert (left[:5].tolist(), left[5:].any()) == ([1] * 5, False)
