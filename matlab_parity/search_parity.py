"""Holds ``clipq.search`` against ``ws_search.m``: every candidate of every layer, and the choice.

Both sides evaluate all candidates, so there is one answer; how Bayesian optimisation walks is compared with the
original's own traces (``mlcircus_parity``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clipq.layers import compressible_layers
from clipq.quantized_net import LayerSetting
from clipq.search import Evaluation, search
from clipq.search_config import SearchConfig
from matlab_parity.layer_parity import conventions_of
from matlab_parity.mat_files import NUMBER, ROW, STRUCT, TEXT, Case, Var, check_case, load_cases, scalar
from matlab_parity.tolerances import Check, check
from matlab_parity.train_parity import DOUBLE, NET_SCHEMA, model_of

FUNCTION = "ws_search"
CASE_SCHEMA = {
    "name": TEXT, "X": DOUBLE, "labels": ROW, "net": STRUCT, "opt": STRUCT, "theta": Var(("double",), (2, 2)),
    "trace": STRUCT,
}  # fmt: skip
OPT_SCHEMA = {"p": ROW, "b": ROW, "lambda": NUMBER, "conv": STRUCT}
TRACE_SCHEMA = dict.fromkeys(("eps", "bits", "value"), Var(("double",), (-1, 2)))


def checks(folder: Path) -> Iterator[Check]:
    """Every comparison of the fixture in ``folder``.

    Raises:
        FixtureError: the fixture is missing, or not as it should be.
    """
    path = folder / "ws_search.mat"
    for number, case in enumerate(load_cases(path, CASE_SCHEMA), start=1):
        yield from compare_case(case, f"{path}: variable cases({number})")


def compare_case(case: Case, where: str) -> list[Check]:
    """One search: error, bits and value of every candidate, and what is chosen."""
    for name, schema in (("net", NET_SCHEMA), ("opt", OPT_SCHEMA), ("trace", TRACE_SCHEMA)):
        check_case(case[name], schema, f"{where}.{name}")
    settings, evaluations = run_search(case, where)
    theta = np.array([[setting.p, setting.b] for setting in settings.values()])
    found = [check(FUNCTION, case["name"], "theta", theta, case["theta"])]
    grid = [(p, int(b)) for p in case["opt"]["p"].ravel() for b in case["opt"]["b"].ravel()]
    for quantity in TRACE_SCHEMA:
        table = np.array([[_of(evaluations, name, p, b, quantity) for name in settings] for p, b in grid])
        found.append(check(FUNCTION, case["name"], quantity if quantity != "bits" else "layer_bits", table,
                           case["trace"][quantity]))  # fmt: skip
    return found


def run_search(case: Case, where: str) -> tuple[dict[str, LayerSetting], list[Evaluation]]:
    """Python's search over all candidates of the case."""
    opt, model = case["opt"], model_of(case["net"])
    X, labels = torch.from_numpy(case["X"].T.copy()), torch.from_numpy(case["labels"].ravel().astype(np.int64) - 1)
    p, b = opt["p"].ravel(), opt["b"].ravel()
    config = SearchConfig(
        mode="random", lambda_=scalar(opt["lambda"]), evaluations=p.size * b.size, p_min=p[0], p_max=p[-1],
        p_step=p[1] - p[0], b_min=int(b[0]), b_max=int(b[-1]),
    )  # fmt: skip

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(X).argmax(1) != labels).double().mean())

    conventions = conventions_of(opt["conv"], f"{where}.opt.conv")
    return search(model, compressible_layers(model), error, config, conventions=conventions)


def _of(evaluations: list[Evaluation], layer: str, p: float, b: int, quantity: str) -> float:
    """A quantity of the one evaluation of (p, b) for the layer; NaN where there is none."""
    found = [e for e in evaluations if e.layer == layer and e.b == b and abs(e.p - p) < 1e-9]
    return float(getattr(found[0], quantity)) if len(found) == 1 else np.nan
