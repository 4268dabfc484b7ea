"""Where a training stands, and all that it needs to go on from there as if it had not been interrupted."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from clipq import distributed
from clipq.errors import CheckpointError
from clipq.held_state import check_alike, held, put_back
from clipq.tensor_bytes import tensor_to_bytes


class Checkpoints(Protocol):
    """Where ``fit`` keeps its state; ``due`` says whether it is time to save within an epoch."""

    def load(self) -> dict[str, Any] | None: ...
    def save(self, state: Mapping[str, Any]) -> None: ...
    def due(self) -> bool: ...


@dataclass
class History:
    """What happened.  steps: one dict each ``log_every`` steps; epochs: one dict an epoch.

    An epoch's ``seconds`` are those from the training's start to the epoch's end, without any that a resumed training
    had spent on an epoch that it had not ended.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainState:
    """The state beside those of model, optimizer and loss scale.

    epoch: running, from 0.  step: the next one in it.  totals: of the epoch's loss, errors and samples so far.
    best: what the model held after the epoch with the lowest validation error, ``best_error``.
    random: the generators' states at that step, of each process.
    """

    epoch: int = 0
    step: int = 0
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    best_error: float = math.inf
    best: dict[str, Any] | None = None
    history: History = field(default_factory=History)
    random: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """Everything that a step changes.

    scaler: of mixed precision's loss.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    state: TrainState

    def save(self, checkpoints: Checkpoints) -> None:
        """Every process must call it; one writes."""
        self.state.random = distributed.gathered(random_state(_device(self.model)))
        parts = {"model": held(self.model), **{n: getattr(self, n).state_dict() for n in ("optimizer", "scaler")}}
        own = {name: getattr(self.state, name) for name in TrainState.__dataclass_fields__}
        distributed.on_writer(lambda: checkpoints.save({**parts, **own, "history": asdict(self.state.history)}))

    def load(self, checkpoints: Checkpoints) -> None:
        """Takes up what was saved, if anything was.  Every process must call it; one reads.

        Raises:
            CheckpointError: what was saved is of another network, optimizer or format.
        """
        saved = distributed.on_writer(checkpoints.load)
        if saved is None:
            return
        try:
            check_alike(self.model, saved["model"])
            put_back(self.model, saved["model"])
            for name in ("optimizer", "scaler"):
                getattr(self, name).load_state_dict(saved[name])
            for name in TrainState.__dataclass_fields__:
                setattr(self.state, name, saved[name])
            self.state.history = History(**saved["history"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this network and its optimizer: {error}") from error

    def go_on(self) -> None:
        """Sets the generators as they were at the saved step; those of a process that was not there then stay."""
        if distributed.rank() < len(self.state.random):
            set_random_state(self.state.random[distributed.rank()], _device(self.model))


def seed_everything(seed: int, epoch: int = 0, *, alike: bool = False) -> None:
    """Sets torch's, NumPy's and Python's generators from (seed, epoch), and the process where there are several.

    alike: the same in all of them.
    """
    words = [seed, epoch, 7] + ([distributed.rank()] if distributed.rank() and not alike else [])
    value = int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0])
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002 (the global generator is the one that users' transforms draw from)
    random.seed(value)


def random_state(device: torch.device) -> dict[str, Any]:
    """Of torch's generators for the CPU and ``device``, NumPy's and Python's."""
    kind, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, np.asarray(words).tolist(), *rest],
        "python": random.getstate(),
    }


def set_random_state(saved: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], device)
    kind, words, *rest = saved["numpy"]
    np.random.set_state((kind, np.array(words, np.uint32), *rest))  # noqa: NPY002
    random.setstate(saved["python"])


def digest(model: nn.Module) -> str:
    """sha256 of all parameters and buffers."""
    total = hashlib.sha256()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        total.update(name.encode())
        total.update(tensor_to_bytes(tensor))
    return total.hexdigest()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
