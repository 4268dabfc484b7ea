"""What the user captured from a copy of the original release with ``capture/capture_original.m``.

Nobody knows beforehand which reading of the paper the original follows, so a captured function passes if some reading
reproduces all of its cases; the decoder, which has no readings, passes if it gives back what went in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matlab_parity.codec_parity import LAYER_SCHEMA, compare_decoded, layer_of
from matlab_parity.infer import changes, infer
from matlab_parity.mat_files import FLOAT, FixtureError, Var, load_cases

DECODER_FILE = "decode_sparse_quantized_net_v2.mat"


@dataclass(frozen=True)
class Capture:
    """One captured file: whether it passes, and a line that says why."""

    passed: bool
    text: str


def captures(folder: Path) -> list[Capture]:
    """Every capture in ``folder``; none where the user has captured nothing."""
    return [_capture(path) for path in sorted(folder.glob("*.mat"))]


def _capture(path: Path) -> Capture:
    try:
        return _decoder(path) if path.name == DECODER_FILE else _readings(path)
    except FixtureError as error:
        return Capture(False, str(error))


def _readings(path: Path) -> Capture:
    inference = infer(path)
    readings = "; ".join(changes(c, inference.fields) for c in inference.survivors[:4])
    n = len(inference.survivors)
    found = f"{n} readings reproduce all {len(inference.observations)} cases" + (f": {readings}" if n else "")
    return Capture(n > 0, f"{path.name}: {found}" + (", ..." if n > 4 else ""))


def _decoder(path: Path) -> Capture:
    cases = load_cases(path, {**LAYER_SCHEMA, "W": Var(FLOAT)})
    checks = [
        check
        for number, case in enumerate(cases, start=1)
        for where in [f"{path}: variable cases({number})"]
        for check in compare_decoded(case, layer_of(case, where), "capture", where)
    ]
    failed = [check.case for check in checks if not check.passed]
    detail = f", first: {failed[0]}" if failed else ""
    return Capture(not failed, f"{path.name}: {len(failed)} of {len(cases)} cases are decoded otherwise{detail}")
