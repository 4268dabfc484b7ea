"""Which format a MATLAB or Octave file has, by its first bytes; of all these only that of ``save -v7`` is read."""

from __future__ import annotations

import os

MAT5 = b"MATLAB 5.0 MAT-file"
_MATLAB = b"MATLAB "
_OTHERS = {
    b"MATLAB 7.3 MAT-file": "MATLAB's format -v7.3",
    b"\x89HDF\r\n": "HDF5, Octave's format -hdf5",
    b"# Created by Octave": "Octave's text format, that of its save without an option",
    b"Octave-1": "Octave's format -binary",
}


def is_matlab(data: bytes) -> bool:
    """Whether these bytes are a MATLAB or Octave file of whatever version."""
    return data.startswith((_MATLAB, *_OTHERS))


def other_format(data: bytes) -> str | None:
    """Which format these first bytes show that is not read; None where they show none."""
    return next((name for start, name in _OTHERS.items() if data.startswith(start)), None)


def other_format_of(path: str | os.PathLike[str]) -> str | None:
    """The same of a file; raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return other_format(file.read(max(map(len, _OTHERS))))
