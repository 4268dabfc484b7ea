"""Checkpoints of a training: written whole or not at all, refused where they are damaged or belong to another run.

The file is a line that names the format, what ``torch.save`` writes, and the sha256 of both: torch itself reads changed
tensors without a word.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from clipq.atomic_file import atomic_write
from clipq.errors import CheckpointError

_FORMAT = b"clipq checkpoint 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size


class CheckpointFile:
    """The state of one training in one file.

    path: of the file.
    fingerprint: what determines the training, such as its configuration and data: name -> hash or number.  A
        checkpoint with another one is refused.
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
            data = memoryview(self.path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path}: cannot be read: {error.strerror or error}") from error
        content, digest = data[:-_DIGEST_SIZE], data[-_DIGEST_SIZE:]
        start = bytes(content[: len(_FORMAT)])
        if start != _FORMAT:
            raise CheckpointError(
                f"checkpoint {self.path}: expected it to start with {_FORMAT!r}, got {start!r}; delete it to redo its "
                "stage"
            )
        if hashlib.sha256(content).digest() != digest:
            raise CheckpointError(
                f"checkpoint {self.path}: is damaged, its bytes are not those that were written; delete it to redo its "
                "stage"
            )
        saved = torch.load(io.BytesIO(content[len(_FORMAT) :]), map_location="cpu", weights_only=True)
        check_fingerprint(f"checkpoint {self.path}", saved["fingerprint"], self._fingerprint)
        return saved["state"]

    def save(self, state: Mapping[str, Any]) -> None:
        """Takes the place of the old one.

        Raises:
            WriteError: it cannot be written; the old one is unchanged.
        """
        with atomic_write(self.path) as file:
            hashed = _Hashed(file)
            hashed.write(_FORMAT)
            torch.save({"fingerprint": self._fingerprint, "state": dict(state)}, hashed)  # type: ignore[arg-type]
            file.write(hashed.sha256.digest())
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._every


def check_fingerprint(file: str, saved: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuses a file of another run, or of another stage of this one.

    Raises:
        CheckpointError: says which parts differ, and how where they are numbers.
    """
    differing = [_difference(name, saved, own) for name in {**own, **saved} if saved.get(name) != own.get(name)]
    if differing:
        raise CheckpointError(
            f"{file}: belongs to another run, with another {' and '.join(differing)}; use what that run was started "
            "with, or another run folder, or delete the file to redo its stage"
        )


def _difference(name: str, saved: Mapping[str, str], own: Mapping[str, str]) -> str:
    there, here = (values.get(name, "unknown") for values in (saved, own))
    return f"{name} ({there} there, {here} here)" if there.isdigit() or here.isdigit() else name


class _Hashed:
    """A file that is only written to, and the hash of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
