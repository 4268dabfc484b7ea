"""One process at a time in a run's folder; what another process sees is asked of another process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipq import cli
from clipq.errors import CheckpointError
from clipq.experiment import load_experiment
from clipq.run_lock import is_at_work, sole_process

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
            assert is_at_work(tmp_path)
            with (
                pytest.raises(CheckpointError, match=f"{tmp_path}: another process is at work there"),
                sole_process(tmp_path),
            ):
                pytest.fail("two processes at once")
    assert not is_at_work(tmp_path)
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


def test_the_run_to_resume_is_none_that_is_being_worked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / "mnist_lenet5" / name for name in ("killed", "live")]
    for run in runs:
        run.mkdir(parents=True)
        config = load_experiment("mnist_lenet5", {"data.data_dir": str(tmp_path / run.name)}).to_toml()
        (run / "config.toml").write_text(config)
    resume = ["train", "--experiment", "mnist_lenet5", "--results", str(tmp_path), "--quiet", "--resume"]
    with held_by_another(runs[1]):
        assert cli.main(resume) == 2
        assert str(tmp_path / "killed") in capsys.readouterr().err  # where its data set is not
        (runs[0] / "config.toml").unlink()
        assert cli.main(resume) == 2
        assert "no unfinished run to resume; other processes are at work on 1" in capsys.readouterr().err
