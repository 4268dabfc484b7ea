import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from clipq.checkpoint import CheckpointFile
from clipq.errors import CheckpointError, WriteError

RUN = {"configuration": "c", "data set": "d"}
STATE = {"weights": torch.arange(300.0), "step": 7, "history": [{"loss": 0.5}], "best": None}


def saved(path: Path) -> CheckpointFile:
    file = CheckpointFile(path, RUN)
    file.save(STATE)
    return file


def is_the_state(loaded: dict[str, Any] | None) -> bool:
    assert loaded is not None
    rest = {name: value for name, value in loaded.items() if name != "weights"}
    return torch.equal(loaded["weights"], STATE["weights"]) and rest == {k: STATE[k] for k in rest}  # type: ignore[arg-type]


def test_nothing_is_there_before_the_first_save(tmp_path: Path) -> None:
    assert CheckpointFile(tmp_path / "a.ckpt", RUN).load() is None


def test_what_was_saved_last_comes_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    saved(tmp_path / "a.ckpt").save({**STATE, "step": 8})
    loaded = CheckpointFile(tmp_path / "a.ckpt", RUN).load()
    assert loaded is not None
    assert loaded["step"] == 8
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"data set": "other"}, "another data set;"),
        ({"configuration": "other", "data set": "other"}, "another configuration and data set;"),
        ({"starting weights": "w"}, "another starting weights;"),
        (
            {"data set": "other", "number of processes": "1"},
            r"another data set and number of processes \(unknown there, 1 here\);",
        ),
    ],
)
def test_another_runs_checkpoint_is_refused_by_what_differs(tmp_path: Path, other: dict[str, str], named: str) -> None:
    path = tmp_path / "a.ckpt"
    saved(path)
    with pytest.raises(CheckpointError, match=rf"a\.ckpt: belongs to another run, with {named}"):
        CheckpointFile(path, {**RUN, **other}).load()
    assert is_the_state(CheckpointFile(path, RUN).load())


def test_numbers_that_differ_are_told(tmp_path: Path) -> None:
    CheckpointFile(tmp_path / "a.ckpt", {**RUN, "number of processes": "2"}).save(STATE)
    with pytest.raises(CheckpointError, match=r"with another number of processes \(2 there, 1 here\); use what"):
        CheckpointFile(tmp_path / "a.ckpt", {**RUN, "number of processes": "1"}).load()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    file = saved(path)
    data = path.read_bytes()
    for size in [0, 1, 10, 19, 40, *range(100, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match=r"a\.ckpt: .*delete it to redo its stage"):
            file.load()


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    """Among them those of the tensors, which torch would take as they are."""
    path = tmp_path / "a.ckpt"
    file = saved(path)
    data, rng = path.read_bytes(), random.Random(0)
    for place in [*rng.sample(range(len(data)), 100), 0, len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :])
        with pytest.raises(CheckpointError, match=r"a\.ckpt: (is damaged|expected it to start)"):
            file.load()


def test_bytes_after_the_end_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    file = saved(path)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match=r"a\.ckpt: is damaged"):
        file.load()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"fingerprint": RUN, "state": STATE}, path)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: expected it to start with b'clipq checkpoint 1.n', got b'PK"):
        CheckpointFile(path, RUN).load()


def test_a_checkpoint_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").mkdir()
    with pytest.raises(CheckpointError, match=r"a\.ckpt: cannot be read: Is a directory"):
        CheckpointFile(tmp_path / "a.ckpt", RUN).load()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ckpt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"a\.ckpt: cannot be written: File too large; what was there before"):
            file.save({**STATE, "step": 8})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_the_state(file.load())
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_checkpoint_is_due_some_time_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("clipq.checkpoint.time.monotonic", lambda: now)
    file = CheckpointFile(tmp_path / "a.ckpt", RUN, every=60)
    assert not file.due()
    now = 160.0
    assert file.due()
    file.save(STATE)
    assert not file.due()
    now = 219.9
    assert not file.due()
