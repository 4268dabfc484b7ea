import format_reader
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.byte_reader import ByteReader, InvalidValueError, TruncatedError
from clipq.entropy.bit_fields import BitReader, bit_array
from clipq.entropy.codebook import pack_codebook, read_codebook

BITS = st.one_of(st.integers(0, 2**32 - 1), st.floats(width=32).map(lambda x: int(np.float32(x).view(np.uint32))))


def _read(text: str, used: np.ndarray, negative: int) -> np.ndarray:
    data = np.packbits(np.append(bit_array(text), np.uint8(1))).tobytes()
    bits = BitReader(ByteReader(memoryview(data), "codebook", 0, len(data)), data)
    levels = read_codebook(bits, used, negative)
    assert bits.at == bits.size
    return levels


@given(
    st.lists(st.tuples(BITS, st.booleans()), min_size=1, max_size=40),
    st.integers(0, 40),
    st.sampled_from([0, 8, 16, 25]),
)
def test_used_levels_come_back_whatever_their_bits(levels: list[tuple[int, bool]], negative: int, zeros: int) -> None:
    values = (np.array([bits for bits, _ in levels], np.uint32) >> zeros << zeros).view(np.float32)
    used = np.array([kept for _, kept in levels])
    negative = min(negative, len(levels))
    text = pack_codebook(values, used, negative)
    read = _read(text, used, negative)
    assert read[used].tobytes() == values[used].tobytes()
    codes = set((np.flatnonzero(used) + 1).tolist())
    by_the_document = format_reader.read_codebook(list(map(int, text)), codes, used.size, negative)
    assert by_the_document == read.view(np.uint32).tolist()
    assert len(text) <= 5 + 48 * np.count_nonzero(used)


def test_unused_levels_repeat_a_used_one() -> None:
    levels = np.array([-3, -2, -1, 1, 2, 3, 4], np.float32)
    used = np.array([False, True, False, False, True, False, False])
    assert _read(pack_codebook(levels, used, 3), used, 3).tolist() == [-2, -2, -2, -2, 2, 2, 2]
    used[:] = False
    assert _read(pack_codebook(levels, used, 3), used, 3).tolist() == [0] * 7


@pytest.mark.parametrize(
    ("levels", "most"),
    [
        ([-0.1745, -0.0593, 0.0596], 11),
        (
            [-0.237, -0.211, -0.178, -0.159, -0.132, -0.106, -0.079, -0.053, 0.053, 0.074, 0.096, 0.117, 0.138, 0.159],
            42,
        ),
        ([-4, -2, -1, 1, 2, 4, 8], 3),  # 23 zeros
        (np.array([-0.31, -0.24, -0.16, -0.09, 0.08, 0.17, 0.24], np.float16), 11),
    ],
)
def test_few_bytes(levels: list[float] | np.ndarray, most: int) -> None:
    values = np.array(levels, np.float32)
    assert len(pack_codebook(values, np.ones(values.size, np.bool_), int((values < 0).sum()))) <= 8 * most


def test_codes_that_no_weight_has_make_the_next_level_further_out() -> None:
    rng = np.random.default_rng(0)
    levels = (np.arange(5, 255) + 0.05 * rng.random(250)).astype(np.float32)
    used = rng.random(250) < 0.3
    n = int(used.sum())
    together = pack_codebook(levels[used], np.ones(n, np.bool_), 0)
    assert len(pack_codebook(levels, used, 0)) < len(together) - 2 * n


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("11000", InvalidValueError, "at most 23, got 24"),
        ("00000" + "0" * 24, TruncatedError, "codebook: expected 25 bits, 23 are left"),
        ("00000" + 16 * "1" + 32 * "0" + "0" + 20 * "0" + "01", InvalidValueError, "level: expected 32 bits"),
    ],
)
def test_what_is_refused(text: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        _read(text, np.ones(3, np.bool_), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10111" + "1" * 16 + "001111110", "expected the difference of 126 from 122, not the number itself"),
        ("10110" + "110" + "000", "zeros at the end of all levels: expected more than 22"),
    ],
)
def test_what_could_be_said_in_fewer_bits_is_refused(text: str, message: str) -> None:
    assert _read("10111" + "110" + "00", np.array([True]), 0).tolist() == [0.5]
    with pytest.raises(InvalidValueError, match=message):
        _read(text, np.array([True]), 0)
