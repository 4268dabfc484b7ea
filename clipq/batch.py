"""A batch is a tensor, or tuples, lists and mappings of tensors: taking one to a device, or a part of its samples."""

from __future__ import annotations

import copy
import operator
from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
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
    """Some of the samples: each tensor and array cut along its first dimension.

    And what else has an entry a sample: a list of names, say.
    """
    return _part(batch, samples, max(lengths(batch), default=0))


def _part(batch: Any, samples: slice, n: int) -> Any:
    if isinstance(batch, torch.Tensor | np.ndarray):
        return batch[samples] if batch.ndim else batch
    if isinstance(batch, tuple | list) and len(batch) == n and not any(map(_holds_arrays, batch)):
        return batch[samples]
    return _mapped(batch, lambda item: _part(item, samples, n))


def _holds_arrays(batch: Any) -> bool:
    """Whether there is anything in it that may have an entry a sample."""
    return isinstance(batch, torch.Tensor | np.ndarray) or any(map(_holds_arrays, _parts(batch)))


def copied(batch: Any) -> Any:
    """The same in memory of its own."""
    return batch.clone() if isinstance(batch, torch.Tensor) else _mapped(batch, copied)


def tensors_of(batch: Any) -> list[torch.Tensor]:
    """All of them, one after the other."""
    if isinstance(batch, torch.Tensor):
        return [batch]
    return [tensor for part in _parts(batch) for tensor in tensors_of(part)]


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


def _parts(batch: Any) -> Iterable[Any]:
    """What a container holds; nothing of anything else."""
    return batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()


def _mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """The container with ``change`` of what it holds, itself where nothing changes; anything else as it is.

    Containers of the user's own classes stay of these, where copies of them can be made.
    """
    if isinstance(batch, Mapping):
        values = {key: change(value) for key, value in batch.items()}
        return batch if all(values[key] is value for key, value in batch.items()) else _refilled(batch, values)
    if isinstance(batch, tuple | list):
        items = [change(item) for item in batch]
        return batch if all(map(operator.is_, items, batch)) else _refilled(batch, items)
    return batch


def _refilled(batch: Any, parts: Any) -> Any:
    """A container like ``batch`` of other parts: the values by their keys, or the items."""
    if isinstance(batch, dict | UserDict):
        mapping = copy.copy(batch)
        mapping.update(parts)
        return mapping
    if isinstance(batch, list):
        items = copy.copy(batch)
        items[:] = parts
        return items
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*parts)
    return tuple(parts) if isinstance(batch, tuple) else parts
