"""The search's evaluations as JSON lines, replayed when a killed search is resumed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from clipq.atomic_file import write_text
from clipq.checkpoint import check_fingerprint
from clipq.errors import CheckpointError, WriteError
from clipq.search import Evaluation, as_record

_DESCRIPTIONS = {str: "a string", int: "a whole number", float: "a finite number"}


class SearchLogFile:
    """A file of JSON lines: first the search's fingerprint, then an evaluation a line.

    path: of the file; made where it is not there.
    fingerprint: what determines the search, such as its configuration and data: name -> hash or number.

    Raises:
        CheckpointError: the file is damaged elsewhere than in its last line (which a kill can cut short), or is
            another search's; names the line.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            write_text(self.path, json.dumps({"fingerprint": dict(fingerprint)}) + "\n")
        self._evaluations = self._read(fingerprint)

    @property
    def name(self) -> str:
        return f"search log {self.path}"

    def evaluations(self) -> Sequence[Evaluation]:
        """Those that the file held when it was opened."""
        return tuple(self._evaluations)

    def append(self, evaluation: Evaluation) -> None:
        """Adds a line.

        Raises:
            WriteError: it cannot be written; the lines before are kept.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(as_record(evaluation)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(
                f"search log {self.path}: cannot be written: {error.strerror or error}; the lines before are kept"
            ) from error

    def _read(self, fingerprint: Mapping[str, str]) -> list[Evaluation]:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        cut_short = lines.pop()  # without a newline at its end
        records = [self._parsed(line, number) for number, line in enumerate(lines, start=1)]
        if not records or not isinstance(records[0].get("fingerprint"), dict):
            raise CheckpointError(f"{self.name}: expected a fingerprint in the first line; delete it to search anew")
        check_fingerprint(self.name, records[0]["fingerprint"], fingerprint)
        evaluations = [self._evaluation(record, number) for number, record in enumerate(records[1:], start=2)]
        if cut_short:
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        return evaluations

    def _evaluation(self, record: dict[str, Any], number: int) -> Evaluation:
        kinds = get_type_hints(Evaluation)
        if record.keys() != kinds.keys():
            raise self._damaged(number, f"not an evaluation: expected {', '.join(kinds)}, got {', '.join(record)}")
        for name, kind in kinds.items():
            if not _is_a(kind, record[name]):
                raise self._damaged(number, f"{name}: expected {_DESCRIPTIONS[kind]}, got {record[name]!r}")
        return Evaluation(**record)

    def _parsed(self, line: str, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise self._damaged(number, f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise self._damaged(number, f"expected an object, got {record!r}")
        return record

    def _damaged(self, number: int, what: str) -> CheckpointError:
        return CheckpointError(f"{self.name}, line {number}: {what}; delete it to search anew")


def _is_a(kind: type, value: object) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]
    return type(value) is kind
