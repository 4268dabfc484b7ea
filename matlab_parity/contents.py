"""Compares the contents of two ``.mat`` files: fixtures made again must hold what the committed ones hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from matlab_parity.mat_files import load_mat, matlab_class
from matlab_parity.tolerances import TOLERANCES, check


def differences(actual: Path, expected: Path) -> list[str]:
    """Where the files differ, a line each: exactly, or beyond the tolerance of a quantity that has one.

    The version of the engine may differ; engine and checksums of the sources may not.
    """
    return list(_compare(load_mat(actual), load_mat(expected), actual.name, "contents"))


def _compare(actual: Any, expected: Any, where: str, name: str) -> Iterator[str]:
    if isinstance(actual, dict) and isinstance(expected, dict):
        if actual.keys() != expected.keys():
            yield f"{where}: variables {sorted(actual)} where {sorted(expected)} are expected"
            return
        for key in expected:
            if (name, key) != ("provenance", "version"):
                yield from _compare(actual[key], expected[key], f"{where}.{key}", key)
    elif isinstance(actual, list) and isinstance(expected, list):
        if len(actual) != len(expected):
            yield f"{where}: {len(actual)} elements where {len(expected)} are expected"
            return
        for number, (a, e) in enumerate(zip(actual, expected, strict=True), start=1):
            yield from _compare(a, e, f"{where}({number})", name)
    elif matlab_class(actual) != matlab_class(expected):
        yield f"{where}: class {matlab_class(actual)} where {matlab_class(expected)} is expected"
    elif isinstance(expected, np.ndarray) and expected.dtype.kind == "f" and name in TOLERANCES:
        compared = check("", "", name, actual, expected)
        if not compared.passed:
            yield f"{where}: differs by {compared.deviation:.3g} (limit {compared.limit:.3g}) at {compared.where}"
    elif not np.array_equal(actual, expected):
        yield f"{where}: other values than expected"
