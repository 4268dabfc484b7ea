"""The choice of each layer's (p, b): minimise eps(theta) - lambda c_i(theta), layer by layer (paper, section 3.2).

eps is the top-1 error on a fixed subset of the training images with the layer pruned and quantized, nothing
fine-tuned; c_i = (m_i - s_i(theta)) / sum_j m_j is the saving as a fraction of the whole network, s_i counted by
``clipq.bits``, as the file does.  Open readings: the order of the layers (A10), whether those already searched stay
quantized (A11), lambda (A12), the ranges (A14) and the subset (A15).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import nn

from clipq.bits import layer_bits
from clipq.conventions import Conventions
from clipq.errors import CheckpointError, ModelError
from clipq.layers import CompressibleLayer
from clipq.quantized_net import LayerSetting
from clipq.search_config import SearchConfig
from clipq.subset_error import SubsetError
from clipq.ws_learn_one_layer import ws_learn_one_layer


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the objective.

    layer: its name.  number: from 0, within the layer.  p, b: theta.
    eps: error in [0, 1].  bits: s_i(theta).  saving: c_i(theta).  value: eps - lambda * saving.
    seconds: that it took.
    """

    layer: str
    number: int
    p: float
    b: int
    eps: float
    bits: int
    saving: float
    value: float
    seconds: float


class SearchLog(Protocol):
    """Keeps evaluations, so that a killed search goes on where it was; ``name`` is what errors call it."""

    @property
    def name(self) -> str: ...
    def evaluations(self) -> Sequence[Evaluation]: ...
    def append(self, evaluation: Evaluation) -> None: ...


class Proposals(Protocol):
    """Asks for the next theta, and is told its value."""

    def ask(self) -> np.ndarray: ...
    def tell(self, x: np.ndarray, value: float) -> None: ...


def search(
    model: nn.Module,
    layers: Sequence[CompressibleLayer],
    error: Callable[[nn.Module], float],
    config: SearchConfig,
    *,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    seed: int = 0,
    log: SearchLog | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> tuple[dict[str, LayerSetting], list[Evaluation]]:
    """The setting of every layer, and the evaluations that led to it (none for the modes ``uniform`` and ``given``).

    model: its weights are quantized while it is measured, and restored.
    error: model -> error in [0, 1] on the subset; a ``SubsetError`` is spared what comes before the layer searched.
    log: evaluations in it are not measured again.

    Raises:
        CheckpointError: the log's evaluations are not those that this search asks for.
        ModelError: ``given`` names a layer that is not there.
    """
    given = given_settings(layers, config)
    if given is not None:
        return given, []
    recorded = iter(log.evaluations() if log else ())
    log_name = log.name if log else ""
    total_bits = sum(layer.n_bits for layer in layers)
    settings: dict[str, LayerSetting] = {}
    evaluations: list[Evaluation] = []
    with _weights_restored(layers):
        for position in _order(layers, conventions):
            layer = layers[position]
            objective = _Objective(model, layer, error, config, conventions, total_bits)
            proposals = _proposals(config, (seed + position) % 2**32)
            tried = []
            for number in range(n_evaluations(config)):
                theta = _theta(proposals.ask())
                evaluation = next(recorded, None)
                if evaluation is None:
                    evaluation = objective(theta, number)
                    if log:
                        log.append(evaluation)
                else:
                    _check_recorded(evaluation, layer.name, number, theta, config.lambda_, log_name)
                proposals.tell(np.array([theta.p, theta.b]), evaluation.value)
                tried.append(evaluation)
                if on_evaluation:
                    on_evaluation(evaluation)
            best = min(tried, key=lambda e: e.value)
            settings[layer.name] = LayerSetting(best.p, best.b)
            evaluations += tried
            objective.leave(settings[layer.name] if conventions.search_context == "quantized" else None)
    return {layer.name: settings[layer.name] for layer in layers}, evaluations


def _check_recorded(
    evaluation: Evaluation, layer: str, number: int, theta: LayerSetting, lambda_: float, log_name: str
) -> None:
    """Refuses an evaluation of the log that is not the one asked for, or whose value is not this lambda's."""
    where = f"{log_name}: evaluation {number} of layer {layer}"
    if (evaluation.layer, evaluation.number, evaluation.p, evaluation.b) != (layer, number, theta.p, theta.b):
        raise CheckpointError(
            f"{where}: expected p={theta.p:g}, b={theta.b}, got evaluation {evaluation.number} of layer "
            f"{evaluation.layer}, p={evaluation.p:g}, b={evaluation.b}; delete it to search anew"
        )
    value = evaluation.eps - lambda_ * evaluation.saving
    if evaluation.value != value:
        raise CheckpointError(
            f"{where}: expected the value eps - {lambda_:g} * saving = {value!r}, got {evaluation.value!r}; delete it "
            "to search anew"
        )


def candidates(config: SearchConfig) -> np.ndarray:
    """Every (p, b) that may be tried: float64 [g, 2]."""
    n_p = int(np.floor((config.p_max - config.p_min) / config.p_step + 1e-9)) + 1
    p = np.minimum(np.round(config.p_min + config.p_step * np.arange(n_p), 10), config.p_max)
    b = np.arange(config.b_min, config.b_max + 1, dtype=np.float64)
    return np.stack(np.meshgrid(p, b, indexing="ij"), axis=-1).reshape(-1, 2)


def n_evaluations(config: SearchConfig) -> int:
    """Evaluations for each layer: no candidate is tried twice."""
    return min(config.evaluations, len(candidates(config)))


class _Objective:
    """eps(theta) - lambda c_i(theta) of one layer."""

    def __init__(
        self,
        model: nn.Module,
        layer: CompressibleLayer,
        error: Callable[[nn.Module], float],
        config: SearchConfig,
        conventions: Conventions,
        total_bits: int,
    ) -> None:
        self._layer = layer
        self._error = error.from_layer(model, layer) if isinstance(error, SubsetError) else partial(error, model)
        self._config, self._conventions, self._total_bits = config, conventions, total_bits
        self._full = layer.weight.detach().clone()

    def __call__(self, theta: LayerSetting, number: int) -> Evaluation:
        started = time.perf_counter()
        codes, levels = self.leave(theta)
        bits = layer_bits(codes, theta.b, self._conventions, self._config.coder, levels)
        eps = self._error()
        saving = (self._layer.n_bits - bits) / max(self._total_bits, 1)
        value = eps - self._config.lambda_ * saving
        seconds = time.perf_counter() - started
        return Evaluation(self._layer.name, number, theta.p, theta.b, eps, bits, saving, value, seconds)

    @torch.no_grad()
    def leave(self, theta: LayerSetting | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Leaves the layer quantized with ``theta``, or in full precision; its codes and levels."""
        if theta is None:
            self._layer.weight.copy_(self._full)
            return torch.zeros(0, dtype=torch.uint8), torch.zeros(0)
        learned = ws_learn_one_layer(self._full, theta.p, theta.b, self._conventions, self._layer.name)
        self._layer.weight.copy_(learned.quantized)
        return learned.codes, learned.levels


class _Random:
    """Candidates in an order drawn by chance; stands beside Bayesian optimisation with as many evaluations."""

    def __init__(self, points: np.ndarray, seed: int) -> None:
        self._points = iter(points[np.random.default_rng(seed).permutation(len(points))])

    def ask(self) -> np.ndarray:
        return next(self._points)

    def tell(self, x: np.ndarray, value: float) -> None:
        pass


def _proposals(config: SearchConfig, seed: int) -> Proposals:
    grid = candidates(config)
    if config.mode == "random":
        return _Random(grid, seed)
    from clipq.bayesopt import BayesoptOptions, Optimizer

    return Optimizer(
        BayesoptOptions(dims=2, mins=grid.min(0), maxes=grid.max(0), grid=grid, max_iters=config.evaluations, seed=seed)
    )


def _theta(point: np.ndarray) -> LayerSetting:
    return LayerSetting(float(point[0]), round(float(point[1])))


def _order(layers: Sequence[CompressibleLayer], conventions: Conventions) -> list[int]:
    forward = list(range(len(layers)))
    match conventions.search_order:
        case "backward":
            return forward[::-1]
        case "largest_first":
            return sorted(forward, key=lambda i: -layers[i].weight.numel())
        case _:
            return forward


def given_settings(layers: Sequence[CompressibleLayer], config: SearchConfig) -> dict[str, LayerSetting] | None:
    """Each layer's of the modes ``uniform`` and ``given``; None of those that search.

    Raises:
        ModelError: one for a layer that is not there.
    """
    if config.searches:
        return None
    if config.mode == "uniform":
        return {layer.name: LayerSetting(config.p, config.b) for layer in layers}
    names = {layer.name.removesuffix(".weight"): layer.name for layer in layers}
    given: Mapping[str, tuple[float, int]] = {k.removesuffix(".weight"): v for k, v in config.given.items()}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ModelError(f"search.given: no such layer: {', '.join(unknown)}; the layers: {', '.join(names)}")
    return {full: LayerSetting(*given.get(short, (config.p, config.b))) for short, full in names.items()}


@contextmanager
def _weights_restored(layers: Sequence[CompressibleLayer]) -> Iterator[None]:
    saved = [layer.weight.detach().clone() for layer in layers]
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, saved, strict=True):
                layer.weight.copy_(weight)


def as_record(evaluation: Evaluation) -> dict[str, object]:
    """The evaluation as a flat mapping, as logs and reports hold it."""
    return asdict(evaluation)
