import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.bits import dense_bits, fixed_parts, layer_bits
from clipq.conventions import Conventions
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import SettingError
from clipq.quantized_net import QuantizedLayer, QuantizedNet

DEEP_COMPRESSION = Conventions(index_bits="deep_compression")
NO_CODEBOOK = Conventions(count_codebook="no")


@settings(deadline=None)
@given(nets.layers("w"), st.sampled_from([Conventions(), DEEP_COMPRESSION]))
def test_the_count_is_the_size_of_the_section(layer: QuantizedLayer, conventions: Conventions) -> None:
    encoded = encode_sparse_quantized_net_v2(QuantizedNet((layer,)), conventions=conventions).layers[0]
    assert layer_bits(layer.codes, layer.b, conventions) == 8 * encoded.n_bytes
    assert sum(encoded.parts.values()) == encoded.n_bytes


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 8), st.sampled_from([0.02, 0.1, 0.6]), st.booleans())
def test_entropy_is_counted_within_a_percent_without_encoding(seed: int, b: int, density: float, rough: bool) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.minimum(1 + rng.exponential(2 ** (b - 3), (120, 300)).astype(int), 2 ** (b - 1) - 1)
    h = 2 ** (b - 1)
    codes = np.where(rng.random(sizes.shape) < 0.5, h + 1 - sizes, h + sizes)
    share = density * (rng.gamma(1, size=120)[:, None] if rough else 1)
    codes = (codes * (rng.random(sizes.shape) < share)).astype(np.uint8)
    levels = np.array([*range(-h, 0), *range(1, h)] + 0.2 * rng.random(2**b - 1), np.float32)
    layer = QuantizedLayer("w", b, codes, levels)
    for coder in ("entropy", "best"):
        real = encode_sparse_quantized_net_v2(QuantizedNet((layer,)), coder).layers[0].n_bytes  # type: ignore[arg-type]
        for known, more in ((levels, 0), (None, np.unique(codes).size)):  # without levels they are not counted exactly
            counted = layer_bits(codes, b, coder=coder, levels=known)  # type: ignore[arg-type]
            assert abs(counted / 8 - real) <= 0.01 * real + 12 + more


def test_a_count_by_hand() -> None:
    """docs/format.md's example: 1 + 1 header, 3 levels of 4 bytes, 1 of gaps, 1 of codes, 4 of CRC."""
    codes = np.array([[0, 0, 3, 0, 0, 0], [0, 0, 0, 1, 0, 2]], np.uint8)
    assert layer_bits(codes, 2) == 8 * (2 + 12 + 1 + 1 + 4)
    assert layer_bits(codes, 2, NO_CODEBOOK) == 8 * (2 + 1 + 1 + 4)
    assert layer_bits(torch.from_numpy(codes), 2) == layer_bits(codes, 2)


def test_deep_compressions_widths_are_told_by_the_shape() -> None:
    """1000 kept weights, each after 9 zeros: no fillers at 5 or 8 bits."""
    codes = np.zeros((100, 100), np.uint8)
    codes[:, 9::10] = 1
    rest = 3 + 60 + 500 + 4  # header with a two-byte count, codebook, codes of 4 bits, CRC
    assert layer_bits(codes, 4, DEEP_COMPRESSION) == 8 * (rest + 625)
    assert layer_bits(codes.reshape(10, 10, 10, 10), 4, DEEP_COMPRESSION) == 8 * (rest + 1000)
    assert layer_bits(codes, 4) == 8 * (rest + 500)  # the best: 4 bits hold a gap of 9


def test_best_is_the_smallest_of_all_widths() -> None:
    rng = np.random.default_rng(0)
    for density in (0.9, 0.3, 0.03, 0.001):
        codes = (rng.random((300, 200)) < density).astype(np.uint8)
        runs = np.diff(np.flatnonzero(codes), prepend=-1) - 1
        sizes = [sum(fixed_parts(codes.size, 3, runs.size + int((runs >> w).sum()), w).values()) for w in range(20)]
        assert layer_bits(codes, 3) == 8 * min(sizes)


def test_dense_bits_are_32_a_weight() -> None:
    assert dense_bits((20, 1, 5, 5)) == 16000
    assert dense_bits(()) == 32


@pytest.mark.parametrize(
    ("codes", "b", "coder", "message"),
    [
        (np.zeros(3, np.int64), 4, "fixed", "expected uint8, got int64"),
        (np.zeros(3, np.uint8), 9, "fixed", "from 2 to 8"),
        (np.zeros(3, np.uint8), 4, "zip", "coder"),
    ],
)
def test_bad_input_is_named(codes: np.ndarray, b: int, coder: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        layer_bits(codes, b, coder=coder)  # type: ignore[arg-type]
