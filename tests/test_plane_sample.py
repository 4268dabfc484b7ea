"""Layers of several slabs: what they are coded with stands for all of their rows, not for the first ones."""

import numpy as np
import pytest

from clipq.bits import layer_bits
from clipq.byte_reader import ByteReader
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.entropy import entropy_coder, plane_lanes
from clipq.entropy.entropy_coder import encode_entropy, entropy_size
from clipq.entropy.plane_coder import PlanePlan, decode_planes
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.ws_learn_one_layer import ws_learn_one_layer

LEVELS = np.array([-7, -6, -5, -4, -3, -2, -1, 0.5, 1, 2, 3, 4, 5, 6, 7], np.float32)


def _codes(weight: np.ndarray, density: float) -> np.ndarray:
    """Of 4 bits: so many of the largest weights are kept."""
    clip, largest = np.quantile(np.abs(weight), [1 - density, 0.9999])
    size = np.ceil((np.abs(weight) - clip) / (largest - clip) * 7).clip(0, 7).astype(int)
    codes: np.ndarray = np.where(size == 0, 0, np.where(weight < 0, 8 - size, 7 + size)).astype(np.uint8)
    return codes


def _blocks(n: int, columns: int) -> list[np.ndarray]:
    """Matrices of 400 rows, of which some hardly keep a weight and follow their columns less than others."""
    rng = np.random.default_rng(0)
    scale, blocks = rng.gamma(0.4, size=columns), []
    for i in range(n):
        weight = rng.laplace(size=(400, columns)) * scale ** [0.2, 1, 0.5, 0.8][i % 4]
        blocks.append(_codes(weight, [0.005, 0.2, 0.1, 0.05][i % 4]))
    return blocks


@pytest.mark.parametrize(("n", "columns"), [(2, 2000), (4, 3000)])
def test_matrices_in_one_layer_take_little_more_than_each_of_them_with_settings_of_its_own(
    n: int, columns: int
) -> None:
    blocks = _blocks(n, columns)
    together = len(encode_entropy(QuantizedLayer("w", 4, np.concatenate(blocks), LEVELS)).data)
    alone = sum(len(encode_entropy(QuantizedLayer("w", 4, block, LEVELS)).data) for block in blocks)
    assert together < 1.1 * alone


def _decoded(codes: np.ndarray) -> np.ndarray:
    net = QuantizedNet((QuantizedLayer("w", 4, codes, LEVELS),))
    return decode_sparse_quantized_net_v2(encode_sparse_quantized_net_v2(net, "entropy").to_bytes()).layers[0].codes


@pytest.mark.parametrize("dead", [slice(0, 1000), slice(500, 1500), slice(1000, 2000), slice(0, 1999)])
def test_rows_may_be_pruned_whole_slabs_of_them(dead: slice) -> None:
    rng = np.random.default_rng(0)
    codes = _codes(rng.laplace(size=(2000, 1100)) * rng.gamma(0.4, size=1100), 0.1)
    codes[dead] = 0
    assert np.array_equal(_decoded(codes), codes)


@pytest.mark.parametrize("code", [1, 7, 8, 15])
def test_a_code_that_only_one_weight_has_is_not_lost(code: int) -> None:
    """Wherever it is: the rows that settings are fitted to need not have it."""
    rng = np.random.default_rng(0)
    codes = _codes(rng.laplace(size=(2400, 1000)) * rng.gamma(0.4, size=1000), 0.1)
    codes[codes == code] = 0
    for row in (3, 1200, 2399):
        codes[row, 500] = code
        assert np.array_equal(_decoded(codes), codes)
        codes[row, 500] = 0


def test_rows_of_one_sign_but_for_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_coder, "_TO_FIT", (1 << 14, 4))  # so that the sample has positive ones only
    rng = np.random.default_rng(0)
    codes = _codes(np.abs(rng.laplace(size=(1500, 1000)) * rng.gamma(0.4, size=1000)), 0.1)
    codes[7, 7] = 2
    assert np.array_equal(_decoded(codes), codes)


def test_large_layers_are_counted_with_the_settings_that_they_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_coder, "_WHOLE", 1 << 20)
    codes = np.concatenate(_blocks(4, 3000))
    real = len(encode_entropy(QuantizedLayer("w", 4, codes, LEVELS)).data)
    assert sum(entropy_size(codes, 4, LEVELS)) == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_model_of_a_layer_that_keeps_few_weights_is_chosen_by_enough_of_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = np.exp(0.5 * rng.normal(size=(400, 1))) * np.exp(0.5 * rng.normal(size=25088))
    codes = _codes(rng.normal(size=(400, 25088)) * scale, 0.002)
    magnitude, negative = entropy_coder._codes_to_signed(codes, 8)
    size = len(encode_entropy(QuantizedLayer("w", 4, codes, LEVELS)).data)
    assert size < 1.02 * PlanePlan(magnitude, negative, 1, 8).size()


@pytest.mark.parametrize(
    "weight",
    [
        np.linspace(-1, 1, 480_000).reshape(600, 800),
        np.outer(np.linspace(-1, 1, 300), np.sin(np.arange(400.0))),
        np.abs(np.random.default_rng(0).normal(size=(600, 500))) * np.where(np.arange(600) % 3, 1, -1)[:, None],
    ],
    ids=["ascending", "rank 1", "rows of one sign"],
)
def test_lanes_are_few_where_the_last_signs_tell_nothing(weight: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """They could not take lanes back; and what lanes take is counted."""
    learned = ws_learn_one_layer(weight.astype(np.float32), 0.0, 2)
    layer = QuantizedLayer("w", 2, learned.codes, learned.levels)
    size = len(encode_entropy(layer).data)
    assert sum(entropy_size(layer.codes, 2, layer.levels)) == pytest.approx(size, rel=0.01)
    monkeypatch.setattr(plane_lanes, "_TAKEN_BACK", 0.0)
    assert size < 1.01 * len(encode_entropy(layer).data)


@pytest.mark.parametrize("shape", [(2100, 2100), (8192, 2048)])
@pytest.mark.parametrize("density", [1.0, 0.0001])
def test_the_lanes_of_codes_that_tell_nothing_are_counted(shape: tuple[int, int], density: float) -> None:
    rng = np.random.default_rng(0)
    codes = (rng.random(shape) < density).astype(np.uint8)
    real = encode_sparse_quantized_net_v2(QuantizedNet((QuantizedLayer("w", 2, codes, LEVELS[6:9]),)), "entropy")
    counted = layer_bits(codes, 2, coder="entropy", levels=LEVELS[6:9]) / 8
    assert counted == pytest.approx(real.layers[0].n_bytes, rel=0.01, abs=64)


def test_the_lanes_of_a_layer_that_keeps_few_weights_hardly_take_more_than_its_decisions() -> None:
    rng = np.random.default_rng(1)
    scale = np.exp(0.5 * rng.normal(size=(400, 1))) * np.exp(0.5 * rng.normal(size=25088))
    magnitude, negative = entropy_coder._codes_to_signed(_codes(rng.normal(size=(400, 25088)) * scale, 0.002), 8)
    plan = PlanePlan(magnitude, negative, 1, 8)
    data = plan.encode()
    assert len(data) == pytest.approx(plan.size(), rel=0.01)
    assert len(data) < 1.05 * plan.bits() / 8
    decoded = decode_planes(ByteReader(memoryview(data), "w", 0, len(data)), 400, 25088, 1, 8)
    assert np.array_equal(decoded[0], magnitude) and np.array_equal(decoded[1], negative)
