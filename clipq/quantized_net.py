"""The values that travel between the stages: a layer's setting, a quantized layer, a quantized network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from clipq.errors import SettingError

B_MIN, B_MAX = 2, 8
#: The largest magnitude of a weight that is compressed: levels are float32.
WEIGHT_MAX = float(np.finfo(np.float32).max)
#: Floating types a compressed weight may have; its levels are float32 and cast to this type when decoded.
WEIGHT_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # fmt: skip  # noqa: E501
#: The names of these types.
DTYPE_NAMES = {dtype: name for name, dtype in WEIGHT_DTYPES.items()}


@dataclass(frozen=True)
class LayerSetting:
    """theta = (p, b) of one layer: pruning rate ``p`` in [0, 1] and bits ``b`` in 2..8.

    NumPy's numbers are taken, too; kept are a float and an int.

    Raises:
        SettingError: p or b outside its range or not a number.
    """

    p: float
    b: int

    def __post_init__(self) -> None:
        if not isinstance(self.p, (int, float, np.integer, np.floating)) or not 0.0 <= self.p <= 1.0:
            raise SettingError(f"pruning rate p: expected a number in [0, 1], got {self.p!r}")
        if isinstance(self.b, bool) or not isinstance(self.b, (int, np.integer)) or not B_MIN <= self.b <= B_MAX:
            raise SettingError(f"bits b: expected an integer from {B_MIN} to {B_MAX}, got {self.b!r}")
        object.__setattr__(self, "p", float(self.p))
        object.__setattr__(self, "b", int(self.b))


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer's weights as integer codes and a codebook.

    name: the state dict's name, for example ``conv1.weight``.
    b: bits of a code, 2..8.
    codes: uint8, of the weight's shape, C order (linear order equals matcaffe's ``W(:)``); 0 is a pruned weight,
        1 .. 2^b - 1 the quantization level.
    levels: float32 [2^b - 1], the level of code 1 first; those that weights have are ascending.
    dtype: the weight's own type, a key of ``WEIGHT_DTYPES``.
    """

    name: str
    b: int
    codes: np.ndarray
    levels: np.ndarray
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "b", LayerSetting(0.0, self.b).b)
        if self.codes.dtype != np.uint8:
            raise SettingError(f"layer {self.name}: codes: expected uint8, got {self.codes.dtype}")
        if self.levels.dtype != np.float32 or self.levels.shape != (2**self.b - 1,):
            raise SettingError(
                f"layer {self.name}: levels: expected float32 of shape ({2**self.b - 1},), "
                f"got {self.levels.dtype} of shape {self.levels.shape}"
            )
        if self.codes.size and int(self.codes.max()) >= 2**self.b:
            raise SettingError(f"layer {self.name}: codes: expected below 2^{self.b}, got {int(self.codes.max())}")
        if self.dtype not in WEIGHT_DTYPES:
            raise SettingError(f"layer {self.name}: dtype: expected one of {list(WEIGHT_DTYPES)}, got {self.dtype!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def n_kept(self) -> int:
        return int(np.count_nonzero(self.codes))

    def weights(self) -> torch.Tensor:
        """The quantized weights: a new CPU tensor of ``shape`` and ``dtype``."""
        table = torch.from_numpy(np.concatenate([np.zeros(1, np.float32), self.levels])).to(WEIGHT_DTYPES[self.dtype])
        return table[torch.from_numpy(self.codes.astype(np.int32))]


@dataclass(frozen=True, eq=False)
class QuantizedNet:
    """A compressed network: what a ``.clipq`` file holds.

    layers: in the network's order.
    tensors: every other entry of the state dict, kept exactly (CPU tensors): biases, batch norm, buffers.
    aliases: further names of a stored entry, for shared (tied) weights: alias -> name in ``layers`` or ``tensors``.
    """

    layers: tuple[QuantizedLayer, ...]
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers] + list(self.tensors)
        every = names + list(self.aliases)
        twice = sorted({n for n in every if every.count(n) > 1}) if len(set(every)) < len(every) else []
        if twice:
            raise SettingError(f"network: expected every name once, got twice: {', '.join(twice)}")
        dangling = sorted(set(self.aliases.values()) - set(names))
        if dangling:
            raise SettingError(f"network: aliases of entries that are not there: {', '.join(dangling)}")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every weight and tensor by name, quantized weights decoded: load it with ``load_state_dict``."""
        state = {layer.name: layer.weights() for layer in self.layers}
        state.update(self.tensors)
        state.update({alias: state[name] for alias, name in self.aliases.items()})
        return state

    def rounded(self, dtype: str) -> QuantizedNet:
        """The same with each float32 and float64 tensor rounded to the values of ``dtype`` (``float16``, ``bfloat16``);
        its type stays.  (DEVIATIONS.md, D13.)

        Raises:
            SettingError: an unknown ``dtype``, or a finite number that is too large for it; names the tensor.
        """
        if dtype not in list(WEIGHT_DTYPES):
            raise SettingError(f"dtype of tensors: expected one of {list(WEIGHT_DTYPES)}, got {dtype!r}")
        coarse = WEIGHT_DTYPES[dtype]
        tensors = dict(self.tensors)
        for name, exact in self.tensors.items():
            if exact.dtype in (torch.float64, torch.float32):
                tensors[name] = exact.to(coarse).to(exact.dtype)
                if too_large := int((tensors[name].isinf() & exact.isfinite()).sum()):
                    raise SettingError(
                        f"tensor {name}: expected numbers of at most {torch.finfo(coarse).max:g} to round to {dtype}, "
                        f"got {too_large} larger ones; leave encode.tensors as_trained, or use bfloat16"
                    )
        return replace(self, tensors=tensors)
