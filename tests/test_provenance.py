import subprocess

import pytest

from clipq.provenance import commit

SETTINGS = "user.name=nobody", "user.email=nobody@example.org", "commit.gpgsign=false"


@pytest.fixture
def checkout(tmp_path):
    """A checkout of a package with results."""
    for path in ("package/module.py", "results/page.md"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("first\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def git(folder, *arguments):
    options = [part for option in SETTINGS for part in ("-c", option)]
    run = subprocess.run(["git", *options, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_what_a_run_has_written_to_the_results_is_no_change_of_the_source(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "results" / "page.md").write_text("second\n")
    assert commit(checkout / "package") == head
    (checkout / "package" / "module.py").write_text("second\n")
    assert commit(checkout / "package") == head + "+changes"


def test_a_package_inside_a_checkout_of_something_else_has_no_commit(checkout):
    installed = checkout / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "module.py").write_text("first\n")
    assert commit(installed) == "unknown"


def test_without_a_checkout_there_is_no_commit(tmp_path):
    assert commit(tmp_path) == "unknown"
