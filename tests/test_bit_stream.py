import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.bit_stream import MAX_WIDTH, pack_bits, packed_size, unpack_bits


@pytest.mark.parametrize(
    ("values", "width", "packed"),
    [
        ([1, 0, 1, 1], 1, "0d"),
        ([2, 3, 2, 1], 2, "6e"),
        ([1, 2, 3], 3, "d1 00"),  # 001 | 010 << 3 | 011 << 6 = 0x0d1
        ([0xABC, 0x123], 12, "bc 3a 12"),
        ([0xFFFFFFFF], 32, "ff ff ff ff"),
        ([0, 0, 0], 0, ""),
        ([], 5, ""),
    ],
)
def test_known_bytes(values: list[int], width: int, packed: str) -> None:
    assert pack_bits(np.array(values, np.uint32), width) == bytes.fromhex(packed)
    assert unpack_bits(bytes.fromhex(packed), width, len(values)).tolist() == values


@st.composite
def _values(draw: st.DrawFn) -> tuple[list[int], int]:
    width = draw(st.integers(1, MAX_WIDTH))
    return draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), width


@given(_values())
def test_packing_is_one_big_integer_read_from_its_low_end(values_and_width: tuple[list[int], int]) -> None:
    values, width = values_and_width
    as_integer = sum(value << (i * width) for i, value in enumerate(values))
    packed = pack_bits(np.array(values, np.uint32), width)
    assert packed == as_integer.to_bytes(packed_size(len(values), width), "little")
    assert unpack_bits(packed, width, len(values)).tolist() == values


@pytest.mark.parametrize("width", [1, 5, 24, 32])
def test_many_values_are_packed_as_few(width: int) -> None:
    values = np.random.default_rng(width).integers(0, 2**width, 100_001, np.uint32)
    packed = pack_bits(values, width)
    bits = ((values[:, None] >> np.arange(width, dtype=np.uint32)) & 1).astype(np.uint8)
    assert packed == np.packbits(bits.reshape(-1), bitorder="little").tobytes()
    assert np.array_equal(unpack_bits(packed, width, values.size), values)


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"below 2\^3, got 8"):
        pack_bits(np.array([8], np.uint8), 3)


def test_set_unused_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="3 unused bits"):
        unpack_bits(b"\x20", 5, 1)


@pytest.mark.parametrize("data", [b"", b"\x00\x00"])
def test_another_number_of_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected 1 bytes"):
        unpack_bits(data, 5, 1)
