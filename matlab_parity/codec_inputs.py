"""The inputs of the codec's fixtures: layers of codes whose streams are compared in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipq.caffemodel import read_caffemodel
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.ws_learn_one_layer import ws_learn_one_layer


def codec_layers(lenet5: Path) -> list[QuantizedLayer]:
    """Every layer, under names of its own; those of one network for the tests of whole files."""
    return [*_small(), *_gaps(), *_widths(), *_shapes(), _real_layer(lenet5)]


def codec_net(lenet5: Path) -> QuantizedNet:
    """All layers as one network."""
    return QuantizedNet(tuple(codec_layers(lenet5)))


def _layer(name: str, codes: np.ndarray, b: int, dtype: str = "float32") -> QuantizedLayer:
    n_levels = 2**b - 1
    levels = np.linspace(-1.0, 1.1, n_levels, dtype=np.float64).astype(np.float32)
    return QuantizedLayer(name, b, codes.astype(np.uint8), levels, dtype)


def _at(n: int, positions: list[int], b: int) -> np.ndarray:
    """Codes of n weights, of which those at ``positions`` are kept, with codes 1, 2, ... in turn."""
    codes = np.zeros(n, np.uint8)
    codes[positions] = 1 + np.arange(len(positions)) % (2**b - 1)
    return codes


def _small() -> Iterator[QuantizedLayer]:
    example = np.array([[0, 0, 3, 0, 0, 0], [0, 0, 0, 1, 0, 2]])
    yield _layer("worked example of docs/format.md", example, 2)
    yield _layer("no weight", np.zeros((0, 3)), 2)
    yield _layer("one weight, kept", np.array([2]), 2)
    yield _layer("one weight, pruned", np.array([0]), 2)
    yield _layer("all pruned", np.zeros((4, 6)), 3)
    yield _layer("all kept", 1 + np.arange(40).reshape(5, 8) % 7, 3)
    yield _layer("only the first", _at(50, [0], 2), 2)
    yield _layer("only the last", _at(50, [49], 2), 2)
    yield _layer("so empty that the section is padded", _at(90_000, [70_000], 2), 2)


def _gaps() -> Iterator[QuantizedLayer]:
    """Runs of zeros just below, at and just above what a width holds, and multiples of it."""
    for w in (1, 3, 5, 8):
        runs = [2**w - 2, 2**w - 1, 2**w, 2**w + 1, 2 * 2**w - 1, 2 * 2**w, 5 * 2**w]
        positions = (np.cumsum(np.array(runs) + 1) - 1).tolist()
        yield _layer(f"runs around 2^{w}", _at(positions[-1] + 3, positions, 3), 3)
    yield _layer("one long run in a dense layer", np.concatenate([np.ones(300), np.zeros(3000), np.ones(300)]), 2)


def _widths() -> Iterator[QuantizedLayer]:
    rng = np.random.default_rng(5)
    for b in range(2, 9):
        codes = rng.integers(1, 2**b, 700) * (rng.random(700) < 0.15)
        yield _layer(f"b={b}", codes.reshape(20, 35), b)
    for kept in (0.5, 0.05, 0.01):
        codes = rng.integers(1, 16, 3000) * (rng.random(3000) < kept)
        yield _layer(f"kept {kept:g}", codes.reshape(60, 50), 4)


def _shapes() -> Iterator[QuantizedLayer]:
    rng = np.random.default_rng(6)
    for shape in ((6, 3, 5, 5), (1, 1, 3, 3), (7, 4, 1, 1), (4, 3, 6), (2, 3, 2, 3, 4), (30,), (1, 30), (30, 1), ()):
        codes = np.asarray(rng.integers(1, 8, shape) * (rng.random(shape) < 0.3))
        yield _layer(f"shape {'x'.join(map(str, shape)) or 'scalar'}", codes, 3)
    codes = rng.integers(0, 4, (9, 8))
    for dtype in ("float64", "float16", "bfloat16"):
        yield _layer(dtype, codes, 2, dtype)


def _real_layer(lenet5: Path) -> QuantizedLayer:
    blobs = {layer.name: layer.blobs for layer in read_caffemodel(lenet5) if layer.blobs}
    result = ws_learn_one_layer(blobs["conv2"][0].astype(np.float32).reshape(50, 20, 5, 5), 0.88, 4)
    return QuantizedLayer("LeNet-5 conv2", 4, result.codes, result.levels)
