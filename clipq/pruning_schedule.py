"""How the pruning rate rises over the fine-tuning: a departure from the paper, which keeps it (DEVIATIONS.md, D12)."""

from __future__ import annotations

from dataclasses import dataclass

from clipq.errors import SettingError


@dataclass(frozen=True)
class PruningSchedule:
    """Each layer's pruning rate is ``share(progress)`` times its p: first few weights are pruned, then more and more
    slowly more, so that the others have time to take over.

    ramp: the part of the fine-tuning over which the rate rises, in [0, 1]; 0: p from the first step on (the paper).
    start: the share of p at the first step, in [0, 1].
    """

    ramp: float = 0.0
    start: float = 0.5

    def __post_init__(self) -> None:
        for name in ("ramp", "start"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"pruning schedule {name}: expected in [0, 1], got {getattr(self, name)!r}")

    def share(self, progress: float) -> float:
        """Of p, where ``progress`` in [0, 1] of the fine-tuning is done; the cubic of Zhu and Gupta (2017)."""
        if progress >= self.ramp:
            return 1.0
        return 1 - (1 - self.start) * (1 - progress / self.ramp) ** 3
