import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.bits import dense_bits, fixed_parts, layer_bits, least_fixed_bytes
from clipq.conventions import Conventions
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.entropy import entropy_coder
from clipq.entropy.entropy_coder import _codes_to_signed
from clipq.entropy.pattern_coder import PatternPlan
from clipq.entropy.plane_coder import PlanePlan
from clipq.errors import SettingError
from clipq.quantized_net import QuantizedLayer, QuantizedNet

DEEP_COMPRESSION = Conventions(index_bits="deep_compression")
NO_CODEBOOK = Conventions(count_codebook="no")


@given(nets.layers("w"), st.sampled_from([Conventions(), DEEP_COMPRESSION]))
def test_the_count_is_the_size_of_the_section(layer: QuantizedLayer, conventions: Conventions) -> None:
    encoded = encode_sparse_quantized_net_v2(QuantizedNet((layer,)), conventions=conventions).layers[0]
    assert layer_bits(layer.codes, layer.b, conventions) == 8 * encoded.n_bytes
    assert sum(encoded.parts.values()) == encoded.n_bytes
    assert least_fixed_bytes(layer.codes, layer.b) <= encoded.n_bytes


@settings(max_examples=25)
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


def _large(kind: str, shape: tuple[int, ...], share: float, b: int) -> QuantizedLayer:
    """A layer of which about a share is kept: rows, columns or neighbours differ, or none of them."""
    rng = np.random.default_rng(len(kind) + b)
    rows, columns, h = shape[0], int(np.prod(shape[1:])), 2 ** (b - 1)
    weight = rng.laplace(size=(rows, columns)).astype(np.float32)
    if kind == "uneven":
        weight *= np.outer(rng.gamma(2, size=rows), rng.gamma(2, size=columns))
    if kind == "columns":
        weight *= rng.gamma(10, size=columns)
    if kind == "dead":
        weight *= np.outer(rng.random(rows) < 0.6, rng.random(columns) < 0.4) + 0.03
    if kind == "neighbours":
        weight += 0.8 * np.roll(weight, 1, 1)
    if kind == "blocks":
        weight *= np.kron(rng.gamma(0.5, size=(rows // 50, columns // 50)), np.ones((50, 50)))
    clip, largest = np.quantile(np.abs(weight[::7]), [1 - share, 0.9999])
    size = np.ceil((np.abs(weight) - clip) / (largest - clip) * (h - 1)).clip(0, h - 1).astype(int)
    codes = np.where(size == 0, 0, np.where(weight < 0, h + 1 - size, h + size)).astype(np.uint8)
    levels = np.array([*range(-h, 0), *range(1, h)] + 0.2 * rng.random(2**b - 1), np.float32)
    return QuantizedLayer(kind, b, codes.reshape(shape), levels)


@pytest.mark.parametrize(
    ("kind", "shape", "share", "b"),
    [
        ("uneven", (1200, 1000), 0.1, 4),
        ("uneven", (300, 5000), 0.4, 3),
        ("columns", (4000, 300), 0.1, 2),
        ("columns", (1100, 1000), 0.05, 8),
        ("dead", (1200, 1000), 0.1, 4),
        ("dead", (500, 300, 3, 3), 0.3, 4),
        ("neighbours", (1200, 1000), 0.1, 5),
        ("blocks", (1500, 1000), 0.1, 4),
        ("independent", (1300, 1000), 0.1, 4),
        ("independent", (1300, 1000), 0.005, 4),
    ],
)
def test_large_layers_are_counted_within_a_percent(
    kind: str, shape: tuple[int, ...], share: float, b: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a sample, as larger ones are; their model, also chosen from one, is not clearly larger than the other."""
    monkeypatch.setattr(entropy_coder, "_WHOLE", 1 << 20)
    layer = _large(kind, shape, share, b)
    real = encode_sparse_quantized_net_v2(QuantizedNet((layer,)), "entropy").layers[0]
    assert (
        abs(layer_bits(layer.codes, b, coder="entropy", levels=layer.levels) / 8 - real.n_bytes) <= 0.01 * real.n_bytes
    )
    patterns = PatternPlan(layer.codes.reshape(-1), b)
    magnitude, negative = _codes_to_signed(layer.codes.reshape(shape[0], -1), 2 ** (b - 1))
    others = [patterns.size(), PlanePlan(magnitude, negative, 1, 2 ** (b - 1)).size()]
    assert real.parts["codes"] <= 1.005 * min(others)


@pytest.mark.parametrize("whole", [1 << 20, 1 << 24])
@pytest.mark.parametrize("kind", ["equal rows", "every second row", "few", "few columns", "few rows and columns"])
def test_layers_of_few_bytes_are_counted_whole(kind: str, whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_coder, "_WHOLE", whole)
    rng = np.random.default_rng(0)
    codes = np.zeros((3000, 1500), np.uint8)
    row = np.where(rng.random(1500) < 0.1, rng.integers(1, 16, 1500), 0)
    if kind == "equal rows":
        codes[:] = row
    elif kind == "every second row":
        codes[::2] = row
    elif kind == "few":
        codes[rng.random(codes.shape) < 1 / 1500] = 3
        codes *= rng.integers(1, 4, codes.shape, np.uint8)
    elif kind == "few columns":
        codes[:, rng.choice(1500, 5)] = rng.integers(1, 16, (3000, 5))
    else:
        codes[np.ix_(rng.choice(3000, 90), rng.choice(1500, 90))] = rng.integers(1, 16, (90, 90))
    levels = np.array([*range(-8, 0), *range(1, 8)], np.float32)
    real = encode_sparse_quantized_net_v2(QuantizedNet((QuantizedLayer("w", 4, codes, levels),)), "entropy")
    assert layer_bits(codes, 4, coder="entropy", levels=levels) / 8 == pytest.approx(real.layers[0].n_bytes, rel=0.01)


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
    assert least_fixed_bytes(codes, 4) == 60 + 1000


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
