"""A small layer's step of training in one compiled call, where that has proved to give the general way's result."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch

from clipq.learning.host_passes import WITHOUT_NUMBA
from clipq.learning.learned_layer import LearnedLayer
from clipq.proved import unless_it_fails
from clipq.quantized_net import LayerSetting

Step = Callable[..., LearnedLayer | None]


@cache
def layer_step(dtype: torch.dtype, generally: Callable[..., LearnedLayer]) -> Step | None:
    """For weights of one type: takes them, their (p, b) and what is near; gives None where it does not know its way."""
    if dtype not in (torch.float32, torch.float64):
        return None

    def proved() -> Step | None:
        from clipq.learning.compiled_layer import learn_layer

        return learn_layer if learns_the_same(learn_layer, generally, dtype) else None

    return unless_it_fails(proved, WITHOUT_NUMBA)


def learns_the_same(step: Step, generally: Callable[..., LearnedLayer], dtype: torch.dtype) -> bool:
    """Whether every bit is that of the general way: with ties and zeros, few weights and many, moved a little."""
    for n, (p, b) in product((1000, 20_000), ((0.0, 2), (0.4, 8), (0.9, 4))):
        random = np.random.default_rng(n)
        before = np.concatenate([random.standard_normal(n).round(1), random.standard_normal(n) ** 5, np.zeros(9)])
        after = before + 1e-3 * random.standard_normal(len(before)).round()
        near = generally(torch.from_numpy(before).to(dtype), LayerSetting(p, b)).near
        W = torch.from_numpy(after).to(dtype)
        found = step(W, LayerSetting(p, b), near)
        if found is not None and _everything(found) != _everything(generally(W, LayerSetting(p, b))):
            return False
    return True


def _everything(made: LearnedLayer) -> list[Any]:
    arrays = (made.quantized, made.find_codes(), made.levels, made.counts)
    return [*(np.asarray(a).tobytes() for a in arrays), made.neg, made.pos]
