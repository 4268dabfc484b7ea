"""Runs in processes of their own that are killed, or asked to stop, and started again."""

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import tqdm

import clipq.run
from clipq.cli import main
from clipq.experiment import load_experiment
from clipq.run import Run

TINY = {
    "dense.epochs": "3", "dense.batch_size": "256", "train.epochs": "3", "train.batch_size": "256",
    "search.evaluations": "3", "search.subset": "200",
    "run.threads": "1", "run.device": "cpu",
}  # fmt: skip
STAGES = ("dense", "search", "train", "encode")
KILLS = {"dense": 5, "search": 5, "train": 5, "encode": 5}
#: A process that has imported everything and forks the runs, so that each starts at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "clipq.cli", "clipq.commands.train", "clipq.bayesopt", "sklearn.datasets", "torch._dynamo"]
)


def report_stages(channel: Connection) -> None:
    """Makes runs say which stage begins, and draw no figures."""
    timed: Callable[..., Any] = Run._timed

    def telling(self: Run, stage: str, work: Callable[[], Any]) -> Any:
        channel.send(stage)
        return timed(self, stage, work)

    Run._timed = telling  # type: ignore[method-assign]
    clipq.run.write_report_page = lambda *_: None  # type: ignore[assignment]
    tqdm.tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves


def run(folder: Path, channel: Connection) -> None:
    report_stages(channel)
    Run(load_experiment("digits", TINY), folder, resume=True, show=False, checkpoint_every=0.05)()


def command(arguments: list[str], said: Path, channel: Connection) -> None:
    report_stages(channel)
    with said.open("w") as sys.stderr:
        code = main(arguments)
    sys.exit(code)


def started(target: Callable[..., None], *arguments: Any) -> tuple[ForkServerProcess, Connection]:
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=target, args=(*arguments, sender), daemon=True)
    process.start()
    sender.close()
    return process, receiver


def stages(channel: Connection) -> Iterator[str]:
    """The stages as they begin, until the process ends."""
    try:
        while True:
            yield channel.recv()
    except (EOFError, OSError):
        return


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, float]]:
    """The file of a run that nothing happens to, and the seconds that its stages took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process, channel = started(run, folder)
    begun = {stage: time.monotonic() for stage in stages(channel)}
    process.join()
    assert process.exitcode == 0
    following = [*STAGES[1:], "decode"]
    seconds = {stage: begun[after] - begun[stage] for stage, after in zip(STAGES, following, strict=True)}
    return (folder / "net.clipq").read_bytes(), seconds


def killed(folder: Path, stage: str, delay: float) -> str | None:
    """Kills a run ``delay`` seconds into a stage; in which stage that was, None if it had ended before."""
    process, channel = started(run, folder)
    last = next(s for s in stages(channel) if s == stage)
    time.sleep(delay)
    process.kill()
    process.join()
    last = [last, *stages(channel)][-1]
    assert process.exitcode in (0, -signal.SIGKILL)
    return last if process.exitcode else None


def test_killed_at_twenty_moments_the_file_is_the_same_to_the_byte(
    undisturbed: tuple[bytes, dict[str, float]], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    rng = random.Random(0)
    hits: Counter[str | None] = Counter()
    for stage, kills in KILLS.items():
        alive = hits[None]
        while kills and hits[None] < alive + 10:  # a kill that came after the end does not count
            hit = killed(tmp_path, stage, rng.uniform(0, seconds[stage] / 3))  # what is done is not done again
            hits[hit] += 1
            kills -= hit is not None
    assert sum(n for stage, n in hits.items() if stage) == 20
    assert set(STAGES) <= set(hits)
    process, _ = started(run, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "net.clipq").read_bytes() == expected
    assert not list(tmp_path.glob(".*"))


def test_a_second_process_is_refused_and_the_first_goes_on(
    undisturbed: tuple[bytes, dict[str, float]], tmp_path: Path
) -> None:
    process, channel = started(run, tmp_path)
    assert "dense" in stages(channel)
    second, _ = started(command, ["train", "--resume", str(tmp_path), "--quiet"], tmp_path.with_suffix(".said"))
    second.join()
    assert second.exitcode == 2
    assert f"{tmp_path}: another process is at work there" in tmp_path.with_suffix(".said").read_text()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "net.clipq").read_bytes() == undisturbed[0]


@pytest.mark.parametrize(("stage", "number"), [("dense", signal.SIGTERM), ("search", signal.SIGINT)])
def test_the_command_asked_to_stop_says_how_to_go_on(
    undisturbed: tuple[bytes, dict[str, float]], tmp_path: Path, stage: str, number: int
) -> None:
    expected, seconds = undisturbed
    given = [f"{key}={value}" for key, value in TINY.items()]
    where = ["--results", str(tmp_path), "--run", "mine", "--quiet"]
    process, channel = started(command, ["train", *given, *where], tmp_path / "said")
    assert stage in stages(channel)
    time.sleep(seconds[stage] / 3)
    os.kill(process.pid or 0, number)
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 130, said
    folder = tmp_path / "digits" / "mine"
    assert f"go on with: clipq train --resume {folder}" in said
    assert not (folder / "net.clipq").exists()
    process, _ = started(command, ["train", "--resume", str(folder), "--quiet"], tmp_path / "said")
    process.join()
    assert process.exitcode == 0, (tmp_path / "said").read_text()
    assert (folder / "net.clipq").read_bytes() == expected
