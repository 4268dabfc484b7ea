"""The choice of lambda by what it does to the fine-tuned network: not in the paper (DEVIATIONS.md, D15).

The search weighs a layer's size against what pruning and quantizing it at one blow does to the error; how much of that
the fine-tuning mends depends on network and data.  So smaller and smaller lambdas are tried, each with search and
fine-tuning, and the first is taken whose network errs on the held-out images no more than is accepted.  Of two networks
that are equally good each errs more on every second set of images, hence the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol, TypeVar

from clipq.errors import SettingError


@dataclass(frozen=True)
class SelectionConfig:
    """attempts: lambdas that are tried at most, >= 1: ``search.lambda_``, then each time ``factor`` times less.
        1: that lambda, whatever comes of it, as in the paper.
    factor: > 1.
    error: what the fine-tuned network may err on the held-out images, in [0, 1]; without it, as much as the dense one.
        To be given where the starting weights were trained on images that are held out here.
    tolerance: by how many standard errors of that error, measured on so many images, it may err more, >= 0.
    """

    attempts: int = 1
    factor: float = 2.0
    error: float | None = None
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        limits = (
            ("attempts", self.attempts >= 1, ">= 1"),
            ("factor", self.factor > 1, "> 1"),
            ("error", self.error is None or 0 <= self.error <= 1, "in [0, 1]"),
            ("tolerance", self.tolerance >= 0, ">= 0"),
        )
        for name, holds, expected in limits:
            if not holds:
                raise SettingError(f"selection option {name}: expected {expected}, got {getattr(self, name)!r}")

    def lambdas(self, first: float) -> list[float]:
        """Those that are tried, in their order."""
        return [first / self.factor**number for number in range(self.attempts)]

    def accepted(self, dense_error: float, n_images: int) -> float:
        """What the fine-tuned network may err, where the dense one errs ``dense_error`` on so many images."""
        error = dense_error if self.error is None else self.error
        return error + self.tolerance * sqrt(error * (1 - error) / n_images)


class Judged(Protocol):
    """What an attempt gives; ``val_error``: its network's error on the held-out images, in [0, 1]."""

    @property
    def val_error(self) -> float: ...


A = TypeVar("A", bound=Judged)


def select(attempt: Callable[[int, float], A], lambdas: Sequence[float], accepted: float) -> A:
    """The first of ``attempt(number, lambda)`` whose error is ``accepted`` or less; where there is none, that of the
    lowest error, the first of equals."""
    best: A | None = None
    for number, lambda_ in enumerate(lambdas):
        tried = attempt(number, lambda_)
        best = tried if best is None or tried.val_error < best.val_error else best
        if best.val_error <= accepted:
            break
    assert best is not None, "no lambda"
    return best
