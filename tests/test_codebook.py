import format_reader
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.byte_reader import ByteReader, InvalidValueError, TruncatedError
from clipq.codebook import pack_codebook, read_codebook

BITS = st.one_of(st.integers(0, 2**32 - 1), st.floats(width=32).map(lambda x: int(np.float32(x).view(np.uint32))))


def _read(data: bytes, size: int, negative: int) -> tuple[np.ndarray, np.ndarray]:
    reader = ByteReader(memoryview(data), "codebook", 0, len(data))
    result = read_codebook(reader, size, negative)
    reader.finish()
    return result


@given(
    st.lists(st.tuples(BITS, st.booleans()), min_size=1, max_size=40),
    st.integers(0, 40),
    st.sampled_from([0, 8, 16, 25]),
)
def test_used_levels_come_back_whatever_their_bits(levels: list[tuple[int, bool]], negative: int, zeros: int) -> None:
    values = (np.array([bits for bits, _ in levels], np.uint32) >> zeros << zeros).view(np.float32)
    used = np.array([kept for _, kept in levels])
    negative = min(negative, len(levels))
    data = pack_codebook(values, used, negative)
    read, read_used = _read(data, used.size, negative)
    assert np.array_equal(read_used, used)
    assert read[used].tobytes() == values[used].tobytes()
    by_the_document = format_reader.read_codebook(format_reader.Bytes(data), used.size, negative)
    assert by_the_document == read.view(np.uint32).tolist()
    assert len(data) <= 2 + used.size / 8 + 6 * np.count_nonzero(used)


def test_unused_levels_repeat_a_used_one() -> None:
    levels = np.array([-3, -2, -1, 1, 2, 3, 4], np.float32)
    used = np.array([False, True, False, False, True, False, False])
    assert _read(pack_codebook(levels, used, 3), 7, 3)[0].tolist() == [-2, -2, -2, -2, 2, 2, 2]
    used[:] = False
    assert _read(pack_codebook(levels, used, 3), 7, 3)[0].tolist() == [0] * 7


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
    assert len(pack_codebook(values, np.ones(values.size, np.bool_), int((values < 0).sum()))) <= most


def test_codes_that_no_weight_has_make_the_next_level_further_out() -> None:
    rng = np.random.default_rng(0)
    levels = (np.arange(5, 255) + 0.05 * rng.random(250)).astype(np.float32)
    used = rng.random(250) < 0.3
    n = int(used.sum())
    together = pack_codebook(levels[used], np.ones(n, np.bool_), 0)
    assert len(pack_codebook(levels, used, 0)) < len(together) + 250 / 8 - n / 4


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("80 01", InvalidValueError, "at most 23, got 24"),
        ("00 02", InvalidValueError, "7 unused bits of 0 at the end, got 0x1"),
        ("02", TruncatedError, "codebook: expected 1 bytes"),
        ("02 FE FF 01 00 00 00 02", InvalidValueError, "7 unused bits of 0 at the end, got 0x1"),
        ("06 FE FF 01 00 00 00 0E", InvalidValueError, "level: expected 32 bits, got the number -1"),
    ],
)
def test_what_is_refused(data: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        _read(bytes.fromhex(data), 3, 0)
