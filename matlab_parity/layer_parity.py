"""Holds ``clipq.ws_learn_one_layer`` against what ``ws_learn_one_layer.m`` made of the same inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from clipq.conventions import Conventions
from clipq.ws_learn_one_layer import ws_learn_one_layer
from matlab_parity.mat_files import (
    FLOAT,
    NUMBER,
    ROW,
    STRUCT,
    TEXT,
    Case,
    FixtureError,
    Var,
    check_case,
    from_matlab,
    load_cases,
    load_mat,
    scalar,
)
from matlab_parity.tolerances import Check, check

FUNCTION = "ws_learn_one_layer"
INPUT_SCHEMA = {"name": TEXT, "W": Var(FLOAT), "shape": ROW, "p": NUMBER, "b": NUMBER}
OUTPUT_SCHEMA = {
    "quantized": Var(FLOAT), "codes": Var(("uint8",)), "levels": Var(("single",), (1, -1)),
    "c_neg": NUMBER, "c_pos": NUMBER, "intervals": Var(("double",), (-1, 2)), "n_clipped": Var(("double",), (1, 2)),
    "edges_neg": Var(("double",)), "edges_pos": Var(("double",)), "counts": Var(("double",), (1, -1)),
}  # fmt: skip
CASE_SCHEMA = {**INPUT_SCHEMA, "conv": STRUCT, **OUTPUT_SCHEMA}
GRID_SCHEMA = {
    **INPUT_SCHEMA, "codes": Var(("uint8",)), "quantized": Var(FLOAT), "levels": Var(("single",)), "c_neg": ROW,
    "c_pos": ROW,
}  # fmt: skip
CONVENTIONS_SCHEMA = {f.name: TEXT for f in fields(Conventions)}


def conventions_of(struct: Case, where: str) -> Conventions:
    """The reading in a MATLAB struct of options.

    Raises:
        FixtureError: a field is missing or not text.
        SettingError: an unknown option.
    """
    check_case(struct, CONVENTIONS_SCHEMA, where)
    options: dict[str, Any] = {name: struct[name] for name in CONVENTIONS_SCHEMA}
    return Conventions(**options)


def checks(folder: Path) -> Iterator[Check]:
    """Every comparison of both fixtures in ``folder``.

    Raises:
        FixtureError: a fixture is missing, or not as it should be.
    """
    path = folder / "ws_learn_one_layer.mat"
    for number, case in enumerate(load_cases(path, CASE_SCHEMA), start=1):
        yield from compare_case(case, f"{path}: variable cases({number})")
    yield from _grid_checks(folder / "ws_learn_one_layer_conventions.mat")


def compare_case(case: Case, where: str) -> list[Check]:
    """One stored case against Python: every output and every intermediate of MATLAB's that Python also has."""
    W = from_matlab(case["W"], case["shape"], f"{where}.W")
    result = ws_learn_one_layer(
        W, scalar(case["p"]), int(scalar(case["b"])), conventions_of(case["conv"], f"{where}.conv"), case["name"]
    )
    scale = float(np.max(np.abs(W), initial=0.0))
    edges_neg, edges_pos = interior_edges(result.intervals, case)
    pairs = {
        "codes": (result.codes, from_matlab(case["codes"], case["shape"], f"{where}.codes")),
        "counts": (result.counts, case["counts"].ravel()),
        "c_neg": (np.array(result.c_neg), case["c_neg"].reshape(())),
        "c_pos": (np.array(result.c_pos), case["c_pos"].reshape(())),
        "intervals": (result.intervals, case["intervals"]),
        "edges_neg": (edges_neg, case["edges_neg"].ravel()),
        "edges_pos": (edges_pos, case["edges_pos"].ravel()),
        "levels": (result.levels, case["levels"].ravel()),
        "quantized": (result.quantized, from_matlab(case["quantized"], case["shape"], f"{where}.quantized")),
        "class": (np.array(str(result.quantized.dtype)), np.array(str(case["quantized"].dtype))),
    }
    return [check(FUNCTION, case["name"], name, a, e, scale) for name, (a, e) in pairs.items()]


def interior_edges(intervals: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Python's edges between neighbouring intervals as magnitudes ascending, (negative side, positive side)."""
    conventions, b = case["conv"], int(scalar(case["b"]))
    if conventions["partition"] == "per_sign":
        half = 2 ** (b - 1)
        return -intervals[1:half, 0][::-1], intervals[half + 1 :, 0]
    n_neg = case["edges_neg"].size
    return -intervals[1 : n_neg + 1, 0][::-1], intervals[n_neg + 1 :, 0]


def _grid_checks(path: Path) -> Iterator[Check]:
    cases = load_cases(path, GRID_SCHEMA)
    settings = load_mat(path).get("conventions")
    if not isinstance(settings, list):
        raise FixtureError(f"{path}: variable conventions: expected a struct array")
    every = [conventions_of(row, f"{path}: variable conventions({i})") for i, row in enumerate(settings, start=1)]
    for number, case in enumerate(cases, start=1):
        yield from _compare_grid(case, every, f"{path}: variable cases({number})")


def _compare_grid(case: Case, every: list[Conventions], where: str) -> list[Check]:
    W = from_matlab(case["W"], case["shape"], f"{where}.W")
    results = [ws_learn_one_layer(W, scalar(case["p"]), int(scalar(case["b"])), conv) for conv in every]
    scale = float(np.max(np.abs(W), initial=0.0))
    name = f"{case['name']}, all {len(every)} conventions"
    pairs = {
        "codes": (np.stack([r.codes.ravel() for r in results], axis=1), case["codes"]),
        "levels": (np.stack([r.levels for r in results], axis=1), case["levels"]),
        "c_neg": (np.array([[r.c_neg for r in results]]), case["c_neg"]),
        "c_pos": (np.array([[r.c_pos for r in results]]), case["c_pos"]),
        "quantized": (np.stack([r.quantized.ravel() for r in results], axis=1), case["quantized"]),
    }
    return [check(FUNCTION, name, quantity, a, e, scale) for quantity, (a, e) in pairs.items()]
