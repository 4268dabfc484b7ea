"""The written tables are in step with the code, and what they name is there."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from clipq.conventions import Conventions
from matlab_parity.assumptions import assumptions
from matlab_parity.deviations import DEVIATIONS
from matlab_parity.functions import FUNCTIONS
from matlab_parity.paths import REFERENCE, ROOT
from matlab_parity.tables import assumptions_page, documents, read_effects

PROJECT = ROOT.parent


def resolve(name: str) -> Any:
    """The object named ``module:attribute``; a dataclass's field counts as an attribute."""
    module, path = name.split(":")
    value: Any = importlib.import_module(module)
    for part in path.split("."):
        names = getattr(value, "__dataclass_fields__", {})
        value = names[part] if part in names else getattr(value, part)
    return value


@pytest.mark.parametrize("name", sorted(documents()))
def test_the_written_page_is_what_the_code_says(name: str) -> None:
    written = (ROOT / name).read_text(encoding="utf-8")
    assert written == documents()[name], f"{name} is out of date: run `python -m matlab_parity.tables`"


def test_every_reading_is_an_assumption_with_all_its_options() -> None:
    by_id = {a.id: a for a in assumptions()}
    assert len(by_id) == len(assumptions())
    for field in fields(Conventions):
        assumption = by_id[field.metadata["id"]]
        assert set(assumption.options) == set(Conventions.options(field.name))
        assert assumption.options[0] == getattr(Conventions(), field.name)
        assert len(assumption.variants) == len(assumption.options) - 1


def test_every_id_in_the_code_is_in_the_table() -> None:
    known = {a.id for a in assumptions()}
    for path in (PROJECT / "clipq").rglob("*.py"):
        named = set(re.findall(r"\bA\d\d\b", path.read_text(encoding="utf-8")))
        assert named <= known, f"{path.name} names {named - known}"


@pytest.mark.parametrize("where", sorted({a.where for a in assumptions()}))
def test_where_an_assumption_lives_is_there(where: str) -> None:
    resolve(where)


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda d: d.id)
def test_switch_and_test_of_a_deviation_are_there(deviation: Any) -> None:
    if deviation.switch:
        resolve(deviation.switch)
    assert (PROJECT / deviation.test).is_file()


@pytest.mark.parametrize("row", FUNCTIONS, ids=lambda r: f"{r.m_file}:{r.function}")
def test_both_ends_of_a_row_of_the_map_are_there(row: Any) -> None:
    resolve(row.python)
    assert (PROJECT / row.test).is_file()
    if row.status == "reconstructed":
        text = (REFERENCE / row.m_file).read_text(encoding="utf-8")
        assert re.search(rf"^function .*\b{row.function}\b", text, re.MULTILINE)


def test_every_reference_function_file_is_in_the_map() -> None:
    assert {path.name for path in REFERENCE.glob("*.m")} <= {row.m_file for row in FUNCTIONS}


def test_reference_files_say_what_they_are() -> None:
    for path in REFERENCE.glob("ws_*.m"):
        if path.name != "ws_conventions.m":
            assert "RECONSTRUCTED" in path.read_text(encoding="utf-8")


def test_measured_effects_are_shown(tmp_path: Path) -> None:
    base = {"error": 0.0100, "error_sd": 0.0004, "bytes": 20_000.0}
    for network, size in (("lenet300100", 21_000.0), ("lenet5", 19_000.0)):
        variants = {"A01 all_weights": {"error": 0.0112, "bytes": size}}
        effects = {"base": base, "variants": variants, "seeds": 3, "experiment": network}
        (tmp_path / f"{network}.json").write_text(json.dumps(effects))
    page = assumptions_page(read_effects(tmp_path))
    assert "all_weights: +0.12 points and +5.0 % (lenet300100), +0.12 points and -5.0 % (lenet5)" in page
    assert "lenet5, 3 seed(s): 1.00 % and 20000 bytes" in page
    assert "round: not measured yet" in page
    assert "Effects: not measured yet" in assumptions_page(read_effects(tmp_path / "none"))
