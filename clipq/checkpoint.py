"""Checkpoints of a training: written whole or not at all, refused where they belong to another run."""

from __future__ import annotations

import pickle
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
    fingerprint: of everything that determines the training; a checkpoint with another one is refused.
    every: seconds between two checkpoints within an epoch.
    """

    def __init__(self, path: str | Path, fingerprint: str, every: float = 60.0) -> None:
        self.path = Path(path)
        self._fingerprint = fingerprint
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
            format_, fingerprint, state = saved["format"], saved["fingerprint"], saved["state"]
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError(
                f"checkpoint {self.path}: cannot be read ({error}); delete it to start this stage anew"
            ) from error
        if format_ != _FORMAT:
            raise CheckpointError(f"checkpoint {self.path}: expected format {_FORMAT}, got {format_}")
        if fingerprint != self._fingerprint:
            raise CheckpointError(
                f"checkpoint {self.path}: belongs to another run: its configuration, data or starting weights differ "
                "from this one's; use another run folder, or the configuration that the run was started with"
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        with atomic_write(self.path) as file:
            torch.save({"format": _FORMAT, "fingerprint": self._fingerprint, "state": dict(state)}, file)
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._every
