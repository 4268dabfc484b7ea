"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipq.errors import WriteError

_PART = ".part"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes ``path``'s place once it is written and on the disk; on any error the old one stays.

    What a symbolic link leads to is replaced, and a new file has the old one's permissions.  A device or a pipe is
    written to.

    Raises:
        WriteError: the disk is full, the folder is missing or must not be written to, or a path that names no file.
    """
    path = _final(path)
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        with _replacing(path, mode) if stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR) else open(path, "wb") as file:
            yield file
    except BaseException as error:
        # torch.save reports a failed write by an error of its own, raised while it handles the system's
        failure = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
        if failure is None:
            raise
        raise WriteError(
            f"{path}: cannot be written: {failure.strerror or failure}; what was there before is unchanged"
        ) from error


@contextmanager
def _replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file that takes the place of the one at ``path``, with its permissions if ``mode`` has any."""
    temporary = path.with_name(f".{secrets.token_hex(8)}{_PART}")
    try:
        with open(temporary, "xb") as file:
            if stat.S_IMODE(mode):
                os.chmod(temporary, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _final(path: str | os.PathLike[str]) -> Path:
    """The file to which a path leads.

    Raises:
        WriteError: it names none.
    """
    given = os.fspath(path)
    if not Path(given).name:
        raise WriteError(f"{given!r}: expected the name of a file")
    return Path(os.path.realpath(given))


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
