"""Which weights of a network are compressed, and under which names they are stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from clipq.errors import ModelError, SettingError
from clipq.held_state import is_expanded
from clipq.model_check import is_uninitialized
from clipq.name_patterns import Patterns
from clipq.quantized_net import WEIGHT_DTYPES

T = TypeVar("T")
#: Marks of a place in memory.
_OF_CHOSEN, _OF_ANOTHER = 1, 2
#: Hooks that compute a weight from other parameters.
_COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)
#: Modules whose weights are compressed unless the caller names other types: linear maps, and convolutions of any
#: dimension and groups.  The projections of an attention are parameters of its own, not of a linear layer.
DEFAULT_TYPES: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.MultiheadAttention,
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
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
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
    types: type[nn.Module] | Sequence[type[nn.Module]] = DEFAULT_TYPES,
) -> list[CompressibleLayer]:
    """The weights of ``model`` to compress, in the order of its modules.

    include, exclude: shell patterns, matched with the module's name (``features.0``) and with the weight's
        (``features.0.weight``); a layer is taken if any of ``include`` and none of ``exclude`` matches.  A shared
        (tied) weight goes under all its names.
    types: module classes, subclasses too.  Meant is a module's ``weight``; of a module that has none, such as an
        attention or a recurrent layer, every parameter of two or more dimensions that is not a bias.

    Raises:
        SettingError: patterns that are no strings, or types that are no classes.
        ModelError: a pattern that matches nothing, no layer at all, or a layer that cannot be compressed.
    """
    include = _as_tuple("include", include, str, "a shell pattern or several")
    exclude = _as_tuple("exclude", exclude, str, "a shell pattern or several")
    candidates = _candidates(model, _as_tuple("types", types, type, "a module class or several"))
    synonyms = _names_of_parameters(model)
    names = {
        name: synonyms.get(id(module._parameters.get(attribute)), [name])
        for name, (module, attribute) in candidates.items()
    }
    taken_by, left_by = Patterns(include), Patterns(exclude)
    every_name = [n for group in {id(group): group for group in names.values()}.values() for n in group]
    for pattern in (*taken_by.unmatched(every_name), *left_by.unmatched(every_name)):
        if pattern != "*":
            raise ModelError(
                f"layer pattern {pattern!r} matches nothing; the network's layers: {', '.join(candidates)}"
            )
    chosen: dict[int, CompressibleLayer] = {}
    owners, seen = _owners(model), set[int]()
    for name, (module, attribute) in candidates.items():
        group = names[name]
        if id(group) in seen or not any(map(taken_by.match, group)) or any(map(left_by.match, group)):
            continue
        weight = _checked_weight(name, module, attribute)
        seen.add(id(group))
        if any(has_sparse_gradients(owner) for owner, _ in owners[id(weight)]):
            raise ModelError(
                f"layer {name}: expected dense gradients, got sparse=True; set it to False, or exclude the layer"
            )
        chosen[id(weight)] = CompressibleLayer(name, weight, tuple(owners[id(weight)]))
    if not chosen:
        raise ModelError(
            f"no layer to compress among {', '.join(candidates) or 'none of the known types'}; "
            f"include = {list(include)}, exclude = {list(exclude)}"
        )
    _check_memory(model, chosen)
    return list(chosen.values())


def _as_tuple(name: str, given: T | Iterable[T], kind: type[T], expected: str) -> tuple[T, ...]:
    """One or several of a kind, as an option has them."""
    several = tuple(given) if isinstance(given, Iterable) and not isinstance(given, kind) else (given,)
    if not all(isinstance(each, kind) for each in several):
        raise SettingError(f"{name}: expected {expected}, got {given!r}")
    return several


def _candidates(model: nn.Module, types: tuple[type[nn.Module], ...]) -> Mapping[str, tuple[nn.Module, str]]:
    """Weight name -> (module, attribute), for the modules of the given types; the first name of each module."""
    return {
        f"{name}.{attribute}".lstrip("."): (module, attribute)
        for name, module in model.named_modules()
        if isinstance(module, types)
        for attribute in _weight_attributes(module)
    }


def _weight_attributes(module: nn.Module) -> list[str]:
    if parametrize.is_parametrized(module, "weight"):  # to read it would compute it, and change spectral norm's buffers
        return ["weight"]
    if hasattr(module, "weight"):
        return [] if module.weight is None else ["weight"]
    own: dict[str, torch.Tensor] = {k: p for k, p in module._parameters.items() if p is not None}
    for computed, sources in _computed(module):
        own[computed] = max((own.pop(k, p) for k, p in sources.items()), key=lambda p: p.ndim)
    return [k for k, p in own.items() if p.ndim >= 2 and "bias" not in k]


def _computed(module: nn.Module) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The parameters of a module that are computed, and what each is computed from, by name."""
    if parametrize.is_parametrized(module):
        by_name: Any = module.parametrizations
        for name, parametrizations in by_name.items():
            yield name, dict(parametrizations.named_parameters())
    for hook in module._forward_pre_hooks.values():  # those of before there were parametrizations
        name = getattr(hook, "name", getattr(hook, "_tensor_name", None))
        if isinstance(hook, _COMPUTING) and name is not None:
            yield name, {k: p for k, p in module._parameters.items() if k.rpartition("_")[0] == name and p is not None}


def _names_of_parameters(model: nn.Module) -> dict[int, list[str]]:
    """id of a parameter -> its names in the state dict."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _checked_weight(name: str, module: nn.Module, attribute: str) -> nn.Parameter:
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ModelError(f"layer {name}: not initialized yet; run one batch through the network first")
    weight = module._parameters.get(attribute)
    if weight is None or parametrize.is_parametrized(module, attribute):
        raise ModelError(
            f"layer {name}: expected a parameter, but its weight is computed (a parametrization, weight norm, a "
            "pruning mask) or packed; remove that first, or exclude the layer"
        )
    if weight.dtype not in WEIGHT_DTYPES.values() or weight.layout != torch.strided:
        raise ModelError(
            f"layer {name}: expected a dense weight of type {', '.join(WEIGHT_DTYPES)}, "
            f"got {weight.dtype}, {weight.layout}"
        )
    if is_expanded(weight):
        raise ModelError(f"layer {name}: an expanded view, several weights in one place; expected one made by .clone()")
    if weight.is_meta:
        raise ModelError(f"layer {name}: its weight is on the meta device and has no values")
    if type(weight.data) is not torch.Tensor or weight.is_inference():
        kind = "made in inference mode" if weight.is_inference() else f"of the class {type(weight.data).__name__}"
        raise ModelError(f"layer {name}: expected a plain tensor that can be trained, got one {kind}")
    return weight


def has_sparse_gradients(module: nn.Module) -> bool:
    """Whether this is an embedding that is trained with ``sparse=True``."""
    sparse = isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
    return sparse and any(p.requires_grad for p in module.parameters())


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """id of a parameter -> every (module, attribute) that holds it."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            owners.setdefault(id(parameter), []).append((module, attribute))
    return owners


def _check_memory(model: nn.Module, chosen: Mapping[int, CompressibleLayer]) -> None:
    """Refuses a weight whose memory another parameter or buffer uses, too: quantizing one would change the other."""
    spans = []
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_uninitialized(tensor) or type(tensor.data) is not torch.Tensor or tensor.layout != torch.strided:
            continue
        if tensor.numel() and not tensor.is_meta:
            spans.append(_Span(str(tensor.device), tensor.data_ptr(), _end(tensor), name, tensor))
    for together in _overlapping(sorted(spans, key=lambda s: s[:3])):
        if any(id(span.tensor) in chosen for span in together):
            _check_elements(together, chosen)


def _overlapping(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Of spans in order those that overlap, together, where there are several."""
    together, end = list[_Span](), 0
    for span in spans:
        if together and (span.device != together[0].device or span.start >= end):
            if len(together) > 1:
                yield together
            together, end = [], 0
        together.append(span)
        end = max(end, span.end)
    if len(together) > 1:
        yield together


def _check_elements(together: Sequence[_Span], chosen: Mapping[int, CompressibleLayer]) -> None:
    """Refuses two of these tensors, one of them chosen, that have a place in common."""
    marks = _Marks([span.tensor for span in together])
    for i, span in enumerate(together):
        own = id(span.tensor) in chosen
        place = marks.of(span.tensor)
        if bool((place if own else place & _OF_CHOSEN).any()):
            others = (o for o in together[:i] if (own or id(o.tensor) in chosen) and _meet(o.tensor, span.tensor))
            raise ModelError(
                f"layers {next(others).name} and {span.name}: two tensors in the same memory; "
                "to tie weights, let both modules hold one and the same parameter"
            )
        place |= _OF_CHOSEN if own else _OF_ANOTHER


class _Span(NamedTuple):
    """The memory of a tensor: its first byte, and the one after its last."""

    device: str
    start: int
    end: int
    name: str
    tensor: torch.Tensor


def _end(tensor: torch.Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


class _Marks:
    """A byte for each place in the memory of some tensors: as large a piece as none of their elements is cut by."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._start = min(tensor.data_ptr() for tensor in tensors)
        offsets = (tensor.data_ptr() - self._start for tensor in tensors)
        self._unit = math.gcd(*offsets, *(tensor.element_size() for tensor in tensors))
        n_bytes = max(map(_end, tensors)) - self._start
        self._marks = torch.zeros(n_bytes // self._unit, dtype=torch.uint8)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The marks of a tensor's elements: a view."""
        size = tensor.element_size() // self._unit
        strides = [size * stride for stride in tensor.stride()]
        first = (tensor.data_ptr() - self._start) // self._unit
        return self._marks.as_strided((*tensor.shape, size), (*strides, 1), first)


def _meet(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have an element, or a part of one, in common."""
    marks = _Marks([one, other])
    marks.of(one).fill_(1)
    return bool(marks.of(other).any())
