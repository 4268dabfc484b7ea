import tracemalloc
from pathlib import Path

import format_reader
import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clipq.encode_sparse_quantized_net_v2 as encoder
from clipq.byte_reader import ByteReader, InvalidValueError
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2, inspect
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.entropy import entropy_coder, pattern_coder, plane_fit, plane_header
from clipq.entropy.codebook import pack_codebook
from clipq.entropy.entropy_coder import EMPTY, PATTERNS, PLANES, decode_entropy, encode_entropy
from clipq.entropy.pattern_coder import PatternPlan, decode_patterns
from clipq.errors import SettingError
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.ws_learn_one_layer import ws_learn_one_layer


def _section(layer: QuantizedLayer) -> bytes:
    return encode_entropy(layer).data


def _decoded(data: bytes, layer: QuantizedLayer) -> np.ndarray:
    reader = ByteReader(memoryview(data), "test", 0, len(data))
    levels, codes = decode_entropy(reader, layer.shape, layer.b)
    reader.finish()
    used = np.unique(codes[codes > 0]) - 1
    assert levels[used].tobytes() == layer.levels[used].tobytes()
    return codes


@st.composite
def structured_layers(draw: st.DrawFn) -> QuantizedLayer:
    """Layers with dead rows and columns, dense ones, neighbours alike, one sign only, and codes of every spread."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    b = draw(st.integers(2, 8))
    shape = draw(st.sampled_from([(1,), (90,), (), (1, 80), (80, 1), (20, 30), (6, 4, 3, 3), (3, 1, 5, 5), (2, 200)]))
    n_negative = draw(st.sampled_from([2 ** (b - 1), 2 ** (b - 1) - 1, 0, 2**b - 1]))
    rows = shape[0] if shape else 1
    columns = int(np.prod(shape)) // rows
    density = draw(st.sampled_from([0.03, 0.3, 1.0])) * np.outer(rng.random(rows) ** 2, rng.random(columns) ** 2)
    smooth = draw(st.booleans())
    noise = rng.normal(size=(rows, columns))
    if smooth and columns > 3:
        noise = noise + 2 * np.roll(noise, 1, 1)
    size = 1 + np.floor(rng.exponential(draw(st.sampled_from([0.3, 2, 40])), (rows, columns))).astype(int)
    largest = np.where(noise < 0, n_negative, 2**b - 1 - n_negative)
    size = np.minimum(size, largest) * (rng.random((rows, columns)) < 4 * density)
    codes = np.where(size == 0, 0, np.where(noise < 0, n_negative + 1 - size, n_negative + size))
    levels = np.sort(rng.random(2**b - 1)).astype(np.float32) + np.float32(0.01)
    levels[:n_negative] = -levels[:n_negative][::-1]
    return QuantizedLayer("w", b, codes.astype(np.uint8).reshape(shape), levels)


@settings(max_examples=60)
@given(structured_layers())
def test_a_reader_written_from_the_document_agrees(layer: QuantizedLayer) -> None:
    data = _section(layer)
    assert np.array_equal(_decoded(data, layer), layer.codes)
    codes, levels = format_reader.read_entropy_layer(format_reader.Bytes(data), layer.shape, layer.b)
    assert codes == layer.codes.reshape(-1).tolist()
    for code in set(codes) - {0}:
        assert levels[code - 1] == int(layer.levels.view(np.uint32)[code - 1])


def test_the_worked_example_of_the_document() -> None:
    codes = np.array([[0, 0, 3, 0, 0, 0], [0, 0, 0, 1, 0, 2]], np.uint8)
    layer = QuantizedLayer("fc.weight", 2, codes, np.array([-1.5, -0.5, 1.0], np.float32))
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    part = text.split("## Worked example of an entropy section")[1]
    rows = [line for line in part.splitlines() if line.startswith("| `")]
    data = bytes.fromhex("".join("".join(row.split("|")[1].split("`")[1::2]) for row in rows))
    assert np.array_equal(_decoded(data, layer), codes)
    assert format_reader.read_entropy_layer(format_reader.Bytes(data), (2, 6), 2)[0] == codes.reshape(-1).tolist()
    assert _section(layer) == data


@settings(max_examples=60)
@given(nets.nets(), st.sampled_from(["entropy", "best"]))
def test_any_network_comes_back_exactly(net: QuantizedNet, coder: str) -> None:
    encoded = encode_sparse_quantized_net_v2(net, coder)  # type: ignore[arg-type]
    data = encoded.to_bytes()
    assert sum(size for _, _, size in encoded.sizes()) == len(data)
    decoded = decode_sparse_quantized_net_v2(data)
    for x, y in zip(net.layers, decoded.layers, strict=True):
        assert (x.name, x.b, x.dtype) == (y.name, y.b, y.dtype)
        assert np.array_equal(x.codes, y.codes)
    with_levels = [
        QuantizedLayer(
            y.name, y.b, y.codes, np.where(np.isin(np.arange(1, 2**x.b), y.codes), y.levels, x.levels), y.dtype
        )
        for x, y in zip(net.layers, decoded.layers, strict=True)
    ]  # levels that no weight takes are not kept
    nets.assert_same_net(QuantizedNet(tuple(with_levels), decoded.tensors, decoded.aliases), net)


LEVELS = np.array([*range(-8, 0), *range(1, 8)], np.float32) / 7


def _iid(shape: tuple[int, ...], density: float, seed: int = 0) -> QuantizedLayer:
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.geometric(0.45, shape), 7)
    codes = np.where(rng.random(shape) < 0.5, 9 - sizes, 8 + sizes) * (rng.random(shape) < density)
    return QuantizedLayer("w", 4, codes.astype(np.uint8), LEVELS)


def _entropy(codes: np.ndarray) -> float:
    """H0 in bytes."""
    p = np.bincount(codes.reshape(-1)) / codes.size
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum()) * codes.size / 8


@pytest.mark.parametrize(("model", "rows", "p", "b"), [(PLANES, 4096, 0.9, 4), (PATTERNS, 2048, 0.0, 8)])
def test_large_layers_take_less_than_twice_their_weights_in_memory(model: int, rows: int, p: float, b: int) -> None:
    """Encoding as decoding, in bytes of float32; rows of unlike sizes are a matter of planes."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((rows, 8192), np.float32)
    if model == PLANES:
        weights *= np.exp(rng.standard_normal((rows, 1), np.float32))
    learned = ws_learn_one_layer(weights, p, b)
    layer = QuantizedLayer("w", b, learned.codes, learned.levels)
    del weights, learned
    tracemalloc.start()
    try:
        data = _section(layer)
        to_encode = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        codes = _decoded(data, layer)
        to_decode = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data[0] == model
    assert np.array_equal(codes, layer.codes)
    assert max(to_encode, to_decode) < 2 * 4 * codes.size


def _information(codes: np.ndarray, density: float = 0.1) -> float:
    """-log2 of the probability, in bytes, that ``_iid`` gives to these codes."""
    size = np.abs(codes.astype(int) - np.where(codes <= 8, 9, 8))[codes > 0]
    of_size = np.log2(0.5 * 0.55 ** (size - 1) * np.where(size < 7, 0.45, 1))
    return -(of_size.sum() + size.size * np.log2(density) + (codes.size - size.size) * np.log2(1 - density)) / 8


@pytest.mark.parametrize(
    ("shape", "density"),
    [((1000, 1000), 0.1), ((1200, 1000), 0.1), ((1100, 1000), 0.02), ((2000, 1000), 0.03), ((400, 300, 3, 3), 0.3)],
)
def test_independent_weights_take_their_entropy(shape: tuple[int, ...], density: float) -> None:
    """Within 0.3 % of H0, from a million weights on, but for the codebook."""
    layer = _iid(shape, density, seed=1)
    section = encode_entropy(layer)
    assert np.array_equal(_decoded(section.data, layer), layer.codes)
    assert len(section.data) - section.codebook <= 1.003 * _entropy(layer.codes)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("p", "b"), [(0.0, 3), (0.5, 4), (0.97, 2), (0.99, 4)])
def test_weights_of_one_sign_take_their_entropy(sign: int, p: float, b: int) -> None:
    weights = sign * np.abs(np.random.default_rng(0).standard_normal((300, 200)))
    learned = ws_learn_one_layer(weights.astype(np.float32), p, b)
    layer = QuantizedLayer("w", b, learned.codes, learned.levels)
    shares = np.bincount(learned.codes.reshape(-1)) / weights.size
    entropy = -sum(share * np.log2(share) for share in shares[shares > 0]) * weights.size / 8
    size = len(_section(layer))
    assert entropy < size < 1.01 * entropy + 40
    assert sum(entropy_coder.entropy_size(layer.codes, b, layer.levels)) == pytest.approx(size, rel=0.01, abs=4)
    assert np.array_equal(_decoded(_section(layer), layer), layer.codes)


def test_rows_columns_and_neighbours_are_made_use_of() -> None:
    """Weights that die by rows and columns and have their neighbours' signs take far less than their entropy."""
    rng = np.random.default_rng(0)
    field = rng.normal(size=(100, 400))
    for _ in range(3):
        field = field + np.roll(field, 1, 1)
    strength = np.outer(rng.gamma(0.5, size=100), rng.gamma(0.5, size=400))
    field = field * strength
    codes = np.where(np.abs(field) > np.quantile(np.abs(field), 0.9), np.where(field < 0, 2, 3), 0)
    layer = QuantizedLayer("w", 2, codes.astype(np.uint8), np.array([-2, -1, 1], np.float32))
    data = _section(layer)
    assert data[0] == PLANES
    assert len(data) < 0.7 * _entropy(codes)


def test_how_often_each_level_occurs_is_made_use_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many levels each has a frequency of its own, with either sign; it is learnt from slab to slab."""
    for module in (plane_fit, plane_header):
        monkeypatch.setattr(module, "SLAB_POSITIONS", 6000)
    rng = np.random.default_rng(0)
    p = rng.gamma(0.3, size=64)
    p[0] = p[1:].sum()
    codes = rng.choice(64, (150, 80), p=p / p.sum()).astype(np.uint8)
    layer = QuantizedLayer("w", 6, codes, np.linspace(-1, 1, 63, dtype=np.float32))
    data = _section(layer)
    assert np.array_equal(_decoded(data, layer), codes)
    assert format_reader.read_entropy_layer(format_reader.Bytes(data), layer.shape, 6)[0] == codes.reshape(-1).tolist()
    assert len(data) < 1.06 * _entropy(codes)  # codebook, and what is to be learnt, included


@pytest.mark.parametrize("model", [PLANES, PATTERNS])
def test_bits_after_the_codebook_are_refused(model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_coder, "pack_codebook", lambda *arguments: pack_codebook(*arguments) + "001")
    layer = _iid((30, 40), 0.1) if model == PLANES else _iid((1, 2_000_000), 0.001)
    data = _section(layer)
    assert data[0] == model
    with pytest.raises(InvalidValueError, match="end with the codebook, bits are left"):
        _decoded(data, layer)


def test_lanes_are_not_more_than_a_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where hundreds of millions of weights are kept."""
    monkeypatch.setattr(pattern_coder, "MAX_LANES", 4)
    codes = np.random.default_rng(0).integers(1, 4, 100_000, np.uint8)
    data = PatternPlan(codes, 2).encode("1")
    decoded, _, rest = decode_patterns(ByteReader(memoryview(data), "test", 0, len(data)), codes.size, 2)
    assert np.array_equal(decoded, codes)
    assert rest[0] == 1 and not rest[1:].any()


def test_unused_bits_of_a_stream_of_patterns_are_zeros() -> None:
    codes = np.random.default_rng(0).integers(0, 4, 1000, np.uint8)
    rest = next(rest for rest in ("", "1") if PatternPlan(codes, 2).encode(rest)[-1] & 1 == 0)
    data = bytearray(PatternPlan(codes, 2).encode(rest))
    data[-1] |= 1
    with pytest.raises(InvalidValueError, match="stream: expected unused bits of 0"):
        decode_patterns(ByteReader(memoryview(data), "test", 0, len(data)), codes.size, 2)


def test_a_pattern_that_occurs_has_a_share() -> None:
    """Of eight weights the first two are kept; that none, or all, are is said to occur, too, with a share of 0."""
    codes = np.array([1, 1, 0, 0, 0, 0, 0, 0], np.uint8)
    data = PatternPlan(codes, 2).encode("")
    occurs, after = 2, 2 + 256 // 8
    assert data[occurs] == 1 << 3
    for place, bit, at in ((occurs, 1 << 0, after), (after - 1, 1 << 7, after + 3)):
        more = bytearray(data)
        more[place] |= bit
        more[at:at] = b"\0"
        with pytest.raises(InvalidValueError, match="expected shares from 1 on"):
            decode_patterns(ByteReader(memoryview(more), "test", 0, len(more)), codes.size, 2)


def test_more_weights_than_lanes_can_read_are_coded_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (entropy_coder, encoder):
        monkeypatch.setattr(module, "MOST_SYMBOLS", 99)
    net = QuantizedNet((_iid((10, 10), 0.5),))
    assert encode_sparse_quantized_net_v2(net, "best").layers[0].coder == "fixed"
    with pytest.raises(SettingError, match=r"layer .*: expected at most 99 weights for coder entropy, got 100"):
        encode_sparse_quantized_net_v2(net, "entropy")


def test_slabs_of_few_weights_are_refused() -> None:
    """They would keep a reader busy for as long as many weights do."""
    lanes, rates, one_row_each = "0100000", "10" + "0000100100", "1" + "100000000"
    head = lanes + rates + one_row_each
    data = bytes([PLANES]) + np.packbits(np.array(list(head), np.uint8)).tobytes() + bytes(60) + b"\1"
    reader = ByteReader(memoryview(data), "layer w", 0, len(data))
    with pytest.raises(InvalidValueError, match=r"rows of a slab: expected 1 to 50000, .* 1 slabs, got 1"):
        decode_entropy(reader, (50_000, 1), 2)


def test_small_layers_have_little_overhead() -> None:
    """At most 36 bytes a layer, header and name included, over codebook and information."""
    layers = tuple(
        QuantizedLayer(f"fc{i}.weight", 4, layer.codes, layer.levels)
        for i, layer in enumerate([_iid((300, 30), 0.1, 1), _iid((100, 30), 0.1, 2), _iid((10, 100), 0.1, 3)])
    )
    encoded = encode_sparse_quantized_net_v2(QuantizedNet(layers), "entropy")
    codebooks = sum(layer.parts["codebook"] for layer in encoded.layers)
    information = sum(_information(layer.codes) for layer in layers)
    assert len(encoded.to_bytes()) - codebooks - information <= 36 * len(layers)


@pytest.mark.parametrize(
    ("layer", "model"),
    [
        (_iid((30, 40), 0.0), EMPTY),
        (_iid((0, 40), 0.5), EMPTY),
        (_iid((30, 40), 1.0), PLANES),
        (_iid((3000, 1000), 0.1), PATTERNS),
        (_iid((1, 2_000_000), 0.001), PATTERNS),
    ],
)
def test_the_model_that_suits(layer: QuantizedLayer, model: int) -> None:
    data = _section(layer)
    assert data[0] == model
    assert np.array_equal(_decoded(data, layer), layer.codes)


def test_best_takes_the_smaller_coder_for_each_layer() -> None:
    scattered, few = _iid((40, 50), 0.2), QuantizedLayer("one", 2, np.eye(1, 3, 2, np.uint8), np.zeros(3, np.float32))
    net = QuantizedNet((QuantizedLayer("a", 4, scattered.codes, scattered.levels), few), {"t": torch.randn(3)})
    sizes = {coder: encode_sparse_quantized_net_v2(net, coder) for coder in ("fixed", "entropy", "best")}  # type: ignore[arg-type]
    for i in range(2):
        both = [sizes[coder].layers[i].n_bytes for coder in ("fixed", "entropy")]
        assert sizes["best"].layers[i].n_bytes == min(both)
    assert sizes["best"].tensors_coder == "raw"
    assert sizes["best"].layers[0].coder == "entropy"


def test_what_is_in_an_entropy_file() -> None:
    layer = _iid((30, 40), 0.1)
    info = inspect(encode_sparse_quantized_net_v2(QuantizedNet((layer,)), "entropy").to_bytes())
    assert (info.layers[0].coder, info.layers[0].index_bits, info.layers[0].n_kept) == ("entropy", None, layer.n_kept)
