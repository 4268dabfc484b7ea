"""The scripts that measure: an option that makes no sense is an error before anything is measured or written."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("fuzz", ["--files", "0"], "--files: expected a whole number >= 1, got '0'"),
        ("fuzz", ["--seed", "-1"], "--seed: expected a whole number >= 0, got '-1'"),
        ("fuzz", ["--cases", "-5"], "--cases: expected a whole number >= 1, got '-5'"),
        ("benchmark", ["codec", "nowhere.clipq"], "nowhere.clipq"),
        ("benchmark", ["speed", "--device", "foo"], "'foo' cannot be used"),
        ("benchmark", ["speed", "--weights", "0"], "--weights: expected a whole number >= 1, got '0'"),
        ("measure_assumptions", ["--seeds", "0"], "--seeds: expected a whole number >= 1, got '0'"),
        ("paper_sizes", ["--threads", "one"], "--threads: expected a whole number >= 1, got 'one'"),
        ("mnist_claims", ["--epochs", "0"], "--epochs: expected a whole number >= 1, got '0'"),
        ("mnist_results", ["--caffe", "nowhere"], "nowhere/caffe_lenet300100_original.caffemodel: no such file"),
        ("make_results", ["--results", "nowhere"], "nowhere: expected a folder of results"),
        ("make_results", ["--results", "."], ".: expected a folder of results"),
        ("make_results", ["--results", ".", "--check"], ".: expected a folder of results"),
    ],
)
def test_bad_options_are_refused(
    script: str, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    try:
        code = importlib.import_module(f"scripts.{script}").main()
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert code == 2 and words in captured.err.splitlines()[-1] and captured.out == ""
    assert not list(tmp_path.iterdir())
