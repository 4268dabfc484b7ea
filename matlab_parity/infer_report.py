"""What ``--infer`` found, as text and as plain values, and the inputs that would tell more as a ``.mat`` file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipq.conventions import Conventions
from matlab_parity.infer import Inference, changes, identifier
from matlab_parity.layer_inputs import LayerInput
from matlab_parity.make_inputs import layer_case
from matlab_parity.mat_files import save_cases


def infer_lines(inference: Inference, source: str) -> list[str]:
    """The report, line by line."""
    n = len(inference.survivors) + len(inference.excluded)
    text = [f"{source}: {len(inference.observations)} cases; {len(inference.survivors)} of {n} readings reproduce all"]
    if not inference.survivors:
        return [*text, *_no_reading(inference)]
    for field in inference.fields:
        text.append(f"  {identifier(field)} {field}")
        for option in Conventions.options(field):
            why = inference.excluded_by(field, option)
            verdict = f"excluded by case '{why[0]}' ({why[1]})" if why else "reproduces"
            text.append(f"    {option:<18}{verdict}")
    text += ["Readings that reproduce every case"]
    text += [f"  {changes(c, inference.fields)}" for c in inference.survivors[:20]]
    if len(inference.survivors) > 20:
        text.append(f"  and {len(inference.survivors) - 20} more (--json lists them)")
    return [*text, *_open_questions(inference)]


def infer_json(inference: Inference) -> dict[str, Any]:
    """Everything that was found."""
    needed = inference.needed or {}
    return {
        "cases": list(inference.observations),
        "reproduce": [_options(c, inference) for c in inference.survivors],
        "excluded": [
            {"reading": _options(c, inference), "case": case, "quantity": quantity}
            for c, (case, quantity) in inference.excluded.items()
        ],
        "not_told_apart": [
            {"readings": [_options(c, inference) for c in group], "needed": list(needed.get(group, ()))}
            for group in inference.groups
            if len(group) > 1
        ],
        "telling_inputs": [{"W": p.W.tolist(), "p": p.p, "b": p.b} for p in inference.probes],
        "by_output_alone": {
            name: [_options(c, inference) for c in readings] for name, readings in inference.alone.items()
        },
        "last_of_equals": [_options(c, inference) for c in inference.last_of_equals],
        "closest": [
            {
                "reading": _options(miss.reading, inference),
                "contradicted_by": [{"case": case, "quantities": list(names)} for case, names in miss.contradicted_by],
            }
            for miss in inference.closest
        ],
    }


def write_probes(path: Path, probes: Sequence[LayerInput]) -> None:
    """The inputs as the capture script takes them."""
    save_cases(path, [layer_case(probe) for probe in probes])


def _open_questions(inference: Inference) -> Iterator[str]:
    if len(inference.survivors) == 1:
        return
    yield "Not told apart by these cases"
    for number, probe in enumerate(inference.probes, start=1):
        W = " ".join(f"{w:g}" for w in probe.W)
        yield f"  input {number}, which would tell: p = {probe.p:g}, b = {probe.b}, W = [{W}]"
    for group, needed in (inference.needed or {}).items():
        yield "  " + "; ".join(changes(c, inference.fields) for c in group)
        if needed:
            yield f"    no input can tell them apart by the outputs given; these would: {', '.join(needed)}"
        else:
            yield "    no input found that tells them apart, whatever the output"


def _no_reading(inference: Inference) -> Iterator[str]:
    yield "  no reading reproduces every case"
    if inference.last_of_equals:
        yield "  with the last of equal weights pruned, as by sort(..., 'descend'), and not the first, these do:"
        yield from (f"    {changes(c, inference.fields)}" for c in inference.last_of_equals[:4])
    if len(inference.alone) > 1:
        yield from _by_output_alone(inference)
    yield "  Closest:"
    for miss in inference.closest:
        cases = [f"'{case}' ({', '.join(quantities)})" for case, quantities in miss.contradicted_by]
        shown = ", ".join(cases[:4]) + (", ..." if len(cases) > 4 else "")
        yield f"    {changes(miss.reading, inference.fields)}: contradicted by {len(cases)} cases: {shown}"


def _by_output_alone(inference: Inference) -> Iterator[str]:
    for name, readings in inference.alone.items():
        if readings:
            shown = "; ".join(changes(c, inference.fields) for c in readings[:4])
            more = "; ..." if len(readings) > 4 else ""
            yield f"  by {name} alone {len(readings)} of the readings reproduce everything: {shown}{more}"
    if contradicting := [name for name, readings in inference.alone.items() if not readings]:
        yield f"  contradict every reading: {', '.join(contradicting)}"


def _options(conventions: Conventions, inference: Inference) -> dict[str, str]:
    every = asdict(conventions)
    return {field: every[field] for field in inference.fields}
