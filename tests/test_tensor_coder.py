from contextlib import nullcontext
from unittest import mock

import format_reader
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.byte_reader import ByteReader, InvalidValueError
from clipq.entropy import tensor_coder
from clipq.entropy.pattern_coder import PatternPlan
from clipq.entropy.tensor_coder import CONSTANT, NARROW, PATTERNS, PLANES, RAW, pack_tensor, read_tensor
from clipq.tensor_bytes import TYPE_NAMES, tensor_from_bytes, tensor_to_bytes, type_name


def _packed(tensor: torch.Tensor) -> bytes:
    dtype, data = type_name("t", tensor), tensor_to_bytes(tensor)
    packed = pack_tensor(data, dtype)
    reader = ByteReader(memoryview(packed), "tensors", 0, len(packed))
    assert read_tensor(reader, dtype, tuple(tensor.shape)) == data
    reader.finish()
    return packed


def as_if_large() -> mock._patch:
    """Until it ends the exponents of few elements are coded as those of many."""
    return mock.patch.object(tensor_coder, "MOST_OF_PLANES", 0)


@settings(max_examples=300)
@given(st.sampled_from(TYPE_NAMES), st.binary(max_size=400), st.sampled_from([0, 1, 7, 255]), st.booleans())
def test_any_bytes_come_back(dtype: str, data: bytes, mask: int, large: bool) -> None:
    size = getattr(torch, dtype).itemsize
    data = bytes(x & (1 if dtype == "bool" else mask) for x in data[: len(data) // size * size])
    with as_if_large() if large else nullcontext():
        _packed(tensor_from_bytes(data, dtype, (len(data) // size,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("special", [[], [0.0, -0.0], [float("inf")], [float("nan"), float("-inf"), 1e-7]])
def test_trained_numbers_are_stored_exactly_in_fewer_bytes(dtype: torch.dtype, special: list[float]) -> None:
    values = torch.randn(500, generator=torch.Generator().manual_seed(0)) * 0.1
    tensor = torch.cat([values, torch.tensor(special)]).to(dtype)
    packed = _packed(tensor)
    if not any(np.isinf(special)):
        assert packed[0] == PLANES
        assert len(packed) < 0.92 * tensor.numel() * tensor.itemsize


def test_elements_that_are_zero_cost_next_to_nothing() -> None:
    """Biases of units that are no more: about a bit for each place, and what the others take by themselves."""
    random = torch.Generator().manual_seed(3)
    values = torch.randn(150, generator=random).bfloat16().float()
    tensor = torch.zeros(500)
    tensor[torch.randperm(500, generator=random)[:150]] = values
    assert len(_packed(tensor)) <= len(_packed(values)) + 500 * 0.8813 / 8 + 12  # 0.8813 = H(0.3)
    assert len(_packed(torch.where(tensor == 0, -tensor, tensor))) > len(_packed(tensor)), "-0 is kept, and is seldom"


@pytest.mark.parametrize("share", [0.0, 0.7])
@pytest.mark.parametrize(
    ("form", "dtype"), [(PLANES, torch.float32), (PATTERNS, torch.float32), (PATTERNS, torch.float16)]
)
def test_a_reader_written_from_the_document_agrees(share: float, form: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(1)
    tensor = torch.randn(300, generator=random).round(decimals=2).abs().add(0.5).to(dtype)
    tensor[::7] *= -1
    tensor[torch.rand(300, generator=random) < share] = 0
    with as_if_large() if form == PATTERNS else nullcontext():
        packed = _packed(tensor)
    assert packed[0] == form
    bits = {torch.float32: (8, 23), torch.float16: (5, 10)}[dtype]
    words = format_reader.read_float_tensor(format_reader.Bytes(packed), 300, *bits)
    unsigned = {torch.float32: np.uint32, torch.float16: np.uint16}[dtype]
    assert words == tensor.numpy().view(unsigned).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_elements_than_a_slab_has_come_back(dtype: torch.dtype) -> None:
    """An embedding, say; more than a slab of planes has room for."""
    tensor = torch.randn((1 << 20) + 1, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = _packed(tensor)
    assert packed[0] == PATTERNS
    assert len(packed) < 0.85 * tensor.numel() * tensor.itemsize


def test_many_elements_take_as_few_bytes_as_a_few() -> None:
    tensor = torch.randn(tensor_coder.MOST_OF_PLANES, generator=torch.Generator().manual_seed(0))
    with as_if_large():
        as_many = _packed(tensor)
    assert len(as_many) < 1.002 * len(_packed(tensor))


@pytest.mark.parametrize(
    ("tensor", "form", "size"),
    [
        (torch.ones(512), CONSTANT, 5),
        (torch.tensor(70_000), NARROW, 2 + 3),
        (torch.arange(5), NARROW, 2 + 5),
        (torch.tensor([1.5, -2.25]), RAW, 9),
        (torch.tensor([1 + 2j, 3 - 1j]), RAW, 17),
    ],
)
def test_forms(tensor: torch.Tensor, form: int, size: int) -> None:
    packed = _packed(tensor)
    assert (packed[0], len(packed)) == (form, size)


@pytest.mark.parametrize(
    ("packed", "dtype", "message"),
    [
        ("05", "float32", "form of a tensor: expected one for float32, got 5"),
        ("04 00", "int32", "form of a tensor: expected one for int32, got 4"),
        ("03 00", "int32", "form of a tensor: expected one for int32, got 3"),
        ("02 05", "float32", "bytes of an element: expected 1 to 4, got 5"),
        ("03 10 FF 00", "float32", "exponents and mantissas"),
    ],
)
def test_damage_is_named(packed: str, dtype: str, message: str) -> None:
    data = bytes.fromhex(packed)
    with pytest.raises(InvalidValueError, match=message):
        read_tensor(ByteReader(memoryview(data), "tensors", 0, len(data)), dtype, (2,))


def test_a_bit_after_the_last_mantissa_is_named() -> None:
    """33 of 23 bits leave one bit of the last byte."""
    packed = bytearray(_packed(torch.rand(33, generator=torch.Generator().manual_seed(0)) + 1))
    assert packed[0] == PLANES and packed[-1] < 128
    packed[-1] |= 128
    with pytest.raises(InvalidValueError, match="mantissas"):
        read_tensor(ByteReader(memoryview(packed), "tensors", 0, len(packed)), "float32", (33,))


def test_an_element_plus_zero_has_no_exponent() -> None:
    """Of elements -0 nothing is stored but signs, and one of them is changed."""
    head, patterns = bytes([PATTERNS, 0, 1, 23]), PatternPlan(np.ones(40, np.uint8), 2).encode("")
    for signs, message in (((0xFF,) * 5, None), ((0xFF, 0xFE, 0xFF, 0xFF, 0xFF), r"expected none of an element \+0")):
        packed = head + patterns + bytes(signs)
        reader = ByteReader(memoryview(packed), "tensors", 0, len(packed))
        with pytest.raises(InvalidValueError, match=message) if message else nullcontext():
            assert read_tensor(reader, "float32", (40,)) == b"\0\0\0\x80" * 40
