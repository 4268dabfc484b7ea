"""The user's measure of error, checked: in the search, and after each epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from clipq import distributed
from clipq.errors import SettingError
from clipq.search_config import SearchConfig
from clipq.subset_error import SubsetError
from clipq.weight_sharing import quantized_once

#: model -> error in [0, 1], lower is better.
Metric = Callable[[nn.Module], float]


def epoch_error(metric: Metric) -> Metric:
    """What the metric gives on the first of several processes, after an epoch."""
    measured = _checked(metric, "metric")
    return lambda model: distributed.gathered(measured(model))[0]


def search_error(config: SearchConfig, metric: Metric | None, search_metric: Metric | SubsetError | None) -> Metric:
    """What the search measures with.

    Raises:
        SettingError: a search without a metric.
    """
    if isinstance(search_metric, SubsetError):
        return search_metric
    if search_metric is not None:
        return _checked(search_metric, "search_metric")
    if metric is not None:
        return _checked(metric, "metric")
    raise SettingError(f"compress: a search of mode {config.mode} needs a metric or a search_metric, got none")


def _checked(metric: Metric, name: str) -> Metric:
    """The metric in evaluation mode, its weights quantized once a call, its value a number in [0, 1]."""

    @torch.no_grad()
    def measured(model: nn.Module) -> float:
        model.eval()
        with quantized_once(model):
            value = metric(model)
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            number = -1.0
        if not 0.0 <= number <= 1.0:
            raise SettingError(f"{name}: expected an error in [0, 1], lower is better; got {value!r}")
        return number

    return measured
