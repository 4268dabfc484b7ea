"""One process at a time in a run's folder; what another process sees is asked of another process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipq.errors import CheckpointError
from clipq.run_lock import sole_process

HOLD = """
import os, sys
from pathlib import Path
from clipq.run_lock import sole_process
with sole_process(Path(sys.argv[1])):
    if os.fork() == 0:  # as a process that reads images, which lives a little longer than the one that it works for
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with process:
        yield process


def test_another_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with held_by_another(tmp_path):
        for _ in range(2):
            with (
                pytest.raises(CheckpointError, match=f"{tmp_path}: another process is at work there"),
                sole_process(tmp_path),
            ):
                pytest.fail("two processes at once")
    with sole_process(tmp_path):
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_killed_process_keeps_nobody_out(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as process:
        process.kill()
        process.wait()
        with sole_process(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
