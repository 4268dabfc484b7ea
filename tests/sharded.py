"""A tensor whose elements are partly elsewhere."""

from typing import Any

import torch


class Sharded(torch.Tensor):
    """A tensor of which only a part of the elements is here, as ``DTensor`` is."""

    part: torch.Tensor

    @staticmethod
    def __new__(cls, part: torch.Tensor) -> "Sharded":
        whole = torch.Tensor._make_wrapper_subclass(cls, (2 * len(part),), dtype=part.dtype)
        whole.part = part
        return whole

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["part"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict, context: None, size: object, stride: object) -> "Sharded":
        return Sharded(parts["part"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} of elements that are elsewhere")
