"""What an unknown implementation gave for some inputs, and what each reading of the paper predicts for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipq.bits import choose_index_bits
from clipq.conventions import Conventions
from clipq.errors import SettingError
from clipq.quantized_net import LayerSetting, QuantizedLayer
from clipq.relative_index import MAX_INDEX_BITS, entry_counts, relative_index, zero_runs
from matlab_parity.arithmetic import other_outcomes
from matlab_parity.codec_parity import LAYER_SCHEMA, layer_of
from matlab_parity.layer_inputs import LAYER_FIELDS, LayerInput
from matlab_parity.mat_files import (
    FLOAT,
    NUMBER,
    NUMERIC,
    Case,
    FixtureError,
    Var,
    check_case,
    load_mat,
    matlab_size,
    scalar,
    whole,
)
from matlab_parity.probes import learn

#: Another implementation may compute in single precision and need not round its levels to it: of the largest weight, or
#: of the smallest number from which on single precision has all its digits.
FOREIGN_TOLERANCE = 1e-5
SMALLEST_SINGLE = float(np.finfo(np.float32).tiny)
#: What a layer may cost above its indices, codes and codebook: a header and whole bytes, in bits, and less than the
#: smallest codebook, whose 96 bits tell the readings of A09 apart.
MOST_OVERHEAD = 32 * 3 - 1
LAYER_SCHEMA_IN = {
    "W": Var(FLOAT),
    "p": NUMBER,
    "b": NUMBER,
    "quantized": Var(FLOAT),
    "name": Var(("char",), None, True),
    **dict.fromkeys(("codes", "levels", "c_neg", "c_pos"), Var(NUMERIC, None, True)),
}
CODEC_OUTPUTS = ("index_bits", "gaps", "entry_codes", "bits")
CODEC_FIELDS = ("index_bits", "count_codebook")


@dataclass(frozen=True, eq=False)
class Observation:
    """One case of the unknown implementation.

    outputs: what it gave, by quantity.  predict: a reading -> all that it allows, each with at least these quantities.
    limits: how far below and above a prediction a quantity may lie; others are exact.
    layer: what it was given, for ``ws_learn_one_layer``.
    """

    name: str
    outputs: Mapping[str, np.ndarray]
    predict: Callable[[Conventions], Sequence[Mapping[str, np.ndarray]]]
    limits: Mapping[str, tuple[float, float]]
    layer: LayerInput | None = None
    _known: dict[Conventions, Sequence[tuple[str, ...]]] = field(default_factory=dict, init=False)

    @property
    def size(self) -> int:
        """How many numbers it gave."""
        return sum(value.size for value in self.outputs.values())

    def contradicts(self, conventions: Conventions) -> tuple[str, ...]:
        """The quantities in which the nearest of the reading's predictions differs; none where it has one that fits."""
        return min(self.differences(conventions), key=len)

    def differences(self, conventions: Conventions) -> Sequence[tuple[str, ...]]:
        """For each of the reading's predictions the quantities in which it differs; predicted only once."""
        if conventions not in self._known:
            self._known[conventions] = [self._different(predicted) for predicted in self.predict(conventions)]
        return self._known[conventions]

    def _different(self, predicted: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        return tuple(name for name in self.outputs if not self._fits(name, np.asarray(predicted[name]).ravel()))

    def _fits(self, quantity: str, expected: np.ndarray) -> bool:
        observed = self.outputs[quantity]
        if expected.shape != observed.shape:
            return False
        below, above = self.limits.get(quantity, (0.0, 0.0))
        deviation = observed.astype(np.float64) - expected.astype(np.float64)
        unknown = np.isnan(observed) & np.isnan(expected)
        return bool(np.all((-below <= deviation) & (deviation <= above) | unknown))


def read_observations(path: Path) -> tuple[tuple[str, ...], list[Observation]]:
    """The open questions that the cases in a ``.mat`` file bear on, and the cases.

    The file holds a struct array ``cases``, or the variables of one case: for a layer ``W``, ``p``, ``b`` and
    ``quantized``, and of ``codes``, ``levels``, ``c_neg``, ``c_pos`` what is known (an empty one is not, nor the level
    NaN of an empty interval); for the codec ``name``, ``shape``, ``dtype``, ``b``, ``codes``, ``levels`` and some of
    ``index_bits``, ``gaps``, ``entry_codes``, ``bits``.

    Raises:
        FixtureError: not such a file; names file and variable.
    """
    cases = _cases(path)
    if "W" in cases[0][0]:
        return LAYER_FIELDS, [_layer_observation(case, where) for case, where in cases]
    given = [name for name in CODEC_OUTPUTS if any(np.size(case.get(name, ())) for case, _ in cases)]
    if not given:
        raise FixtureError(f"{path}: variable cases: expected at least one of {', '.join(CODEC_OUTPUTS)}")
    return CODEC_FIELDS, [_codec_observation(case, given, where) for case, where in cases]


def layer_observation(layer: LayerInput, outputs: Mapping[str, np.ndarray]) -> Observation:
    """A case of ``ws_learn_one_layer``: ``outputs`` in linear order, as MATLAB's ``(:)`` and Python's ravel give it.

    A level NaN of an interval without weights, as MATLAB's ``mean([])`` gives it, says nothing, nor does a clip NaN of
    a side without weights.
    """
    known = {name: value for name, value in outputs.items() if not _of_no_weights(name, value, layer.W)}

    def predict(conventions: Conventions) -> list[dict[str, np.ndarray]]:
        every = [outcome for taken in _as_taken(layer) for outcome in _outcomes(taken, conventions, known)]
        return [_without_empty(predicted, known) for predicted in every]

    limit = FOREIGN_TOLERANCE * float(np.max(np.abs(layer.W), initial=SMALLEST_SINGLE))
    limits = dict.fromkeys(("quantized", "levels", "c_neg", "c_pos"), (limit, limit))
    return Observation(layer.name, known, predict, limits, layer)


def from_the_end(observation: Observation) -> Observation:
    """The same case of ``ws_learn_one_layer`` with its weights in reverse order: the last of equal ones come first."""
    layer, outputs = observation.layer, dict(observation.outputs)
    assert layer is not None
    outputs |= {name: outputs[name][::-1] for name in ("quantized", "codes") if name in outputs}
    return layer_observation(replace(layer, W=layer.W.ravel()[::-1]), outputs)


def _as_taken(layer: LayerInput) -> list[LayerInput]:
    """The layer, and, where the weights are others in single precision, the layer as it is after ``single(W)``."""
    with np.errstate(over="ignore"):
        single = layer.W.astype(np.float32)
    if np.array_equal(single, layer.W) or not np.isfinite(single).all():
        return [layer]
    return [layer, replace(layer, W=single)]


def _outcomes(layer: LayerInput, conventions: Conventions, names: Iterable[str]) -> Iterator[dict[str, np.ndarray]]:
    """What the reading gives, by its own arithmetic and by others: codes, and the quantities of these names."""
    result = learn(layer, conventions)
    own = {name: np.asarray(getattr(result, name)) for name in {*names, "codes"}}
    yield own
    for other in other_outcomes(layer, conventions, result):
        yield own | other


def _of_no_weights(name: str, value: np.ndarray, W: np.ndarray) -> bool:
    """Whether this is the clip NaN of a side without weights."""
    side = {"c_neg": W < 0, "c_pos": W > 0}.get(name)
    return side is not None and not side.any() and bool(np.isnan(value).all())


def _without_empty(predicted: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The prediction, a level that no weight takes NaN where it is in ``outputs``."""
    if "levels" not in outputs:
        return dict(predicted)
    empty = np.bincount(predicted["codes"].ravel(), minlength=predicted["levels"].size + 1)[1:] == 0
    return {**predicted, "levels": np.where(empty & np.isnan(outputs["levels"]), np.nan, predicted["levels"])}


def _cases(path: Path) -> list[tuple[Case, str]]:
    content = load_mat(path)
    if "cases" not in content:
        if not {"W", "quantized"} & content.keys():
            raise FixtureError(f"{path}: variable cases: missing, and so are W, p, b and quantized")
        return [(content, f"{path}: the case")]
    cases = content["cases"] if isinstance(content["cases"], list) else [content["cases"]]
    if not cases or not all(isinstance(case, dict) for case in cases):
        raise FixtureError(f"{path}: variable cases: expected a struct array of at least one case")
    return [(case, f"{path}: variable cases({i})") for i, case in enumerate(cases, start=1)]


def _layer_observation(case: Case, where: str) -> Observation:
    case = {name: value for name, value in case.items() if not _not_known(name, value)}
    check_case(case, LAYER_SCHEMA_IN, where)
    W, p, b = case["W"].ravel(order="F"), scalar(case["p"]), whole(case["b"], f"{where}.b")
    try:
        LayerSetting(p, b)
    except SettingError as error:
        raise FixtureError(f"{where}: {error}") from error
    for name in ("W", "quantized"):
        _check_finite(case[name], f"{where}.{name}")
    layer = LayerInput(case.get("name", where.rpartition(": ")[2].removeprefix("variable ")), W, p, b)
    sizes = {"quantized": case["W"].shape, "codes": case["W"].shape, "levels": (2**b - 1,), "c_neg": (), "c_pos": ()}
    given = {name: size for name, size in sizes.items() if name in case}
    for name, size in given.items():
        _check_size(case[name], size, f"{where}.{name}")
    return layer_observation(layer, {name: case[name].ravel(order="F") for name in given})


def _check_size(value: np.ndarray, size: tuple[int, ...], where: str) -> None:
    """Raise FixtureError unless ``(:)`` gives as many elements as of ``size``, and in the same order.

    Axes of length 1 change no order; of a vector it is known.
    """
    n, expected, got = math.prod(size), _long_axes(size), _long_axes(value.shape)
    if value.size != n or (n and len(expected) > 1 < len(got) and got != expected):
        as_array = f", as {' x '.join(map(str, size))} or as a vector" if len(expected) > 1 else ""
        raise FixtureError(f"{where}: expected {n} elements{as_array}, got {' x '.join(map(str, value.shape))}")


def _long_axes(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def _check_finite(weights: np.ndarray, where: str) -> None:
    if n_bad := int((~np.isfinite(weights)).sum()):
        raise FixtureError(f"{where}: expected finite weights, got {n_bad} of {weights.size} that are NaN or Inf")


def _not_known(name: str, value: Any) -> bool:
    """Whether this is an optional variable that is empty."""
    return name in LAYER_SCHEMA_IN and LAYER_SCHEMA_IN[name].optional and 0 in matlab_size(value)


def _codec_observation(case: Case, given: Sequence[str], where: str) -> Observation:
    """``given``: the outputs that the file holds; streams may still be empty, of a layer that is all pruned."""
    check_case(case, {**LAYER_SCHEMA, **dict.fromkeys(given, Var(NUMERIC))}, where)
    layer = layer_of(case, where)
    outputs = {name: case[name].ravel() for name in given}
    if not layer.codes.any() and "index_bits" in outputs and not outputs["index_bits"].size:
        del outputs["index_bits"]  # a layer without entries needs no width

    def predict(conventions: Conventions) -> list[dict[str, np.ndarray]]:
        codebook = 32 * layer.levels.size if conventions.count_codebook == "yes" else 0
        indices = [relative_index(layer.codes, width) for width in _widths(layer, conventions)]
        return [
            {
                "index_bits": np.array(index.index_bits), "gaps": index.gaps, "entry_codes": index.codes,
                "bits": np.array(index.n_entries * (index.index_bits + layer.b) + codebook),
            }
            for index in indices
        ]  # fmt: skip

    return Observation(layer.name, outputs, predict, {"bits": (0.0, MOST_OVERHEAD)})


def _widths(layer: QuantizedLayer, conventions: Conventions) -> list[int]:
    """The widths of the relative index that the reading of A08 allows; for best those of fewest bits or bytes."""
    chosen, _ = choose_index_bits(layer.codes, layer.b, conventions)
    if conventions.index_bits == "deep_compression":
        return [chosen]
    counts = entry_counts(zero_runs(layer.codes))
    bits = [counts[min(w, len(counts) - 1)] * (w + layer.b) for w in range(MAX_INDEX_BITS + 1)]
    n_bytes = [-(-n // 8) for n in bits]
    others = [w for w in range(len(bits)) if bits[w] == min(bits) or n_bytes[w] == min(n_bytes)]
    return list(dict.fromkeys((chosen, *others)))
