"""The search's evaluations as JSON lines, replayed when a killed search is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipq.atomic_file import write_text
from clipq.checkpoint import check_fingerprint
from clipq.errors import CheckpointError, WriteError
from clipq.search import Evaluation, as_record


class SearchLogFile:
    """A file of JSON lines: first the search's fingerprint, then an evaluation a line.

    path: of the file; made where it is not there.
    fingerprint: what determines the search, such as its configuration and data: name -> hash.

    Raises:
        CheckpointError: the file is damaged elsewhere than in its last line (which a kill can cut short), or is
            another search's.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            write_text(self.path, json.dumps({"fingerprint": dict(fingerprint)}) + "\n")
        self._evaluations = self._read(fingerprint)

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
            raise CheckpointError(f"search log {self.path}: expected a fingerprint in the first line")
        check_fingerprint(f"search log {self.path}", records[0]["fingerprint"], fingerprint)
        if cut_short:
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        try:
            return [Evaluation(**record) for record in records[1:]]
        except TypeError as error:
            raise CheckpointError(f"search log {self.path}: not an evaluation: {error}") from error

    def _parsed(self, line: str, number: int) -> dict:
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"search log {self.path}, line {number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise CheckpointError(f"search log {self.path}, line {number}: expected an object, got {record!r}")
        return record
