"""The inputs of the ``ws_train`` fixture: small networks, real data, settings, and the order of the samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from clipq.conventions import Conventions
from matlab_parity.layer_inputs import conventions_struct
from matlab_parity.mat_files import Case, to_matlab

N_SAMPLES, N_HIDDEN, N_CLASSES = 240, 12, 10


def train_cases() -> list[Case]:
    """One case each of several readings, as ``collect_ws_train.m`` takes them."""
    rng = np.random.default_rng(7)
    X, y = _digits()
    return [
        {
            "name": name,
            "X": to_matlab(X),
            "labels": (y + 1.0)[None, :],
            "net": _initial(rng, X.shape[1]),
            "opt": _options(rng, conventions, **knobs),
        }
        for name, conventions, knobs in _settings()
    ]


def _settings() -> Iterator[tuple[str, Conventions, dict[str, Any]]]:
    yield "defaults", Conventions(), {}
    yield "defaults, weight decay", Conventions(), {"weight_decay": 5e-3, "momentum": 0.5}
    yield "defaults, b=2, no momentum", Conventions(), {"p": 0.6, "b": 2, "momentum": 0.0, "lr": 0.3}
    yield "joined, all weights", Conventions(clip_scope="all_weights", partition="joined", edge="inner"), {}
    yield "first kept, floor, zero", Conventions(
        clip_value="first_kept", clip_count="floor", clip_ties="keep", empty_level="zero"), {"b": 4}  # fmt: skip


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, 8 x 8 averaged to 4 x 4, scaled to [0, 1]; the first samples."""
    images, labels = load_digits(return_X_y=True)
    small = images[:N_SAMPLES].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) / 16.0
    return small, labels[:N_SAMPLES].astype(np.float64)


def _initial(rng: np.random.Generator, n_inputs: int) -> Case:
    W1 = rng.normal(0, n_inputs**-0.5, (N_HIDDEN, n_inputs))
    W2 = rng.normal(0, N_HIDDEN**-0.5, (N_CLASSES, N_HIDDEN))
    return {
        "W1": to_matlab(W1), "b1": rng.normal(0, 0.1, (N_HIDDEN, 1)),
        "W2": to_matlab(W2), "b2": rng.normal(0, 0.1, (N_CLASSES, 1)),
    }  # fmt: skip


def _options(
    rng: np.random.Generator,
    conventions: Conventions,
    p: float = 0.4,
    b: int = 3,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> Case:
    batches = np.stack([rng.permutation(N_SAMPLES)[:20] + 1.0 for _ in range(60)], axis=1)
    return {
        "p": np.array([[p, p / 2]]), "b": np.array([[float(b), float(b)]]), "lr": lr, "momentum": momentum,
        "weight_decay": weight_decay, "batches": batches, "conv": conventions_struct(conventions),
    }  # fmt: skip
