"""Checkpoints of a training: written whole or not at all, refused where they belong to another run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clipq.atomic_file import atomic_write
from clipq.errors import CheckpointError

_FORMAT = 1


class CheckpointFile:
    """The state of one training in one file.

    path: of the file.
    fingerprint: what determines the training, such as its configuration and data: name -> hash.  A checkpoint with
        another one is refused.
    every: seconds between two checkpoints within an epoch.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, str], every: float = 60.0) -> None:
        self.path = Path(path)
        self._fingerprint = dict(fingerprint)
        self._every = every
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state; None where nothing has been saved.

        Raises:
            CheckpointError: the file is damaged, of another format, or another run's.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            format_, fingerprint, state = saved["format"], dict(saved["fingerprint"]), dict(saved["state"])
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path}: cannot be read: {error.strerror or error}") from error
        except Exception as error:  # torch raises nearly anything on damaged bytes
            raise CheckpointError(
                f"checkpoint {self.path}: is damaged ({type(error).__name__}: {error}); delete it to redo its stage"
            ) from error
        if format_ != _FORMAT:
            raise CheckpointError(f"checkpoint {self.path}: expected format {_FORMAT}, got {format_}")
        check_fingerprint(f"checkpoint {self.path}", fingerprint, self._fingerprint)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Takes the place of the old one.

        Raises:
            WriteError: it cannot be written; the old one is unchanged.
        """
        with atomic_write(self.path) as file:
            torch.save({"format": _FORMAT, "fingerprint": self._fingerprint, "state": dict(state)}, file)
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._every


def check_fingerprint(file: str, saved: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuses a file of another run.

    Raises:
        CheckpointError: says which parts differ.
    """
    differing = [name for name in {**own, **saved} if saved.get(name) != own.get(name)]
    if differing:
        raise CheckpointError(
            f"{file}: belongs to another run, with another {' and '.join(differing)}; use what that run was started "
            "with, or another run folder"
        )
