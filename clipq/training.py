"""The training loop, for dense networks and for CLIP-Q's fine-tuning alike: plain PyTorch, resumable at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice, repeat
from typing import Any, NamedTuple, Protocol, SupportsFloat

import torch
from torch import nn
from torch.nn import functional

from clipq import distributed
from clipq.batch import inputs_and_labels, to_device
from clipq.errors import ClipqError, DataError, Interrupted, ModelError, SettingError, WeightError
from clipq.held_state import copy_of_held, put_back
from clipq.not_finite import first_not_finite, trained_not_finite
from clipq.optimizer import build_optimizer, learning_rate, set_learning_rate
from clipq.progress import NoProgress, Progress
from clipq.train_config import TrainConfig
from clipq.train_state import Checkpoints, History, Trained, TrainState, digest, seed_everything
from clipq.weight_sharing import quantized_once

#: The label that PyTorch's cross entropy leaves out.
IGNORED = -100


class TrainingError(ClipqError):
    """A training that cannot go on: a loss, or weights, that are NaN or Inf; names epoch, step and layer."""


class StepLoss(NamedTuple):
    """What a minibatch gives.

    loss: to be minimised, a mean over ``n`` samples, or over ``n`` labels where a sample has several or some do not
        count.  An epoch's loss is the mean over all of them.
    n_wrong: how many of the n were wrong (NaN: not known).
    """

    loss: torch.Tensor
    n_wrong: torch.Tensor | float
    n: torch.Tensor | int


#: Called with whether an epoch ends -> figures by name.
Measure = Callable[[bool], Mapping[str, float]]

#: (model, batch) -> StepLoss.
Objective = Callable[[nn.Module, Any], StepLoss]


class Epochs(Protocol):
    """Gives the batches of an epoch; the same for the same epoch, so that a killed run can be repeated."""

    def __call__(self, epoch: int) -> Iterable[Any]: ...


def cross_entropy(label_smoothing: float = 0.0) -> Objective:
    """The objective of a classifier on batches of (inputs, labels).

    A model that gives a tuple in training has auxiliary classifiers after the first: their loss counts with the model's
    ``auxiliary_weight``, 1 if it has none.

    Raises:
        ModelError: from the objective, of a model that gives anything else.
    """

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        x, y = inputs_and_labels(batch)
        outputs = model(x)
        output, *auxiliary = _class_scores(outputs)
        loss = functional.cross_entropy(output, y, label_smoothing=label_smoothing)
        for head in auxiliary:
            weight = float(getattr(model, "auxiliary_weight", 1.0))
            loss = loss + weight * functional.cross_entropy(head, y, label_smoothing=label_smoothing)
        return StepLoss(loss, *_mistaken(output.detach(), y))

    return objective


def _class_scores(outputs: Any) -> tuple[torch.Tensor, ...]:
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    strange = [type(output).__name__ for output in several if not isinstance(output, torch.Tensor)]
    if strange or not several:
        raise ModelError(
            f"network: expected class scores as a tensor or a tuple of tensors, got {', '.join(strange) or 'none'}; "
            "any other output needs a loss or an objective of your own"
        )
    return several


def _mistaken(scores: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor | float, torch.Tensor | int]:
    """How many labels are wrong, and how many the cross entropy is a mean over."""
    if _of_labels(scores) != y.shape:  # shares of classes have no right or wrong
        return math.nan, scores.numel() // scores.shape[1]
    return mistaken(scores, y)


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
    stop: Callable[[], bool] = lambda: False,
    before_step: Callable[[float], None] | None = None,
    log_every: int = 50,
) -> History:
    """Trains ``model`` in place; at the end it holds the weights of the epoch that ``config.keep`` says.

    With several processes (``clipq.distributed``) each calls it with the same arguments and ends with the same weights.

    epochs: epoch number -> batches; each must know its ``len``.  Several processes share each batch among them.
    objective: the loss of a minibatch, as ``StepLoss`` says; cross entropy by default.
    validate: model -> error, after each epoch (lower is better); None keeps the last epoch.
    measure: further figures of the moment for history and progress, such as sparsity; called with True at the end
        of an epoch, when figures that take longer may be given, too.
    seed: the random generators are set from (seed, epoch) at the start of every epoch.
    amp: mixed precision (bfloat16 where the GPU has it, else float16), on a GPU only.
    checkpoints: where the state is saved, and taken up again.
    stop: asked after every step whether to save and leave.
    before_step: called before each step with how much of the training is done, in [0, 1).

    Raises:
        TrainingError: a loss that is NaN or Inf, or weights under pruning-quantization, or at an epoch's end any
            trained parameter; names epoch, step and layer.
        Interrupted: ``stop`` said so; epoch and step are saved.
        CheckpointError: a checkpoint that cannot be read or is another run's.
        DistributedError: processes whose weights differ.
    """
    objective = objective or cross_entropy(config.label_smoothing)
    progress = progress if progress and distributed.is_writer() else NoProgress()
    caster = _Caster(next(model.parameters()).device, amp)
    optimizer = build_optimizer(model, config)
    state = TrainState()
    trained = Trained(model, optimizer, caster.scaler, state)
    if checkpoints:
        trained.load(checkpoints)
    replica = distributed.replicated(_Loss(model, objective))
    started = time.monotonic() - sum(record["seconds"] for record in state.history.epochs[-1:])
    while state.epoch < config.epochs:
        seed_everything(seed, state.epoch)
        batches = epochs(state.epoch)
        n_steps = count_batches(batches)
        model.train()
        for batch, weight in progress.steps(_rest(batches, trained), n_steps, state.epoch, config.epochs, state.step):
            step = state.epoch * n_steps + state.step
            set_learning_rate(optimizer, learning_rate(config, step, n_steps))
            if before_step:
                before_step(step / (config.epochs * n_steps))
            result = _train_step(trained, replica, batch, weight, caster, config)
            state.totals = [a + b for a, b in zip(state.totals, result, strict=True)]
            state.step += 1
            if step % log_every == 0:
                figures = _figures(result, measure, False)
                state.history.steps.append({"step": step, "lr": optimizer.param_groups[0]["lr"], **figures})
                progress.show(figures)
            if state.step < n_steps:
                _pause(trained, checkpoints, due=_is_due(checkpoints), stop=stop())
        _end_epoch(model, state, validate, measure, time.monotonic() - started)
        progress.end_epoch(state.history.epochs[-1])
        _pause(trained, checkpoints, due=True, stop=stop())
    if config.keep == "best" and state.best is not None:
        put_back(model, state.best)
    return state.history


@torch.no_grad()
def top1_error(model: nn.Module, batches: Iterable[Any], *, shared: bool = False) -> float:
    """Share of labels, in [0, 1], that are not the class of the highest output, with the model in evaluation mode.

    batches: of (inputs, labels), moved to the model's device; for outputs [n, classes, ...] labels [n, ...], of which
        those that are IGNORED do not count.
    shared: all processes measure together, each its part of every batch; a loader of ``clipq.data`` reads only that.

    Raises:
        DataError: batches, outputs or labels that are anything else, or no labels at all.
    """
    device = next(model.parameters(), torch.empty(0, device="cpu")).device
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    with modes_put_back(model), quantized_once(model):
        model.eval()
        for batch, weight in _shares(batches) if shared else zip(batches, repeat(1.0), strict=False):
            if weight:
                x, y = inputs_and_labels(to_device(batch, device))
                counts += torch.stack(mistaken(model(x), y))
    wrong, n = map(float, counts.tolist())
    all_wrong, all_n = distributed.total([wrong, n]) if shared else (wrong, n)
    return error_rate(all_wrong, all_n)


def mistaken(outputs: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the labels [n, ...] are not the class of the highest of the outputs [n, classes, ...], and how many
    labels count, as they are not IGNORED: int64, 0-d each.

    Raises:
        DataError: other shapes.
    """
    tensors = isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor)
    if not tensors or outputs.ndim < 2 or outputs.shape[1] < 2 or _of_labels(outputs) != labels.shape:
        given = [str(list(x.shape)) if isinstance(x, torch.Tensor) else type(x).__name__ for x in (outputs, labels)]
        raise DataError(
            f"error rate: expected outputs [n, classes, ...] of two classes or more and labels [n, ...], got outputs "
            f"{given[0]} and labels {given[1]}; anything else needs a metric of your own"
        )
    counted = labels != IGNORED
    return ((outputs.argmax(1) != labels) & counted).sum(), counted.sum()


def _of_labels(outputs: torch.Tensor) -> tuple[int, ...]:
    """The shape of the labels of outputs [n, classes, ...]."""
    return *outputs.shape[:1], *outputs.shape[2:]


def error_rate(wrong: float, n: float) -> float:
    """Raises DataError where there is nothing to be wrong."""
    if not n:
        raise DataError("error rate: expected at least one sample, got none")
    return wrong / n


@contextmanager
def modes_put_back(model: nn.Module) -> Iterator[None]:
    """Training or evaluation mode of every module as before, whatever ends the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Loss(nn.Module):
    """Model and objective as one module, for several processes to replicate; the objective sees the model itself."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any) -> StepLoss:
        result = self.objective(self.model, batch)
        if not isinstance(result, tuple) or len(result) != 3 or not isinstance(result[0], torch.Tensor):
            raise SettingError(f"objective: expected a StepLoss(loss, n_wrong, n), got {type(result).__name__}")
        loss, n_wrong, n = result
        for name, count in (("n_wrong", n_wrong), ("n", n)):
            if not _is_number(count):
                raise SettingError(f"objective: {name}: expected a number, got {count!r:.200}")
        if loss.ndim:
            raise SettingError(f"loss: expected a scalar, a mean, got shape {list(loss.shape)}")
        if loss.is_complex():
            raise SettingError(f"loss: expected a real number, got {loss.dtype}")
        if torch.is_grad_enabled() and not loss.requires_grad:
            raise SettingError("loss: expected one that depends on what is trained, got one without a gradient")
        return StepLoss(*result)


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, torch.Tensor) else isinstance(value, SupportsFloat)


class _Caster:
    """Mixed precision: autocast and, for float16, a loss scale."""

    def __init__(self, device: torch.device, amp: bool) -> None:
        self.device = device
        self.enabled = amp and device.type == "cuda"
        self.dtype = (
            torch.bfloat16
            if self.enabled and torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.enabled and self.dtype == torch.float16)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self.dtype) if self.enabled else nullcontext()


def _train_step(
    trained: Trained, replica: nn.Module, batch: Any, weight: float, caster: _Caster, config: TrainConfig
) -> list[float]:
    """One update; the sums of loss and errors over what the minibatch's loss is a mean of, and how many these are."""
    model, optimizer, scaler, state = trained.model, trained.optimizer, trained.scaler, trained.state
    batch = to_device(batch, caster.device)

    def forward() -> StepLoss:
        with caster.autocast():
            return replica(batch)

    optimizer.zero_grad(set_to_none=True)
    try:
        loss, n_wrong, n = forward()
    except WeightError as error:
        raise TrainingError(f"epoch {state.epoch}, step {state.step}: {error}") from error
    scaler.scale(loss * weight).backward()
    counts = 1.0 if weight else 0.0
    meant = float(n) * counts
    sums = distributed.total([float(loss.detach()) * meant, float(n_wrong) * counts, meant])
    if not math.isfinite(sums[0]):
        found = distributed.gathered(first_not_finite(model, forward))
        raise TrainingError(
            f"epoch {state.epoch}, step {state.step}: expected a finite loss, got {sums[0]}; the first that is NaN or "
            f"Inf: {next((f for f in found if f), 'the loss itself')}"
        )
    if not sums[2] >= 1:
        raise SettingError(f"loss: expected the mean over one sample or more, got that of {sums[2]:g}")
    if config.clip_grad_norm:
        scaler.unscale_(optimizer)
        trainable = [p for p in model.parameters() if p.requires_grad]  # frozen ones may still have gradients of before
        nn.utils.clip_grad_norm_(trainable, config.clip_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    return sums


def _rest(batches: Iterable[Any], trained: Trained) -> Iterator[tuple[Any, float]]:
    """This process's part of each of the epoch's batches, and its weight, from the state's step on."""
    first = trained.state.step
    iterator = _shares(batches, first)
    if hasattr(batches, "shares"):
        head = list(islice(iterator, 1))  # it draws its workers' seed when it starts, as at the epoch's start
        iterator = chain(head, iterator)
    if first:
        trained.go_on()
    return iterator


def _shares(batches: Iterable[Any], first: int = 0) -> Iterator[tuple[Any, float]]:
    """This process's part of each batch from ``first`` on, and its weight: 0 for one that does not count.

    A loader of ``clipq.data`` reads nothing else.  Of any other those before are drawn, too, as it may need its
    generator's numbers in their order.
    """
    if (shares := getattr(batches, "shares", None)) is not None:
        return shares(distributed.rank(), distributed.world_size(), first)
    whole = iter(batches)
    for _ in islice(whole, first):
        pass
    return map(distributed.share, whole)


def _figures(totals: list[float], measure: Measure | None, epoch_ends: bool) -> dict[str, float]:
    loss, wrong, n = totals
    return {"loss": loss / n, "error": wrong / n, **(measure(epoch_ends) if measure else {})}


def _end_epoch(
    model: nn.Module,
    state: TrainState,
    validate: Callable[[nn.Module], float] | None,
    measure: Measure | None,
    seconds: float,
) -> None:
    """Measures and keeps the best, where parameters are finite and processes have not drifted apart."""
    if not state.totals[2]:
        raise DataError(
            f"epoch {state.epoch}: expected at least one sample, got none; can the batches be iterated anew each epoch?"
        )
    if distributed.world_size() > 1:
        distributed.send_buffers(model)
        distributed.check_same(f"epoch {state.epoch}: sha256 of the weights", digest(model))
    if (name := trained_not_finite(model)) is not None:
        raise TrainingError(
            f"epoch {state.epoch}, after step {state.step - 1}: expected finite parameters, got NaN or Inf in {name}"
        )
    record = {"epoch": state.epoch, "seconds": seconds, **_figures(state.totals, measure, True)}
    if validate is not None:
        record["val_error"] = validate(model)
        if record["val_error"] <= state.best_error:
            state.best_error = record["val_error"]
            state.best = copy_of_held(model)
    state.history.epochs.append(record)
    state.epoch, state.step, state.totals = state.epoch + 1, 0, [0.0, 0.0, 0.0]


def _is_due(checkpoints: Checkpoints | None) -> bool:
    """Whether it is time to save: for the process that writes, as the others do not know when it last did."""
    return checkpoints is not None and distributed.is_writer() and checkpoints.due()


def _pause(trained: Trained, checkpoints: Checkpoints | None, *, due: bool, stop: bool) -> None:
    """Saves if it is time to, and leaves if any process was asked to."""
    due, stop = distributed.any_rank(due, stop)
    if checkpoints and (due or stop):
        trained.save(checkpoints)
    if stop:
        raise Interrupted(f"the training stopped in epoch {trained.state.epoch}, before step {trained.state.step}")


def count_batches(batches: Iterable[Any]) -> int:
    """Minibatches of an epoch.

    Raises:
        DataError: unknown, or none.
    """
    try:
        n = len(batches)  # type: ignore[arg-type]
    except TypeError:
        raise DataError("training batches: expected an iterable that knows its len(), such as a DataLoader") from None
    if n == 0:
        raise DataError("training batches: expected at least one, got none")
    return n
