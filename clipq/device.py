"""The device that an experiment names, and how it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipq import distributed
from clipq.errors import ExperimentError


def find_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), or a device as torch names it; this process's own, where several train.

    Raises:
        ExperimentError: no such device, or one that cannot be used here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and distributed.world_size() > 1:
        name = f"cuda:{distributed.local_rank()}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExperimentError(f"run.device: {name!r} cannot be used: {error}") from error
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


@contextmanager
def repeatable() -> Iterator[None]:
    """Only convolutions that give the same bits each time, which on a GPU others do not; as before in the end.

    cuDNN would also take those that add up in any order, or, with ``benchmark``, those that are fastest at the moment.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
