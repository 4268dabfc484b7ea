"""Measuring what a reading changes: each run once, the (p, b) of the defaults where a reading is not the search's."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipq.run import Run
from matlab_parity import effects
from matlab_parity.assumptions import assumptions
from matlab_parity.effects import QUICK, measure_effects


def test_effects_are_measured_once_and_against_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two = [a for a in assumptions() if a.id in ("A08", "A15")]
    monkeypatch.setattr(effects, "assumptions", lambda: two)
    quick = {**QUICK, "dense.epochs": "1", "search.evaluations": "3", "search.subset": "300"}
    said: list[str] = []
    found = measure_effects("digits", [0], tmp_path, quick, said.append)
    assert set(found["variants"]) == {"A08 deep_compression", "A15 1000"}
    assert found["variants"]["A08 deep_compression"]["error"] == found["base"]["error"], "the file alone differs"
    assert found["variants"]["A08 deep_compression"]["bytes"] > found["base"]["bytes"]
    assert 0 < found["base"]["error"] < 0.9
    assert len(said) == 3

    def never(run: Run) -> dict:
        raise AssertionError("a run that is complete was repeated")

    monkeypatch.setattr(Run, "__call__", never)
    assert measure_effects("digits", [0], tmp_path, quick, said.append)["variants"] == found["variants"]
