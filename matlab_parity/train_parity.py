"""Holds ``clipq.ws_train`` against ``ws_train.m``: the same networks, data and minibatches, iteration by iteration.

The MATLAB side has gradients written by hand; Python's are autograd's, through the parametrization that every
training uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clipq.layers import compressible_layers
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.train_config import TrainConfig
from clipq.training import StepLoss
from clipq.weight_sharing import WeightSharing
from clipq.ws_train import ws_train
from matlab_parity.layer_parity import conventions_of
from matlab_parity.mat_files import NUMBER, STRUCT, TEXT, Case, Var, check_case, load_cases, scalar
from matlab_parity.tolerances import Check, check

FUNCTION = "ws_train"
DOUBLE = Var(("double",))
NET_SCHEMA = {"W1": DOUBLE, "b1": Var(("double",), (-1, 1)), "W2": DOUBLE, "b2": Var(("double",), (-1, 1))}
OPT_SCHEMA = {
    "p": Var(("double",), (1, 2)), "b": Var(("double",), (1, 2)), "lr": NUMBER, "momentum": NUMBER,
    "weight_decay": NUMBER, "batches": DOUBLE, "conv": STRUCT,
}  # fmt: skip
TRACE_SCHEMA = {
    "loss": Var(("double",), (1, -1)), "codes1": Var(("uint8",)), "codes2": Var(("uint8",)),
    "W1": DOUBLE, "b1": DOUBLE, "W2": DOUBLE, "b2": DOUBLE,
}  # fmt: skip
CASE_SCHEMA = {
    "name": TEXT, "X": DOUBLE, "labels": Var(("double",), (1, -1)), "net": STRUCT, "opt": STRUCT, "trained": STRUCT,
    "trace": STRUCT,
}  # fmt: skip
TRAINED_SCHEMA = {**NET_SCHEMA, "codes1": Var(("uint8",)), "codes2": Var(("uint8",)),
                  "levels1": Var(("single",)), "levels2": Var(("single",))}  # fmt: skip
PARAMETERS = ("W1", "b1", "W2", "b2")


@dataclass
class Trace:
    """What Python's training went through: one entry an iteration; weights are those after the update."""

    loss: list[float] = field(default_factory=list)
    codes1: list[np.ndarray] = field(default_factory=list)
    codes2: list[np.ndarray] = field(default_factory=list)
    W1: list[np.ndarray] = field(default_factory=list)
    b1: list[np.ndarray] = field(default_factory=list)
    W2: list[np.ndarray] = field(default_factory=list)
    b2: list[np.ndarray] = field(default_factory=list)


def checks(folder: Path) -> Iterator[Check]:
    """Every comparison of the fixture in ``folder``.

    Raises:
        FixtureError: the fixture is missing, or not as it should be.
    """
    path = folder / "ws_train.mat"
    for number, case in enumerate(load_cases(path, CASE_SCHEMA), start=1):
        yield from compare_case(case, f"{path}: variable cases({number})")


def compare_case(case: Case, where: str) -> Iterator[Check]:
    """One training run: loss, codes and full-precision weights of every iteration, and what remains at the end."""
    for name, schema in (("net", NET_SCHEMA), ("opt", OPT_SCHEMA), ("trained", TRAINED_SCHEMA), ("trace", TRACE_SCHEMA)):  # fmt: skip  # noqa: E501
        check_case(case[name], schema, f"{where}.{name}")
    trace, net = train(case, where)
    stored = case["trace"]
    yield check(FUNCTION, case["name"], "loss", np.array([trace.loss]), stored["loss"])
    for name in ("codes1", "codes2", *PARAMETERS):
        yield check(FUNCTION, case["name"], name, np.stack(getattr(trace, name), axis=1), stored[name])
    for number, layer in enumerate(net.layers, start=1):
        final = {"codes": (layer.codes.T, case["trained"][f"codes{number}"]),
                 "levels": (layer.levels, case["trained"][f"levels{number}"].ravel())}  # fmt: skip
        for quantity, (a, e) in final.items():
            yield check(FUNCTION, f"{case['name']}, layer {number} at the end", f"final_{quantity}", a, e)


def train(case: Case, where: str) -> tuple[Trace, QuantizedNet]:
    """Python's ``ws_train`` on the stored network, data and minibatches."""
    opt, X, labels = case["opt"], torch.from_numpy(case["X"].T.copy()), case["labels"].ravel().astype(np.int64) - 1
    columns = opt["batches"].astype(np.int64).T - 1
    batches = [(X[torch.from_numpy(c)], torch.from_numpy(labels[c])) for c in columns]
    model = model_of(case["net"])
    layers = compressible_layers(model)
    settings = {
        layer.name: LayerSetting(float(p), int(b))
        for layer, p, b in zip(layers, opt["p"].ravel(), opt["b"].ravel(), strict=True)
    }
    config = TrainConfig(
        epochs=1, batch_size=columns.shape[1], lr=scalar(opt["lr"]), momentum=scalar(opt["momentum"]),
        weight_decay=scalar(opt["weight_decay"]), schedule="constant",
    )  # fmt: skip
    trace = Trace()

    def objective(network: nn.Module, batch: Any) -> StepLoss:
        if trace.loss:
            _record_parameters(trace, model)
        loss = functional.cross_entropy(network(batch[0]), batch[1])
        _record_codes(trace, model)
        trace.loss.append(float(loss.detach()))
        return StepLoss(loss, float("nan"), len(batch[1]))

    def at_the_end(network: nn.Module) -> float:
        _record_parameters(trace, model)
        return 0.0

    conventions = conventions_of(opt["conv"], f"{where}.opt.conv")
    result = ws_train(
        model, layers, settings, lambda _: batches, config, conventions=conventions, validate=at_the_end,
        objective=objective,
    )  # fmt: skip
    return trace, result.net


def model_of(net: Case) -> nn.Sequential:
    """The stored network in float64."""
    (n_inputs, n_hidden), n_classes = net["W1"].shape, net["b2"].size
    model = nn.Sequential(nn.Linear(n_inputs, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_classes)).double()
    state = {"0.weight": net["W1"].T, "0.bias": net["b1"].ravel(), "2.weight": net["W2"].T, "2.bias": net["b2"].ravel()}
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state.items()})
    return model


def _record_parameters(trace: Trace, model: nn.Sequential) -> None:
    """The full-precision parameters as they are now, in MATLAB's linear order."""
    parameters = dict(model.named_parameters())
    for number, module in ((1, "0"), (2, "2")):
        weight, bias = parameters[f"{module}.parametrizations.weight.original"], parameters[f"{module}.bias"]
        getattr(trace, f"W{number}").append(weight.detach().numpy().ravel().copy())
        getattr(trace, f"b{number}").append(bias.detach().numpy().copy())


def _record_codes(trace: Trace, model: nn.Sequential) -> None:
    """The codes of the last forward pass."""
    first, second = (m.codes.numpy().ravel().copy() for m in model.modules() if isinstance(m, WeightSharing))
    trace.codes1.append(first)
    trace.codes2.append(second)
