import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from clipq.atomic_file import atomic_write, remove_leftovers, write_bytes, write_text
from clipq.errors import WriteError


def test_writing_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "net.clipq"
    assert write_bytes(path, b"old") == 3
    assert write_bytes(path, b"newer") == 5
    assert path.read_bytes() == b"newer"
    write_text(path, "größer")
    assert path.read_bytes() == b"gr\xc3\xb6\xc3\x9fer"
    assert os.listdir(tmp_path) == ["net.clipq"]


def test_the_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "net.clipq", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "net.clipq").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_and_what_it_leads_to_is_replaced_with_its_own_permissions(tmp_path: Path) -> None:
    path, link = tmp_path / "real.clipq", tmp_path / "latest.clipq"
    path.write_bytes(b"old")
    path.chmod(0o600)
    link.symlink_to(path.name)
    assert write_bytes(link, b"newer") == 5
    assert link.is_symlink() and path.read_bytes() == b"newer"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["latest.clipq", "real.clipq"]


def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert write_bytes(pipe, b"bytes") == 5
    assert os.read(reader, 10) == b"bytes" and pipe.is_fifo()
    os.close(reader)
    assert write_bytes(os.devnull, b"bytes") == 5
    assert not Path(os.devnull).is_file()


def test_any_name_that_the_system_takes_will_do_and_no_name_is_an_error(tmp_path: Path) -> None:
    name = "n" * os.pathconf(tmp_path, "PC_NAME_MAX")
    write_bytes(tmp_path / name, b"")
    assert os.listdir(tmp_path) == [name]
    for nameless in ("", "/"):
        with pytest.raises(WriteError, match=f"'{nameless}': expected the name of a file"):
            write_bytes(nameless, b"")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "net.clipq"
    write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(WriteError, match=r"net\.clipq: cannot be written: No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.clipq"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_real_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file is on a device that is full: the write itself fails."""
    path = tmp_path / "net.clipq"
    write_bytes(path, b"old")
    real_open = open
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", lambda name, mode: Path(name).touch() or real_open("/dev/full", "wb"))
        with pytest.raises(WriteError, match="No space left"):
            write_bytes(path, b"new" * 100)
    assert path.read_bytes() == b"old"


def test_a_write_that_fails_inside_torch_is_named_by_its_cause(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"net\.pt: cannot be written: File too large"), atomic_write(path) as file:
            torch.save(torch.zeros(100_000), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.pt"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"nowhere/net\.clipq: cannot be written: No such file or directory"):
        write_bytes(tmp_path / "nowhere" / "net.clipq", b"new")


def test_an_error_of_the_writer_is_passed_on_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.clipq"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.clipq"]


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("net.clipq", ".hidden", "notes.part"):
        (tmp_path / name).write_bytes(b"old")
    writer = os.fork()
    if not writer:
        with atomic_write(tmp_path / "net.clipq") as file:
            file.write(b"half of the ne")
            file.flush()
            os._exit(1)  # as SIGKILL would end it
    os.waitpid(writer, 0)
    assert len(os.listdir(tmp_path)) == 4
    assert (tmp_path / "net.clipq").read_bytes() == b"old"
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "net.clipq", "notes.part"]
