"""The names in a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class AttemptFiles(NamedTuple):
    """The search's log, and the fine-tuning's checkpoint."""

    search: Path
    train: Path


@dataclass(frozen=True)
class RunFiles:
    """The files of the run in ``folder``."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        names = {
            "config": "config.toml", "dense": "dense.ckpt", "clipq": "net.clipq", "mat": "net.mat",
            "report": "report.json", "page": "report.md",
        }  # fmt: skip
        if name not in names:
            raise AttributeError(name)
        return self.folder / names[name]

    def attempt(self, number: int) -> AttemptFiles:
        """Of the lambda that is tried as number ``number``, from 0."""
        suffix = f"-{number}" if number else ""
        return AttemptFiles(self.folder / f"search{suffix}.jsonl", self.folder / f"train{suffix}.ckpt")
