"""A batch is a tensor, or tuples, lists and mappings of tensors: taking one to a device, or a part of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from clipq.errors import DataError


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors of ``batch``, and whatever else has ``to``, on ``device``."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(batch, "to", None)):  # a packed sequence, a batch of graphs, a tokenizer's output
        return batch.to(device)
    return _mapped(batch, lambda item: to_device(item, device))


def lengths(batch: Any) -> set[int]:
    """Of the tensors' first dimensions; one, the number of samples, where every tensor has an entry a sample."""
    return {len(tensor) for tensor in tensors_of(batch) if tensor.ndim}


def part_of(batch: Any, samples: slice) -> Any:
    """Some of the samples: each tensor cut along its first dimension."""
    if isinstance(batch, torch.Tensor):
        return batch[samples] if batch.ndim else batch
    return _mapped(batch, lambda item: part_of(item, samples))


def copied(batch: Any) -> Any:
    """The same in memory of its own."""
    return batch.clone() if isinstance(batch, torch.Tensor) else _mapped(batch, copied)


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """All of them, one after the other."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def equal(batch: Any, other: Any) -> bool:
    """Whether all tensors are, of two of the same structure; those with NaN never."""
    if isinstance(batch, torch.Tensor):
        return torch.equal(batch, other)
    if isinstance(batch, Mapping):
        return all(equal(part, other[key]) for key, part in batch.items())
    return not isinstance(batch, tuple | list) or all(map(equal, batch, other))


def inputs_and_labels(batch: Any) -> tuple[Any, Any]:
    """The two members of a classifier's batch.

    Raises:
        DataError: it is anything else.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        size = f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else ""
        raise DataError(
            f"batch: expected (inputs, labels), got {type(batch).__name__}{size}; other batches are trained with an "
            "objective and measured with a metric of your own"
        )
    return batch[0], batch[1]


def _mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The container with ``change`` of what it holds, a mapping as a dict; anything else as it is."""
    if isinstance(batch, Mapping):
        return {key: change(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(change, batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map(change, batch))
    return batch
