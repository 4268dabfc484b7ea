"""Writes the tables: ``python -m matlab_parity.tables`` (ASSUMPTIONS, DEVIATIONS, FUNCTIONS and TOLERANCES.md).

A test holds the written files to what this module gives, so they cannot fall behind the code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matlab_parity.assumptions import Assumption, assumptions
from matlab_parity.deviations import DEVIATIONS
from matlab_parity.functions import FUNCTIONS
from matlab_parity.paths import ROOT
from matlab_parity.tolerances import TOLERANCES

Effects = dict[str, Any]

#: What ``scripts/measure_assumptions.py`` writes, a file for each experiment.
EFFECTS = ROOT.parent / "results" / "assumptions"


def documents() -> dict[str, str]:
    """File name below ``matlab_parity`` -> its text."""
    return {
        "ASSUMPTIONS.md": assumptions_page(read_effects(EFFECTS)),
        "DEVIATIONS.md": deviations_page(),
        "FUNCTIONS.md": functions_page(),
        "TOLERANCES.md": tolerances_page(),
    }


def read_effects(folder: Path) -> list[Effects]:
    """The measured effects, one for each experiment."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def assumptions_page(effects: Sequence[Effects]) -> str:
    rows = [
        (a.id, f"`{a.where.split(':')[1]}`", a.question, _options(a), a.evidence, _effect(a, effects), a.settle)
        for a in assumptions()
    ]
    return _page(
        "Assumptions",
        "Readings of the paper that its sources leave open. The first option is the default. Evidence: P the paper's "
        "own words or figures, S a secondary source, - none. Written by `python -m matlab_parity.tables`.",
        _measured(effects),
        ("id", "where", "question", "options", "evidence", "effect on error and size", "how to settle it"),
        rows,
    )


def deviations_page() -> str:
    parts = ["# Deviations", "", "What is done otherwise than in the original on purpose. Written by "
             "`python -m matlab_parity.tables`."]  # fmt: skip
    for d in DEVIATIONS:
        switch = f"`{d.switch.replace(':', '.')}`" if d.switch else "none"
        parts += ["", f"## {d.id}. {d.title}", "", f"- Original: {d.original}", f"- Here: {d.port}", f"- Why: {d.why}",
                  f"- Switch: {switch}. Test: `{d.test}`."]  # fmt: skip
    return "\n".join(parts) + "\n"


def functions_page() -> str:
    rows = [
        (f"`{r.m_file}`", r.function, f"`{r.python.replace(':', '.')}`", r.status, f"`{r.test}`") for r in FUNCTIONS
    ]
    return _page(
        "Functions",
        "From MATLAB's files to Python. Status: `reconstructed`, the `.m` file is this project's own, written from the "
        "paper (`matlab_parity/reference`), whatever its name is in the original release; `behaviour`, compared with "
        "traces of the original itself (mlcircus' bayesopt).",
        [], (".m file", "function", "Python", "status", "test"), rows,
    )  # fmt: skip


def tolerances_page() -> str:
    groups: dict[str, list[str]] = {}
    for quantity, tolerance in TOLERANCES.items():
        groups.setdefault(tolerance.mechanism, []).append(quantity)
    by_mechanism = {t.mechanism: t for t in TOLERANCES.values()}
    rows = [
        (mechanism, ", ".join(quantities), by_mechanism[mechanism].formula, by_mechanism[mechanism].reason)
        for mechanism, quantities in groups.items()
    ]
    return _page(
        "Tolerances",
        "How far Python and MATLAB may lie apart. eps = 2^-52.", [],
        ("mechanism", "quantities", "limit", "reason"), rows,
    )  # fmt: skip


def _options(assumption: Assumption) -> str:
    default, *others = assumption.options
    return ", ".join([f"**{default}**", *others])


def _effect(assumption: Assumption, effects: Sequence[Effects]) -> str:
    parts = []
    for label in assumption.variants:
        found = [text for of_one in effects if (text := _difference(f"{assumption.id} {label}", of_one))]
        parts.append(f"{label}: {', '.join(found) or 'not measured yet'}")
    return "; ".join(parts) or "-"


def _difference(name: str, effects: Effects) -> str:
    """Empty where it has not been measured."""
    base, measured = effects["base"], effects["variants"].get(name)
    if measured is None:
        return ""
    error, size = 100 * (measured["error"] - base["error"]), 100 * (measured["bytes"] / base["bytes"] - 1)
    return f"{error:+.2f} points and {size:+.1f} % ({effects['experiment']})"


def _measured(effects: Sequence[Effects]) -> list[str]:
    if not effects:
        return ["Effects: not measured yet; `python scripts/measure_assumptions.py` measures them."]
    return [
        "Effects: difference of test error (percentage points) and of the file's size from the defaults'.",
        *(
            f"{of_one['experiment']}, {of_one['seeds']} seed(s): {100 * of_one['base']['error']:.2f} % and "
            f"{of_one['base']['bytes']:.0f} bytes; among those seeds the defaults' error has a standard deviation of "
            f"{100 * of_one['base']['error_sd']:.2f} points."
            for of_one in effects
        ),
    ]


def _page(
    title: str, text: str, more: Sequence[str], header: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:  # fmt: skip
    table = [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows)]
    paragraphs = [part for paragraph in (text, *more) for part in (paragraph, "")]
    return "\n".join([f"# {title}", "", *paragraphs, *table]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name, page in documents().items():
        (ROOT / name).write_text(page, encoding="utf-8")
