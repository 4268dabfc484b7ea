"""The inputs of the ``ws_search`` fixture: a small trained network, real data, and every reading that a search sees."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from clipq.conventions import Conventions
from matlab_parity.layer_inputs import conventions_struct
from matlab_parity.mat_files import Case, to_matlab

N_SAMPLES = 160
RATES, BITS = tuple(k * 0.125 for k in range(8)), (2.0, 3.0, 4.0, 5.0)
READINGS = ("search_order", "search_context", "count_codebook")


def search_cases() -> list[Case]:
    """One case for each combination of A09, A10 and A11.  The second layer is the larger one."""
    X, y = _digits()
    net = _trained(X, y)
    cases = []
    for options in itertools.product(*(Conventions.options(name) for name in READINGS)):
        chosen: dict[str, Any] = dict(zip(READINGS, options, strict=True))
        opt = {"p": np.array([RATES]), "b": np.array([BITS]), "lambda": 1.2,
               "conv": conventions_struct(Conventions(**chosen))}  # fmt: skip
        cases.append(
            {"name": ", ".join(options), "X": to_matlab(X), "labels": (y + 1.0)[None, :], "net": net, "opt": opt}
        )
    return cases


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, 8 x 8 averaged to 4 x 2, scaled to [0, 1]; the first samples."""
    images, labels = load_digits(return_X_y=True)
    small = images[:N_SAMPLES].reshape(-1, 4, 2, 2, 4).mean(axis=(2, 4)).reshape(-1, 8) / 16.0
    return small, labels[:N_SAMPLES].astype(np.float64)


def _trained(X: np.ndarray, y: np.ndarray) -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 14), nn.ReLU(), nn.Linear(14, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(500):
        optimizer.zero_grad()
        functional.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(y.astype(np.int64))).backward()
        optimizer.step()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return {
        "W1": to_matlab(state["0.weight"]), "b1": state["0.bias"][:, None],
        "W2": to_matlab(state["2.weight"]), "b2": state["2.bias"][:, None],
    }  # fmt: skip
