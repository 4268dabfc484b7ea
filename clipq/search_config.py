"""The knobs of the search for each layer's (p, b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clipq.errors import SettingError
from clipq.option_types import check_types
from clipq.quantized_net import B_MAX, B_MIN, LayerSetting

#: Of p; the candidates are all looked at.
FINEST_STEP = 1e-4
_MODES = ("bayesopt", "random", "uniform", "given")


@dataclass(frozen=True)
class SearchConfig:
    """How (p, b) are found; see ``clipq.search``.

    mode: ``bayesopt`` (the paper's), ``random`` (as many evaluations, drawn uniformly), ``uniform`` (``p`` and ``b``
        for every layer), ``given`` (the table ``given``).
    lambda_: the weight of the saving against the error in eps - lambda * c_i; > 0 (A12: the paper's value is unknown).
    evaluations: of the objective, for each layer, >= 2; the paper reports good values within 20 to 30.
    p_min, p_max, p_step: the candidates for p, p_max included where a step falls on it, a step at least 1e-4 (A14).
    b_min, b_max: the candidates for b, whole numbers in 2..8 (A14).
    subset: training images on which eps is measured (A15).
    coder: whose count of bits gives s_i(theta).
    p, b: of ``uniform``.
    given: layer name (without ``.weight``) -> (p, b), for ``given``; layers not named take ``p`` and ``b``.
    """

    mode: Literal["bayesopt", "random", "uniform", "given"] = "bayesopt"
    lambda_: float = 1.0
    evaluations: int = 25
    p_min: float = 0.0
    p_max: float = 0.99
    p_step: float = 0.03
    b_min: int = 2
    b_max: int = 8
    subset: int = 5000
    coder: Literal["fixed", "entropy"] = "fixed"
    p: float = 0.9
    b: int = 4
    given: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def searches(self) -> bool:
        """Whether (p, b) come from evaluations of the objective."""
        return self.mode in ("bayesopt", "random")

    def __post_init__(self) -> None:
        check_types(self, "search option")
        limits = (
            ("mode", self.mode in _MODES, f"one of {_MODES}"),
            ("lambda_", self.lambda_ > 0, "> 0"),
            ("evaluations", self.evaluations >= 2, ">= 2"),
            ("p_min", 0 <= self.p_min <= 1, "in [0, 1]"),
            ("p_max", self.p_min <= self.p_max <= 1, "in [p_min, 1]"),
            ("p_step", self.p_step >= FINEST_STEP, f">= {FINEST_STEP:g}"),
            ("b_min", B_MIN <= self.b_min <= B_MAX, f"in {B_MIN}..{B_MAX}"),
            ("b_max", self.b_min <= self.b_max <= B_MAX, f"in b_min..{B_MAX}"),
            ("subset", self.subset >= 1, ">= 1"),
            ("coder", self.coder in ("fixed", "entropy"), "fixed or entropy"),
        )
        for name, holds, expected in limits:
            if not holds:
                raise SettingError(f"search option {name}: expected {expected}, got {getattr(self, name)!r}")
        LayerSetting(self.p, self.b)
        for name, theta in self.given.items():
            if not isinstance(theta, Sequence) or len(theta) != 2:
                raise SettingError(f"search.given.{name}: expected [p, b], got {theta!r}")
            LayerSetting(*theta)
