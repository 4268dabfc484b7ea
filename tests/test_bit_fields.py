import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.byte_reader import ByteReader, InvalidValueError, TruncatedError
from clipq.entropy.bit_fields import BitReader, BitWriter, number_size


def _reader(text: str) -> BitReader:
    text += "1"
    data = int(text + "0" * (-len(text) % 8), 2).to_bytes(-(-len(text) // 8), "big")
    return BitReader(ByteReader(memoryview(data), "test", 0, len(data)), data)


@given(st.lists(st.tuples(st.integers(-(2**30), 2**30), st.integers(0, 8))))
def test_what_was_written_is_read(values: list[tuple[int, int]]) -> None:
    out = BitWriter()
    for value, order in values:
        before = len(out.text)
        out.number(abs(value), order)
        assert len(out.text) - before == number_size(abs(value), order)
        out.signed(value, order)
        out.bits(abs(value) & 7, 3)
    reader = _reader(out.text)
    for value, order in values:
        assert (reader.number(order, "x"), reader.signed(order, "x"), reader.bits(3, "x")) == (
            abs(value), value, abs(value) & 7,
        )  # fmt: skip
    assert reader.at == reader.size == len(out.text)


def test_numbers_by_hand() -> None:
    out = BitWriter()
    out.number(0, 0)
    out.number(5, 1)
    out.signed(-3, 3)
    assert out.text == "101111101"


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(TruncatedError, match="x: expected 4 bits, 3 are left"):
        _reader("101").bits(4, "x")
    with pytest.raises(TruncatedError):
        _reader("0000").number(0, "x")
    with pytest.raises(InvalidValueError, match="below 2"):
        _reader("0" * 60 + "1" * 61).number(0, "x")
    with pytest.raises(InvalidValueError, match="last bit"):
        BitReader(ByteReader(memoryview(b"\x00"), "test", 0, 1), b"")
