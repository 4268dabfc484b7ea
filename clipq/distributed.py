"""Several processes that train one network: torchrun starts them, torch.distributed connects them.

    torchrun --nproc-per-node=N -- scripts/ws_train.py ...

Every process sees the same global batches and takes its share of each.  DistributedDataParallel averages the
gradients, weighted by the shares, so that every process has the gradient of the whole batch.  It differs from that of
one process by the order of the sums only: weights agree to about 1e-15 in float64 and 1e-6 in float32, until such a
difference decides a rectifier, a maximum or a code otherwise, from where on they part as with any other rounding.

The all-reduce computes each sum once and hands the same bits to all, the optimizer is a function of weights and
gradients, and pruning-quantization one of the weights: processes that start alike stay alike, in every bit of the
full-precision weights and in every code.  ``fit`` checks it at each epoch's end.

Batch normalization takes its statistics from a process's own share, as usual; running ones are the writer's.

One process, the writer, has the files and the search; what it reads or finds is sent to the others.  Without torchrun
each function here is what it should be for one process.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from clipq.batch import lengths, part_of
from clipq.errors import ClipqError, DataError, Interrupted

T = TypeVar("T")
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=7)  # a search on one process may take long; torchrun ends them all where one dies


class DistributedError(ClipqError):
    """Processes that differ where they must not, or one that another one's error ends."""


def connect() -> None:
    """Joins the processes that torchrun started; does nothing without it, or where they are connected already."""
    if dist.is_initialized() or not all(name in os.environ for name in _ENVIRONMENT):
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    """Ends the connection and its threads, which must not outlive the interpreter.

    A replica that is garbage, but not collected yet, would keep them.
    """
    gc.collect()
    dist.destroy_process_group()


def world_size() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def local_rank() -> int:
    """This process's number on its machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


def is_writer() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def replicated(module: nn.Module) -> nn.Module:
    """``module`` such that its backward pass averages the gradients over the processes.

    All of them start from the writer's parameters and buffers.  A parameter that a step does not use anywhere gets no
    gradient, as with one process; where there is none, PyTorch says so once on stderr, which is no fault.
    """
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, find_unused_parameters=True)


def share(batch: Any) -> tuple[Any, float]:
    """This process's part of a global batch, and the weight of its mean loss in the average over the processes.

    batch: a tensor, or tuples, lists and dicts of tensors, with one entry a sample along the first dimension; arrays
        and lists of anything else that have one are shared out with them.

    With fewer samples than processes, one that has none takes a sample that counts nothing.

    Raises:
        DataError: tensors of different lengths.
    """
    if world_size() == 1:
        return batch, 1.0
    sizes = lengths(batch)
    if len(sizes) != 1 or 0 in sizes:
        raise DataError(
            f"a batch to be shared: expected tensors with an entry a sample, got tensors of lengths {sorted(sizes)}"
        )
    own, weight = own_samples(sizes.pop(), rank(), world_size())
    return part_of(batch, own), weight


def own_samples(size: int, rank: int, world_size: int) -> tuple[slice, float]:
    """Which of a batch's ``size`` samples the process ``rank`` takes, and its mean loss's weight, as ``share`` does."""
    start, stop = size * rank // world_size, size * (rank + 1) // world_size
    return slice(start, max(stop, start + 1)), world_size * (stop - start) / size


def total(values: list[float]) -> list[float]:
    """The sum of each value over the processes."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device="cpu")
    with _while_all_are_there():
        dist.all_reduce(tensor, group=_messages())
    return tensor.tolist()


def any_rank(*flags: bool) -> list[bool]:
    """Of each flag whether it is set on any process."""
    return [bool(n) for n in total([float(flag) for flag in flags])]


def gathered(value: T) -> list[T]:
    """Every process's value, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _while_all_are_there():
        dist.all_gather_object(values, value, group=_messages())
    return values


def on_writer(work: Callable[[], T]) -> T:
    """The writer's result of ``work``, which the others wait for; where it fails, all do.

    Raises:
        DistributedError: on the others, when the writer has failed or ended.
        Interrupted: on all, when the writer was.
    """
    if world_size() == 1:
        return work()
    answer: list[Any] = [None, None]
    try:
        if is_writer():
            answer[0] = work()
    except Interrupted as stop:
        answer[1] = Interrupted(str(stop))
        raise
    except BaseException as error:
        answer[1] = DistributedError(f"process 0 has failed: {type(error).__name__}: {error}")
        raise
    finally:
        with _while_all_are_there():
            dist.broadcast_object_list(answer, src=0, group=_messages())
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def writer_first(work: Callable[[], T]) -> T:
    """``work`` on every process, on the writer before the others: what it puts on the disk is there for them."""
    done: list[T] = []
    on_writer(lambda: done.append(work()))
    return done[0] if done else work()


def send_buffers(model: nn.Module) -> None:
    """Gives all processes the writer's buffers, such as the running statistics of batch normalization."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def check_same(what: str, value: str) -> None:
    """Compares ``value`` between the processes.

    Raises:
        DistributedError: it differs.
    """
    values = gathered(value)
    if len(set(values)) > 1:
        by_rank = ", ".join(v[:12] for v in values)
        raise DistributedError(f"{what}: expected the same on all {len(values)} processes, got by rank: {by_rank}")


@cache
def _messages() -> dist.ProcessGroup:
    """The processes' connection for what is on the CPU, whatever the one for gradients is."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


@contextmanager
def _while_all_are_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DistributedError(f"another process has ended: {error}") from error
