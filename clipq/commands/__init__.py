"""The verbs of the command ``clipq``: each module adds its arguments to a parser, and does what they ask for.

``add_arguments(parser)`` and ``run(args) -> exit code`` are what ``clipq.cli`` calls; ``EPILOG``, where there is one,
ends the help.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipq.errors import ClipqFormatError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of a compressed file's format say which file it is."""
    try:
        yield
    except ClipqFormatError as error:
        raise ClipqFormatError(f"{path}: {error}") from error


def output_file(text: str) -> Path:
    """An argument that names a file to write."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: expected a file, got a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: there is no folder {path.parent}")
    return path
