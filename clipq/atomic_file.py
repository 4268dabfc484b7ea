"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipq.errors import WriteError

_PART = ".part"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes ``path``'s place once it is written and on the disk; on any error the old one stays.

    Raises:
        WriteError: the disk is full, the folder is missing or must not be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PART}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        # torch.save reports a failed write by an error of its own, raised while it handles the system's
        failure = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        if failure is None:
            raise
        raise WriteError(
            f"{path}: cannot be written: {failure.strerror or failure}; what was there before is unchanged"
        ) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> int:
    """``data`` as the whole content of ``path``, atomically; gives its size in bytes."""
    with atomic_write(path) as file:
        file.write(data)
    return len(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """``text`` in UTF-8 as the whole content of ``path``, atomically."""
    write_bytes(path, text.encode())


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Deletes what a killed process left of files that it was writing into ``folder``."""
    for part in Path(folder).glob(f".*{_PART}"):
        part.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
