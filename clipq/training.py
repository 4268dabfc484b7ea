"""The training loop, for dense networks and for CLIP-Q's fine-tuning alike: plain PyTorch, resumable at any step."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from clipq.errors import ClipqError, DataError
from clipq.progress import NoProgress, Progress
from clipq.train_config import TrainConfig


class TrainingError(ClipqError):
    """A training that cannot go on: a loss that is not finite; names the step."""


class StepLoss(NamedTuple):
    """What a minibatch gives: the loss to minimise, and how many of ``n`` samples were wrong (NaN: not known)."""

    loss: torch.Tensor
    n_wrong: torch.Tensor | float
    n: int


#: Called with whether an epoch ends -> figures by name.
Measure = Callable[[bool], Mapping[str, float]]

#: (model, batch) -> StepLoss.
Objective = Callable[[nn.Module, Any], StepLoss]


class Epochs(Protocol):
    """Gives the batches of an epoch; the same for the same epoch, so that a killed run can be repeated."""

    def __call__(self, epoch: int) -> Iterable[Any]: ...


class Checkpoints(Protocol):
    """Where ``fit`` keeps its state; ``due`` says whether it is time to save within an epoch."""

    def load(self) -> dict[str, Any] | None: ...
    def save(self, state: Mapping[str, Any]) -> None: ...
    def due(self) -> bool: ...


@dataclass
class History:
    """What happened.  steps: one dict each ``log_every`` steps; epochs: one dict an epoch."""

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


@dataclass
class _State:
    epoch: int = 0
    step: int = 0
    best_error: float = math.inf
    best: dict[str, torch.Tensor] | None = None
    history: History = field(default_factory=History)


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of a classifier on batches of (inputs, labels).

    A model that gives a tuple in training has auxiliary classifiers after the first: their loss counts with the model's
    ``auxiliary_weight``, 1 if it has none.
    """

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        x, y = batch
        outputs = model(x)
        output, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = functional.cross_entropy(output, y, label_smoothing=label_smoothing)
        for head in auxiliary:
            weight = float(getattr(model, "auxiliary_weight", 1.0))
            loss = loss + weight * functional.cross_entropy(head, y, label_smoothing=label_smoothing)
        return StepLoss(loss, (output.detach().argmax(1) != y).sum(), len(y))

    return objective


def fit(
    model: nn.Module,
    epochs: Epochs,
    config: TrainConfig,
    *,
    objective: Objective | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    measure: Measure | None = None,
    seed: int = 0,
    amp: bool = False,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    log_every: int = 50,
) -> History:
    """Trains ``model`` in place; at the end it holds the weights of the epoch with the lowest validation error.

    epochs: epoch number -> batches; each must know its ``len``.
    objective: the loss of a minibatch; cross entropy by default.
    validate: model -> error, after each epoch (lower is better; of equals the later); None keeps the last epoch.
    measure: further figures of the moment for history and progress, such as sparsity; called with True at the end
        of an epoch, when figures that take longer may be given, too.
    seed: torch's generators are set from (seed, epoch) at the start of every epoch.
    amp: mixed precision (bfloat16 where the GPU has it, else float16), on a GPU only.

    Raises:
        TrainingError: a loss that is NaN or Inf; names epoch and step.
        CheckpointError: a checkpoint that cannot be read or is another run's.
    """
    objective = objective or cross_entropy(config.label_smoothing)
    progress = progress or NoProgress()
    optimizer = build_optimizer(model, config)
    device = next(model.parameters()).device
    caster = _Caster(device, amp)
    state = _State()
    resumed = _restore(checkpoints.load(), model, optimizer, caster, state) if checkpoints else None
    started = time.monotonic()
    while state.epoch < config.epochs:
        seed_everything(seed, state.epoch)
        batches = epochs(state.epoch)
        n_steps = _length(batches)
        totals = np.zeros(3)
        model.train()
        for step, batch in enumerate(progress.steps(batches, n_steps, state.epoch, config.epochs)):
            if resumed is not None:
                if step < state.step:
                    continue
                totals = resumed["totals"]
                _set_random_state(resumed["random"])
                resumed = None
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, state.epoch * n_steps + step, n_steps)
            result = _train_step(model, batch, objective, optimizer, caster, config, state.epoch, step)
            totals += result
            state.step = step + 1
            if (state.epoch * n_steps + step) % log_every == 0:
                figures = _figures(result, measure, False)
                state.history.steps.append(
                    {"step": state.epoch * n_steps + step, "lr": optimizer.param_groups[0]["lr"], **figures}
                )
                progress.show(figures)
            if checkpoints and checkpoints.due() and state.step < n_steps:
                checkpoints.save(_snapshot(model, optimizer, caster, state, totals))
        resumed = None
        _end_epoch(model, state, totals, validate, measure, time.monotonic() - started)
        progress.end_epoch(state.history.epochs[-1])
        if checkpoints:
            checkpoints.save(_snapshot(model, optimizer, caster, state, np.zeros(3)))
    if state.best is not None:
        model.load_state_dict(state.best)
    return state.history


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step ``step`` (from 0), warm-up included."""
    total = max(1, config.epochs * steps_per_epoch)
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    t = min(1.0, (step - warmup) / max(1.0, total - warmup))  # a loader's len may be an estimate
    match config.schedule:
        case "step":
            return config.lr * config.gamma ** math.floor(step / steps_per_epoch / config.step_epochs)
        case "cosine":
            return config.lr * 0.5 * (1 + math.cos(math.pi * t))
        case "linear":
            return config.lr * (1 - t)
        case "inv":
            return config.lr * (1 + config.gamma * step) ** -0.75
        case _:
            return config.lr


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or Adam on the trainable parameters; the full-precision ones of layers whose weights are shared."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 or config.decay_biases]
    others = [p for p in parameters if not (p.ndim > 1 or config.decay_biases)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


@torch.no_grad()
def top1_error(model: nn.Module, batches: Iterable[Any]) -> float:
    """Share of samples, in [0, 1], whose highest output is not their label, with the model in evaluation mode.

    batches: of (inputs, labels), moved to the model's device.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    wrong, n = torch.zeros((), dtype=torch.int64, device=device), 0
    with parametrize.cached():
        for batch in batches:
            x, y = to_device(batch, device)
            wrong += (model(x).argmax(1) != y).sum()
            n += len(y)
    model.train(training)
    if not n:
        raise DataError("error rate: expected at least one sample, got none")
    return float(wrong) / n


def seed_everything(seed: int, epoch: int = 0) -> None:
    """Sets torch's, NumPy's and Python's generators from (seed, epoch)."""
    value = int(np.random.SeedSequence([seed, epoch, 7]).generate_state(1, np.uint32)[0])
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002 (the global generator is the one that users' transforms draw from)
    random.seed(value)


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors of ``batch`` on ``device``: a tensor or anything else with ``to``, or containers of such."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(batch, "to", None)):  # a packed sequence, a batch of graphs, a tokenizer's output
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


class _Caster:
    """Mixed precision: autocast and, for float16, a loss scale."""

    def __init__(self, device: torch.device, amp: bool) -> None:
        self.device = device
        self.enabled = amp and device.type == "cuda"
        self.dtype = torch.bfloat16 if self.enabled and torch.cuda.is_bf16_supported() else torch.float16
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.enabled and self.dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype if self.enabled else None, enabled=self.enabled)


def _train_step(
    model: nn.Module,
    batch: Any,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    caster: _Caster,
    config: TrainConfig,
    epoch: int,
    step: int,
) -> np.ndarray:
    """One update; the sums of loss and errors over the minibatch, and its samples."""
    optimizer.zero_grad(set_to_none=True)
    with caster.autocast():
        loss, n_wrong, n = objective(model, to_device(batch, caster.device))
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(f"epoch {epoch}, step {step}: the loss is {value}; expected a finite number")
    caster.scaler.scale(loss).backward()
    if config.clip_grad_norm:
        caster.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
    caster.scaler.step(optimizer)
    caster.scaler.update()
    return np.array([value * n, float(n_wrong), n])


def _figures(totals: np.ndarray, measure: Measure | None, epoch_ends: bool) -> dict[str, float]:
    loss, wrong, n = (float(v) for v in totals)
    return {"loss": loss / n, "error": wrong / n, **(measure(epoch_ends) if measure else {})}


def _end_epoch(
    model: nn.Module,
    state: _State,
    totals: np.ndarray,
    validate: Callable[[nn.Module], float] | None,
    measure: Measure | None,
    seconds: float,
) -> None:
    if not totals[2]:
        raise DataError(
            f"epoch {state.epoch}: expected at least one sample, got none; can the batches be iterated anew each epoch?"
        )
    record = {"epoch": state.epoch, "seconds": seconds, **_figures(totals, measure, True)}
    if validate is not None:
        record["val_error"] = validate(model)
        if record["val_error"] <= state.best_error:
            state.best_error = record["val_error"]
            state.best = {k: v.detach().clone() for k, v in model.state_dict().items()}
    state.history.epochs.append(record)
    state.epoch, state.step = state.epoch + 1, 0


def _length(batches: Iterable[Any]) -> int:
    try:
        n = len(batches)  # type: ignore[arg-type]
    except TypeError:
        raise DataError("training batches: expected an iterable that knows its len(), such as a DataLoader") from None
    if n == 0:
        raise DataError("training batches: expected at least one, got none")
    return n


def _snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, caster: _Caster, state: _State, totals: np.ndarray
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": caster.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "best_error": state.best_error,
        "best": state.best,
        "history": {"steps": state.history.steps, "epochs": state.history.epochs},
        "totals": totals.tolist(),
        "random": _random_state(),
    }


def _restore(
    saved: dict[str, Any] | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    caster: _Caster,
    state: _State,
) -> dict[str, Any] | None:
    """Puts a snapshot back; what the interrupted epoch needs to go on, or None."""
    if saved is None:
        return None
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    caster.scaler.load_state_dict(saved["scaler"])
    state.epoch, state.step = saved["epoch"], saved["step"]
    state.best_error, state.best = saved["best_error"], saved["best"]
    state.history = History(**saved["history"])
    if state.step == 0:
        return None
    return {"random": saved["random"], "totals": np.array(saved["totals"])}


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if saved["cuda"]:
        torch.cuda.set_rng_state_all(saved["cuda"])
