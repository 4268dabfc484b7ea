"""``python -m matlab_parity.compare``: where Python and the MATLAB side agree, and to how many digits.

Prints what the fixtures are and which engine made them, then for each function and quantity the worst case, its
deviation, the limit and the mechanism behind it.  Exit status 0 only if every comparison passes and no fixture is
missing or stale; 1 otherwise.  ``--infer FILE`` instead says which reading of the paper an implementation follows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipq.atomic_file import write_text
from clipq.errors import ClipqError
from matlab_parity import codec_parity, layer_parity, manifest, mlcircus_parity, search_parity, train_parity
from matlab_parity.captures import Capture, captures
from matlab_parity.infer import infer
from matlab_parity.infer_report import infer_json, infer_lines, write_probes
from matlab_parity.mat_files import FixtureError
from matlab_parity.paths import INPUTS, MLCIRCUS, ORIGINAL, RECONSTRUCTED
from matlab_parity.tolerances import Check

#: What is compared, in the order of the data's way; the tests call the same functions.
SUITES: tuple[Callable[[], Iterable[Check]], ...] = (
    lambda: layer_parity.checks(RECONSTRUCTED),
    lambda: search_parity.checks(RECONSTRUCTED),
    lambda: train_parity.checks(RECONSTRUCTED),
    lambda: codec_parity.checks(INPUTS, RECONSTRUCTED),
    lambda: mlcircus_parity.checks(MLCIRCUS),
)


@dataclass(frozen=True)
class Report:
    """What ``compare`` found.

    engines: (label, engine and version, number of fixtures).  problems: what is missing, stale or unreadable.
    """

    engines: list[tuple[str, str, int]]
    problems: list[str]
    checks: list[Check]
    captures: list[Capture]

    @property
    def passed(self) -> bool:
        checks, captured = all(c.passed for c in self.checks), all(c.passed for c in self.captures)
        return bool(self.checks) and not self.problems and checks and captured


def compare() -> Report:
    """Run every comparison."""
    problems: list[str] = []
    checks: list[Check] = []
    engines: list[tuple[str, str, int]] = []
    try:
        entries = manifest.read()
        problems += manifest.problems(entries)
        counts = Counter((entry.label, f"{entry.engine} {entry.version}") for entry in entries)
        engines = [(label, engine, n) for (label, engine), n in sorted(counts.items())]
    except FixtureError as error:
        problems.append(str(error))
    for suite in SUITES:
        try:
            checks += suite()
        except FixtureError as error:
            problems.append(str(error))
    return Report(engines, problems, checks, captures(ORIGINAL))


def lines(report: Report, *, every_case: bool = False) -> list[str]:
    """The report as text."""
    text = ["Engines that made the fixtures"]
    matlab = sum(n for _, engine, n in report.engines if engine.startswith("MATLAB"))
    text.append(f"  MATLAB: {matlab} fixtures" + ("" if matlab else " (nothing here was run by MATLAB itself)"))
    text += [f"  {engine}: {n} fixtures, {label}" for label, engine, n in report.engines if "MATLAB" not in engine]
    text += ["", _row(("function", "quantity", "cases", "deviation", "limit", "digits", "mechanism", "worst at"))]
    text += [_check_row(group) for group in _groups(report.checks, every_case)]
    failed = [check for check in report.checks if not check.passed]
    if failed:
        text += ["", f"Failed ({len(failed)})"]
        text += [
            f"  {c.function}, {c.case}, {c.quantity}: {c.deviation:.3g} > {c.limit:.3g} ({c.mechanism}) at {c.where}"
            for c in failed[:50]
        ]
    if report.problems:
        text += ["", f"Missing, stale or unreadable ({len(report.problems)})", *(f"  {p}" for p in report.problems)]
    if report.captures:
        text += ["", "Captured from a copy of the original"]
        text += [f"  {'passed' if c.passed else 'FAILED'}  {c.text}" for c in report.captures]
    n_cases = len({(check.function, check.case) for check in report.checks})
    verdict = "all within their limits" if report.passed else "NOT in agreement"
    return [*text, "", f"{len(report.checks)} comparisons of {n_cases} cases: {verdict}"]


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain values; a number that is not finite is null."""
    return {
        "passed": report.passed,
        "engines": [{"label": label, "engine": engine, "fixtures": n} for label, engine, n in report.engines],
        "problems": report.problems,
        "captures": [asdict(capture) for capture in report.captures],
        "checks": [{**{k: _plain(v) for k, v in asdict(c).items()}, "passed": c.passed} for c in report.checks],
    }


def _groups(checks: Sequence[Check], every_case: bool) -> list[list[Check]]:
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        key = (check.function, check.quantity, check.case if every_case else "")
        groups.setdefault(key, []).append(check)
    return list(groups.values())


def _check_row(group: Sequence[Check]) -> str:
    worst = max(group, key=lambda c: c.deviation / c.limit if c.limit else c.deviation)
    digits = "all" if math.isinf(worst.digits) else f"{worst.digits:.1f}"
    n_cases = len({check.case for check in group})
    where = f"{worst.case} {worst.where}" if worst.deviation or n_cases == 1 else ""
    return _row((worst.function, worst.quantity, str(n_cases), f"{worst.deviation:.2g}", f"{worst.limit:.2g}", digits,
                 worst.mechanism, where))  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    widths = (31, 14, 6, 10, 9, 7, 21, 0)
    return "  " + "".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="matlab_parity.compare", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the full report there, too")
    parser.add_argument("--all", action="store_true", help="a line for every case, not only for the worst")
    parser.add_argument("--infer", type=Path, metavar="FILE", help="a .mat of inputs and outputs: which reading is it?")
    parser.add_argument(
        "--probes", type=Path, metavar="FILE", help="with --infer: write the inputs that would tell more"
    )
    options = parser.parse_args(arguments)
    if options.probes and not options.infer:
        parser.error("--probes: expected --infer FILE with it, the cases that leave readings open")
    try:
        return _infer(options) if options.infer else _compare(options)
    except ClipqError as error:
        print(error, file=sys.stderr)
        return 1


def _compare(options: argparse.Namespace) -> int:
    report = compare()
    print("\n".join(lines(report, every_case=options.all)))
    _write_json(options.json, as_json(report))
    return 0 if report.passed else 1


def _infer(options: argparse.Namespace) -> int:
    inference = infer(options.infer)
    print("\n".join(infer_lines(inference, str(options.infer))))
    _write_json(options.json, infer_json(inference))
    if options.probes and inference.probes:
        write_probes(options.probes, inference.probes)
        print(f"\nInputs that would tell more: {options.probes}")
    elif options.probes:
        print(f"\n{options.probes}: not written, as no inputs were found that would tell more")
    return 0 if inference.survivors else 1


def _write_json(path: Path | None, value: dict[str, Any]) -> None:
    if path:
        write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
