"""The inputs of the fixtures of ``ws_learn_one_layer``: which weights, settings and conventions are compared.

``python -m matlab_parity.make_inputs`` stores them once in ``fixtures/inputs``; from then on the stored arrays are
the inputs, and nothing depends on a random generator's stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipq.caffemodel import read_caffemodel
from clipq.conventions import Conventions
from clipq.errors import SettingError

LAYER_FIELDS = tuple(f.name for f in fields(Conventions) if f.metadata["stage"] == "layer")
FIGURE_2 = np.array(
    [[0.1, -0.1, 0.7, -0.4], [0.7, -0.5, 0.9, -0.1], [-1.0, -0.6, -1.6, 0.8], [-0.5, 1.1, 0.2, 1.2]], dtype=np.float64
)


@dataclass(frozen=True, eq=False)
class LayerInput:
    """One call of ``ws_learn_one_layer``; ``W`` in Python's layout."""

    name: str
    W: np.ndarray
    p: float
    b: int
    conventions: Conventions = Conventions()  # noqa: RUF009 (frozen)


def settings_of(names: Sequence[str]) -> list[Conventions]:
    """All allowed settings of the named fields, the others at their default: 960 of the layer's."""
    every = []
    for values in itertools.product(*(Conventions.options(name) for name in names)):
        chosen: dict[str, Any] = dict(zip(names, values, strict=True))
        try:
            every.append(Conventions(**chosen))
        except SettingError:  # quantile needs round
            continue
    return every


def one_at_a_time() -> Iterator[tuple[str, Conventions]]:
    """The defaults with one field changed, named ``field=option``; quantile brings the round that it needs."""
    for name in LAYER_FIELDS:
        for option in Conventions.options(name):
            if option != getattr(Conventions(), name):
                changed: dict[str, Any] = {name: option}
                if option == "quantile":
                    changed["clip_count"] = "round"
                yield f"{name}={option}", Conventions(**changed)


def layer_inputs(lenet5: Path) -> list[LayerInput]:
    """Every case of the fixture; ``lenet5`` is the trained LeNet-5 (its conv2 layer is one of them)."""
    return [*_figure_2(), *_conventions(), *_edge_cases(), *_shapes(), *_settings(), *_real_layer(lenet5)]


def _figure_2() -> Iterator[LayerInput]:
    yield LayerInput("figure2", FIGURE_2, 0.25, 2)
    for label, conventions in one_at_a_time():
        yield LayerInput(f"figure2 {label}", FIGURE_2, 0.25, 2, conventions)


def _conventions() -> Iterator[LayerInput]:
    rng = np.random.default_rng(1)
    spread = rng.standard_t(4, size=(6, 3, 3, 2))
    ties = rng.integers(-6, 7, size=(8, 11)) / 8.0
    for label, conventions in one_at_a_time():
        yield LayerInput(f"conv {label}", spread, 0.37, 4, conventions)
        yield LayerInput(f"ties {label}", ties, 0.45, 3, conventions)
    both = Conventions(clip_scope="all_weights", partition="joined", edge="inner", clip_value="first_kept")
    yield LayerInput("conv all_weights joined inner first_kept", spread, 0.37, 4, both)
    yield LayerInput("ties all_weights joined first", ties, 0.45, 3, Conventions(
        clip_scope="all_weights", partition="joined", clip_ties="first", clip_count="floor", empty_level="zero"))  # fmt: skip  # noqa: E501


def _edge_cases() -> Iterator[LayerInput]:
    rng = np.random.default_rng(2)
    some = rng.normal(size=(5, 7))
    joined = Conventions(partition="joined")
    inner = Conventions(edge="inner")
    whole = Conventions(clip_scope="all_weights")
    kept = Conventions(clip_value="first_kept", clip_ties="keep")
    yield LayerInput("p=0", some, 0.0, 3)
    yield LayerInput("p=0 first_kept", some, 0.0, 3, Conventions(clip_value="first_kept"))
    yield LayerInput("p=0 quantile", some, 0.0, 3, Conventions(clip_value="quantile", clip_count="round"))
    for quantile in settings_of(("clip_ties",)):
        ties = quantile.clip_ties
        quantile = replace(quantile, clip_value="quantile", clip_count="round")
        yield LayerInput(f"p*n below a half, quantile, {ties}", np.tile(some, (2, 1)), 0.01, 3, quantile)
        yield LayerInput(f"p*n a half more, quantile, {ties}", np.arange(-5.0, 6.0), 0.5, 3, quantile)
        yield LayerInput(f"p=1 quantile, {ties}", some, 1.0, 3, quantile)
    yield LayerInput("p=1", some, 1.0, 3)
    yield LayerInput("p=1 joined keep", some, 1.0, 3, Conventions(partition="joined", clip_ties="keep"))
    yield LayerInput("one side clipped away, joined", np.array([-0.1, -0.2, 3.0, 4.0, 5.0]), 0.4, 2,
                     Conventions(clip_scope="all_weights", partition="joined"))  # fmt: skip
    yield LayerInput("one weight", np.array([[0.3]]), 0.5, 2)
    yield LayerInput("one weight, floor", np.array([-0.3]), 0.5, 2, Conventions(clip_count="floor"))
    yield LayerInput("no weight", np.zeros((0, 4)), 0.5, 2)
    yield LayerInput("all zero", np.zeros((3, 4)), 0.5, 3)
    yield LayerInput("zeros among them", np.where(np.arange(35).reshape(5, 7) % 3 == 0, 0.0, some), 0.4, 3, whole)
    yield LayerInput("negative zero", np.array([-0.0, 0.0, 0.5, -0.5, 1.0]), 0.0, 2)
    yield LayerInput("one sign", np.abs(some), 0.3, 3)
    yield LayerInput("one sign, joined", -np.abs(some), 0.3, 3, joined)
    yield LayerInput("all equal, pruned", np.full((4, 4), 0.25), 0.5, 3)
    yield LayerInput("all equal, kept, outer", np.full((4, 4), 0.25), 0.5, 3, kept)
    yield LayerInput("all equal, kept, inner", np.full((4, 4), -0.25), 0.5, 3, Conventions(
        clip_value="first_kept", clip_ties="keep", edge="inner"))  # fmt: skip
    yield LayerInput("two magnitudes, joined", np.tile([0.5, -0.5], 6), 0.4, 3, Conventions(
        partition="joined", clip_ties="keep", edge="inner"))  # fmt: skip
    yield LayerInput("weights on edges, outer", np.arange(-8.0, 9.0), 0.0, 4)
    yield LayerInput("weights on edges, inner", np.arange(-8.0, 9.0), 0.0, 4, inner)
    for other in (Conventions(edge="upper"), Conventions(edge="lower")):
        yield LayerInput(f"weights on edges, {other.edge}", np.arange(-8.0, 8.0), 0.0, 4, other)
    yield LayerInput("weights on edges, joined", np.arange(-7.0, 9.0), 0.0, 4, joined)
    yield LayerInput("weights on edges, joined inner", np.arange(-7.0, 9.0), 0.0, 4, Conventions(
        partition="joined", edge="inner"))  # fmt: skip
    yield LayerInput("p*n half, round", np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 0.5, 2, Conventions(clip_count="round"))
    yield LayerInput("p*n just below a half, round", np.array([1.0, 2.0]), 0.24999999999999997, 2, Conventions(
        clip_count="round"))  # fmt: skip
    yield LayerInput("p*n just above an integer, ceil", np.arange(1.0, 31.0), 0.1 + 2**-53, 3)
    yield LayerInput("empty intervals, zero", np.array([0.1, 0.2, 9.0, -0.1, -9.0]), 0.2, 4, Conventions(
        empty_level="zero"))  # fmt: skip
    yield LayerInput("empty intervals, joined", np.array([0.1, 0.2, 9.0, -0.1, -9.0]), 0.2, 4, joined)
    yield LayerInput("tiny weights", some * 1e-300, 0.3, 3)
    yield LayerInput("large weights", some * 1e30, 0.3, 3)
    yield LayerInput("subnormal single", (np.arange(-9, 12) * 1e-42).astype(np.float32), 0.2, 2)


def _shapes() -> Iterator[LayerInput]:
    rng = np.random.default_rng(3)
    for name, shape in {
        "fc 40x30": (40, 30),
        "conv 8x4x5x5": (8, 4, 5, 5),
        "conv1d 6x4x7": (6, 4, 7),
        "conv3d 2x3x3x3x3": (2, 3, 3, 3, 3),
        "conv 1x1x5x5": (1, 1, 5, 5),
        "row 1x60": (1, 60),
        "column 60x1": (60, 1),
        "vector 60": (60,),
    }.items():
        for dtype in (np.float32, np.float64):
            yield LayerInput(f"{name} {np.dtype(dtype).name}", rng.normal(0, 0.1, shape).astype(dtype), 0.6, 4)


def _settings() -> Iterator[LayerInput]:
    rng = np.random.default_rng(4)
    W = rng.laplace(0, 0.05, (25, 24)).astype(np.float32)
    for b in range(2, 9):
        yield LayerInput(f"b={b}", W, 0.8, b)
        yield LayerInput(f"b={b} joined", W, 0.8, b, Conventions(partition="joined"))
    for p in (0.01, 0.1, 1 / 3, 0.5, 0.95, 0.999):
        yield LayerInput(f"p={p:.3g}", W, p, 4)


def _real_layer(lenet5: Path) -> Iterator[LayerInput]:
    blobs = {layer.name: layer.blobs for layer in read_caffemodel(lenet5) if layer.blobs}
    yield LayerInput("LeNet-5 conv2", blobs["conv2"][0].astype(np.float32).reshape(50, 20, 5, 5), 0.88, 4)


def conventions_struct(conventions: Conventions) -> dict[str, str]:
    """As MATLAB's ``ws_conventions`` gives it."""
    return asdict(conventions)
