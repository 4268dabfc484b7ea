"""The search's evaluations as JSON lines, replayed when a killed search is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from clipq.atomic_file import write_text
from clipq.errors import CheckpointError
from clipq.search import Evaluation, as_record


class SearchLogFile:
    """A file of JSON lines: first the search's fingerprint, then an evaluation a line.

    path: of the file; made where it is not there.
    fingerprint: of everything that determines the search.

    Raises:
        CheckpointError: the file is damaged elsewhere than in its last line (which a kill can cut short), or is
            another search's.
    """

    def __init__(self, path: str | Path, fingerprint: str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            write_text(self.path, json.dumps({"fingerprint": fingerprint}) + "\n")
        self._evaluations = self._read(fingerprint)

    def evaluations(self) -> Sequence[Evaluation]:
        """Those that the file held when it was opened."""
        return tuple(self._evaluations)

    def append(self, evaluation: Evaluation) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_record(evaluation)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, fingerprint: str) -> list[Evaluation]:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        if lines.pop():  # without a newline at its end the last line was cut short
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        records = [self._parsed(line, number) for number, line in enumerate(lines, start=1)]
        if not records or records[0] != {"fingerprint": fingerprint}:
            raise CheckpointError(
                f"search log {self.path}: belongs to another run: its configuration, data or starting weights differ; "
                "use another run folder, or the configuration that the run was started with"
            )
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
