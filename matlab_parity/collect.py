"""Makes all reconstructed fixtures again with GNU Octave: ``python -m matlab_parity.collect``.

In MATLAB run ``collect_all`` in ``matlab_parity/collectors``, then ``python -m matlab_parity.manifest``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from clipq.errors import ClipqError
from matlab_parity import manifest
from matlab_parity.paths import COLLECTORS, RECONSTRUCTED

OCTAVE = "octave-cli"


class EngineError(ClipqError):
    """GNU Octave is not there, or a script failed in it."""


def octave_is_there() -> bool:
    return shutil.which(OCTAVE) is not None


def run_octave(folder: Path, statement: str) -> None:
    """Run one statement of MATLAB code in ``folder``.

    Raises:
        EngineError: no Octave, or an error in the script, with its message.
    """
    if not octave_is_there():
        raise EngineError(f"expected {OCTAVE} (GNU Octave 6 or later) on the PATH, found none")
    # Octave's exit status is of no use here: 7.3 can fail while it shuts down.  The last line tells.
    program = f"try, {statement}; disp('done'); catch e, disp(e.message); end"
    command = [OCTAVE, "--no-gui", "--no-init-file", "--quiet", "--eval", program]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    lines = result.stdout.strip().splitlines()
    if not lines or lines[-1] != "done":
        raise EngineError(f"{statement}: failed in {OCTAVE}: {lines[-1] if lines else result.stderr.strip()}")


def collect(folder: Path) -> None:
    """Run every collector; the fixtures go to ``folder``."""
    run_octave(COLLECTORS, f"collect_all('{folder.resolve()}')")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="matlab_parity.collect", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=RECONSTRUCTED, help="another folder; the manifest is then left alone"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    collect(options.out)
    if options.out.resolve() == RECONSTRUCTED:
        manifest.write()


if __name__ == "__main__":
    main()
