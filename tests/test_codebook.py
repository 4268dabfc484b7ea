import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.byte_reader import ByteReader, InvalidValueError
from clipq.codebook import pack_codebook, read_codebook


def _read(data: bytes, size: int, negative: int) -> tuple[np.ndarray, np.ndarray]:
    reader = ByteReader(memoryview(data), "codebook", 0, len(data))
    result = read_codebook(reader, size, negative)
    reader.finish()
    return result


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.booleans()), min_size=1, max_size=40), st.integers(0, 40))
def test_used_levels_come_back_whatever_their_bits(levels: list[tuple[int, bool]], negative: int) -> None:
    values = np.array([bits for bits, _ in levels], np.uint32).view(np.float32)
    used = np.array([kept for _, kept in levels])
    negative = min(negative, len(levels))
    read, read_used = _read(pack_codebook(values, used, negative), len(levels), negative)
    assert np.array_equal(read_used, used)
    assert read[used].tobytes() == values[used].tobytes()


def test_unused_levels_repeat_a_used_one() -> None:
    levels = np.array([-3, -2, -1, 1, 2, 3, 4], np.float32)
    used = np.array([False, True, False, False, True, False, False])
    assert _read(pack_codebook(levels, used, 3), 7, 3)[0].tolist() == [-2, -2, -2, -2, 2, 2, 2]
    assert _read(pack_codebook(levels, np.zeros(7, np.bool_), 3), 7, 3)[0].tolist() == [0] * 7


def test_levels_in_order_take_fewer_bytes() -> None:
    levels = np.array([*range(-8, 0), *range(1, 8)], np.float32) / 7
    assert len(pack_codebook(levels, np.ones(15, np.bool_), 8)) <= 2 + 2 * 5 + 13 * 3


def test_a_width_beyond_32_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="at most 32, got 33"):
        _read(bytes.fromhex("03 0000803F 21 0000000000"), 2, 0)
