"""Which weights of a network are compressed, and under which names they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.utils import parametrize

from clipq.errors import ModelError
from clipq.quantized_net import WEIGHT_DTYPES

#: Layers whose ``weight`` is compressed unless the caller names other types.
DEFAULT_TYPES: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CompressibleLayer:
    """A weight that CLIP-Q compresses.

    name: of the weight in the state dict, for example ``conv1.weight``.
    weight: the parameter itself.
    owners: every (module, attribute) that holds it; several where weights are shared (tied).
    """

    name: str
    weight: nn.Parameter
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def n_bits(self) -> int:
        """m_i of the paper: the bits of this layer's weights, uncompressed."""
        return self.weight.numel() * self.weight.element_size() * 8


def compressible_layers(
    model: nn.Module,
    include: Iterable[str] = ("*",),
    exclude: Iterable[str] = (),
    types: Sequence[type[nn.Module]] = DEFAULT_TYPES,
) -> list[CompressibleLayer]:
    """The weights of ``model`` to compress, in the order of its modules.

    include, exclude: shell patterns, matched with the module's name (``features.0``) and with the weight's
        (``features.0.weight``); a layer is taken if any of ``include`` and none of ``exclude`` matches.
    types: module classes whose ``weight`` is meant, subclasses too.

    Raises:
        ModelError: a pattern that matches nothing, no layer at all, or a layer that cannot be compressed.
    """
    include, exclude = tuple(include), tuple(exclude)
    candidates = dict(_modules(model, tuple(types)))
    known = [n for name in candidates for n in (name, name.removesuffix(".weight"))]
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(n, pattern) for n in known) and pattern != "*":
            raise ModelError(
                f"layer pattern {pattern!r} matches nothing; the network's layers: {', '.join(candidates)}"
            )
    chosen: dict[int, CompressibleLayer] = {}
    for name, module in candidates.items():
        if _matches(name, include) and not _matches(name, exclude):
            weight = _checked_weight(name, module)
            if id(weight) not in chosen:
                chosen[id(weight)] = CompressibleLayer(name, weight, _owners(model, weight))
    if not chosen:
        raise ModelError(
            f"no layer to compress among {', '.join(candidates) or 'none of the known types'}; "
            f"include = {list(include)}, exclude = {list(exclude)}"
        )
    return list(chosen.values())


def _modules(model: nn.Module, types: tuple[type[nn.Module], ...]) -> Iterator[tuple[str, nn.Module]]:
    """Weight name -> module, for the modules of the given types."""
    for name, module in model.named_modules():
        if isinstance(module, types):
            yield f"{name}.weight".lstrip("."), module


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(n, p) for p in patterns for n in (name, name.removesuffix(".weight")))


def _checked_weight(name: str, module: nn.Module) -> nn.Parameter:
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ModelError(f"layer {name}: not initialized yet; run one batch through the network first")
    if parametrize.is_parametrized(module, "weight") or "weight" not in module._parameters:
        raise ModelError(
            f"layer {name}: its weight is computed (a parametrization, weight norm or pruning mask); "
            "remove that first, or exclude the layer"
        )
    weight = module._parameters["weight"]
    if weight is None or weight.dtype not in WEIGHT_DTYPES.values() or weight.layout != torch.strided:
        given = "none" if weight is None else f"{weight.dtype}, {weight.layout}"
        raise ModelError(f"layer {name}: expected a dense floating-point weight, got {given}")
    if weight.is_meta:
        raise ModelError(f"layer {name}: its weight is on the meta device and has no values")
    return weight


def _owners(model: nn.Module, weight: nn.Parameter) -> tuple[tuple[nn.Module, str], ...]:
    return tuple((m, key) for m in model.modules() for key, p in m._parameters.items() if p is weight)
