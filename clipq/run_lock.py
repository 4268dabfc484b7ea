"""One process at a time works in a run's folder.

The lock belongs to the process alone, not to those that it forks to read images, so that the system releases it as
soon as the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipq.errors import CheckpointError, WriteError

_LOCK = ".lock"


@contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """Keeps other processes out of ``folder``, which must be there, while the block runs.

    Raises:
        CheckpointError: another process is at work there.
        WriteError: the file system knows no locks.
    """
    path = folder / _LOCK
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lost = not os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, PermissionError, FileNotFoundError):
            lost = True
        except OSError as error:
            raise WriteError(f"{path}: cannot be locked: {error.strerror or error}") from error
        if lost:  # also where the file that is locked here is one that the other process deleted as it ended
            raise CheckpointError(f"{folder}: another process is at work there; wait until it has ended, or stop it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_at_work(folder: Path) -> bool:
    """Whether another process is in ``folder``'s ``sole_process``."""
    try:
        with (folder / _LOCK).open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    return False
