"""The command line on real, tiny runs and files; anything wrong with what is given is one line and exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipq import cli
from clipq.checkpoint import CheckpointFile
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.experiment import load_experiment
from clipq.quantized_net import LayerSetting
from clipq.state_file import write_state
from clipq.ws_learn_one_layer import ws_learn_one_layer

ROOT = Path(__file__).resolve().parent.parent
TINY = ["dense.epochs=1", "train.epochs=1", "search.evaluations=2", "search.subset=100", "run.threads=1"]


def run_names(results: Path) -> list[str]:
    return sorted(folder.name for folder in (results / "digits").iterdir())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with one finished run, ``first``."""
    folder = tmp_path_factory.mktemp("results")
    assert cli.main(["train", *TINY, "--results", str(folder), "--run", "first", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def clipq_file(results: Path) -> Path:
    return results / "digits" / "first" / "net.clipq"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    state = {
        "conv.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator),
        "fc.weight": torch.randn(10, 72, generator=generator, dtype=torch.float64),
        "steps": torch.tensor(7),
    }
    state["head.weight"] = state["fc.weight"]
    torch.save({"state_dict": state}, tmp_path / "net.pt")
    return tmp_path / "net.pt"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr with which the command refuses its arguments."""
    assert cli.main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and captured.out == "" and "Traceback" not in captured.err, captured
    return lines[0]


# train


def test_a_run_leaves_everything_in_its_folder(results: Path):
    folder = results / "digits" / "first"
    expected = {"report.json", "report.md", "figures", "net.clipq", "net.mat", "config.toml", "search.jsonl"}
    assert expected <= {file.name for file in folder.iterdir()}
    report = json.loads((folder / "report.json").read_text())
    assert report["size"]["file"] == (folder / "net.clipq").stat().st_size
    assert report["config"]["train"]["epochs"] == 1 and len(report["search"]) == 8
    assert len(list((folder / "figures").iterdir())) == 5


def test_an_interrupted_run_goes_on_to_the_same_file(results: Path, tmp_path: Path, capsys, monkeypatch):
    saves = []

    def save_once(self: CheckpointFile, state: dict) -> None:
        saves.append(self.path.name)
        if len(saves) > 1:
            raise KeyboardInterrupt
        save(self, state)

    save = CheckpointFile.save
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFile, "save", save_once)
        assert cli.main(["train", *TINY, "--results", str(tmp_path), "--quiet"]) == 130
    assert saves == ["dense.ckpt", "train.ckpt"]
    (name,) = run_names(tmp_path)
    assert f"interrupted; go on with: clipq train --resume {tmp_path / 'digits' / name}" in capsys.readouterr().err
    message = refused(capsys, "train", "--resume", "--results", tmp_path, "train.epochs=7")
    assert "train.epochs" in message and "7" in message
    assert cli.main(["train", "--resume", "train.epochs=1", "--results", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert run_names(tmp_path) == [name]
    ours, theirs = (r / "digits" / n / "net.clipq" for r, n in ((tmp_path, name), (results, "first")))
    assert ours.read_bytes() == theirs.read_bytes()
    for words in ("1,266 training", "digits_net", "bayesopt: 2 evaluations", str(tmp_path / "digits" / name), "kept %"):
        assert words in output
    assert "this run is finished" in refused(capsys, "train", "--resume", tmp_path / "digits" / name)
    assert "no unfinished run" in refused(capsys, "train", "--resume", "--results", tmp_path)


def test_the_latest_unfinished_run_of_any_experiment_is_taken_up_where_none_is_named(tmp_path: Path, monkeypatch):
    taken = []
    monkeypatch.setattr("clipq.commands.train._work", lambda experiment, folder, args: taken.append(folder))
    for name in ("first", "mine"):
        path, folder = tmp_path / f"{name}.toml", tmp_path / name / "one"
        path.write_text("[train]\nepochs = 1\n")
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(load_experiment(path).to_toml())
    assert cli.main(["train", "--resume", "--results", str(tmp_path)]) == 0
    assert (
        cli.main(["train", "--resume", "--results", str(tmp_path), "--experiment", str(tmp_path / "first.toml")]) == 0
    )
    assert taken == [tmp_path / "mine" / "one", tmp_path / "first" / "one"]


def test_several_processes_are_told_to_go_on_with_as_many(tmp_path: Path, capsys, monkeypatch):
    def interrupted(experiment: object, folder: Path, args: object) -> None:
        (folder / "config.toml").touch()
        monkeypatch.setattr("clipq.distributed.world_size", lambda: 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("clipq.commands.train._work", interrupted)
    assert cli.main(["train", "--results", str(tmp_path), "--run", "mine"]) == 130
    command = f"torchrun --nproc-per-node=3 -- scripts/ws_train.py --resume {tmp_path / 'digits' / 'mine'}\n"
    assert capsys.readouterr().err.endswith(f"go on with: {command}")


def test_a_resumed_runs_experiment_that_has_changed_is_told(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("clipq.commands.train._work", lambda *_: None)
    path, folder = tmp_path / "mine.toml", tmp_path / "mine" / "one"
    path.write_text("[train]\nepochs = 3\n")
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(load_experiment(path, {"dense.epochs": "2"}).to_toml())
    resume = ["train", "--resume", str(folder), "--experiment", str(path), "--quiet"]
    assert cli.main([*resume, "dense.epochs=2"]) == 0
    assert capsys.readouterr().err == ""
    path.write_text("[train]\nepochs = 4\n[data.images]\ncrop = 8")
    assert cli.main(resume) == 0
    said = f"{folder}: goes on as it was configured; {path} has another data.images, dense.epochs, train.epochs\n"
    assert capsys.readouterr().err == said


def test_a_new_run_never_takes_an_old_ones_folder(results: Path, capsys):
    before = (results / "digits" / "first" / "report.json").read_bytes()
    message = refused(capsys, "train", *TINY, "--results", results, "--run", "first")
    assert "is there already" in message and "--resume" in message
    assert (results / "digits" / "first" / "report.json").read_bytes() == before


def test_a_resume_that_fails_changes_nothing(tmp_path: Path, capsys):
    folder = tmp_path / "results" / "mnist_lenet5" / "mine"
    folder.mkdir(parents=True)
    config = load_experiment("mnist_lenet5", {"data.data_dir": str(tmp_path / "nowhere")}).to_toml()
    (folder / "config.toml").write_text(config)
    assert "nowhere" in refused(capsys, "train", "--resume", folder, "--quiet")
    assert (folder / "config.toml").read_text() == config


def test_an_empty_folder_is_a_new_runs(tmp_path: Path, capsys):
    """A command that was killed before it did anything leaves one, with files that it was writing, if any."""
    folder = tmp_path / "digits" / "mine"
    folder.mkdir(parents=True)
    (folder / ".config.toml.0123.part").touch()
    (folder / ".lock").touch()
    arguments = ["train", "dense.epochs=0", "train.epochs=0", "--p", "0.5", "--results", tmp_path, "--quiet"]
    assert cli.main([str(a) for a in [*arguments, "--run", "mine"]]) == 0
    assert (folder / "report.md").is_file() and not list(folder.glob(".*"))
    capsys.readouterr()
    (tmp_path / "digits" / "other").mkdir()
    (tmp_path / "digits" / "other" / "text").touch()
    assert refused(capsys, *arguments, "--run", "other").endswith("is there already; expected a new name")


def test_a_run_interrupted_before_anything_is_done_leaves_nothing(tmp_path: Path, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipq.run.load_dataset", interrupt)
    assert cli.main(["train", "--results", str(tmp_path)]) == 130
    assert "interrupted; nothing was done yet" in capsys.readouterr().err
    assert run_names(tmp_path) == []


def test_a_run_goes_on_from_another_working_directory(results: Path, tmp_path: Path, monkeypatch):
    """Its starting weights were named from the first one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    state = decode_sparse_quantized_net_v2(results / "digits" / "first" / "net.clipq").state_dict()
    torch.save(state, "start.pt")
    options = ["train.epochs=0", "--p", "0.5", "--results", str(tmp_path), "--quiet"]
    assert cli.main(["train", "--weights", "start.pt", "--run", "mine", *options]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = tmp_path / "digits" / "mine" / "config.toml"
    assert cli.main(["train", "--experiment", str(config), "--run", "again", *options]) == 0
    first, again = (tmp_path / "digits" / name / "net.clipq" for name in ("mine", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_list(capsys):
    assert cli.main(["train", "--list"]) == 0
    assert re.search(r"^mnist_lenet5 +LeNet-5 on MNIST", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--experiment", "digit"], "'digit'"),
        (["--experiment", "nowhere.toml"], "nowhere.toml"),
        (["train.epoch=3"], "train.epochs"),
        (["train.epochs=many"], "train.epochs"),
        (["epochs"], "section.key=value"),
        (["--set", "run.seed=1", "--seed", "2"], "run.seed: expected one value, got '1' and '2'"),
        (["--seed", "-1"], "seed"),
        (["--p", "1.5", "--b", "4"], "1.5"),
        (["--p", "0.5", "search.mode=given"], "search.mode"),
        (["--device", "toaster"], "toaster"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
        (["--experiment", "mnist_lenet5", "--data-dir", "nowhere"], "nowhere"),
        (["--run", "a/b"], "without a path"),
        (["--run", "a\udcffb"], r"expected arguments in UTF-8, got 'a\udcffb'"),
        (["--data-dir", "."], "digits: comes with scikit-learn; expected no folder (--data-dir)"),
        (["--p", "0.5", "--lambda", "7"], "search.lambda_ (--lambda): needs a search"),
        (["search.given.ip1=[0.5, 4]"], "search.given.ip1: needs search.mode = given"),
        (["search.p=0.5"], "search.p: needs search.mode = uniform, which --p and --b set"),
        (["--p", "0.5", "search.evaluations=3"], "search.evaluations: needs a search"),
        (["--p", "0.5", "selection.attempts=4"], "selection.attempts: needs a search"),
        (["run.amp=true", "--device", "cpu"], "run.amp: mixed precision needs a GPU"),
        (["--seed", "4294967296"], "override run.seed: [run]: seed: expected 0..2^32 - 1"),
        (["--resume", "nowhere"], "nowhere"),
        (["layers.include=conv7"], "conv7"),
    ],
)
def test_train_refuses(arguments: list[str], words: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = "--quiet"  # a plan that is printed before the fault is found is no fault
    assert words in refused(capsys, "train", *arguments, "dense.epochs=0", plan)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left, left
    assert not list(tmp_path.glob("results/*/*"))


def test_every_option_is_explained():
    for verb in cli.VERBS:
        parser = cli.verb_parser(verb)
        assert all(action.help for action in parser._actions), verb
        text = parser.format_help()
        assert all(option in text for action in parser._actions for option in action.option_strings)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["info", "--help"]])
def test_help_and_version(arguments: list[str], capsys):
    assert cli.main(arguments) == 0
    assert "clipq" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["compress"], ["info"], ["train", "--epochs", "3"], ["decode", "a"]])
def test_usage_errors_are_exit_code_2(arguments: list[str], capsys):
    assert cli.main(arguments) == 2
    assert "usage: clipq" in capsys.readouterr().err


def test_scripts_are_the_same_verbs(clipq_file: Path):
    for script, verb in (("ws_train", "train"), ("encode", "encode"), ("decode", "decode"), ("info", "info")):
        text = (ROOT / "scripts" / f"{script}.py").read_text()
        assert f'run_verb("{verb}")' in text
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "info.py", clipq_file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "conv1.weight" in done.stdout


# info


@pytest.fixture
def unusual(tmp_path: Path) -> Path:
    torch.save({"\u00e9 w": torch.arange(8.0).reshape(2, 4)}, tmp_path / "net.pt")
    assert cli.main(["encode", str(tmp_path / "net.pt"), str(tmp_path / "net.clipq"), "--p", "0.5", "--b", "2"]) == 0
    return tmp_path / "net.clipq"


def test_what_an_outputs_encoding_lacks_is_shown_as_an_escape(unusual: Path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "info.py", unusual],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0 and r"\xe9 w" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_are_no_errors(unusual: Path, closed: str):
    line = f'"$0" "$1" "$2" {closed}'
    arguments = ["sh", "-c", line, sys.executable, ROOT / "scripts" / "info.py", unusual]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""


def test_info_sums_to_the_file(clipq_file: Path, capsys):
    assert cli.main(["info", str(clipq_file)]) == 0
    text = capsys.readouterr().out
    assert f"{clipq_file.stat().st_size:,} bytes" in text and "64x32x3x3" in text and "ip2.bias" in text
    assert cli.main(["info", "--json", str(clipq_file)]) == 0
    info = json.loads(capsys.readouterr().out)
    sections = [layer["n_bytes"] for layer in info["layers"]] + [info["tensors_bytes"], info["directory_bytes"]]
    assert sum(sections) == info["n_bytes"] == clipq_file.stat().st_size
    assert info["dense_bytes"] == 4 * 53002


def test_info_refuses(clipq_file: Path, tmp_path: Path, capsys):
    (tmp_path / "cut.clipq").write_bytes(clipq_file.read_bytes()[:-1])
    assert "cut.clipq" in refused(capsys, "info", tmp_path / "cut.clipq")
    (tmp_path / "text.clipq").write_text("hello")
    assert "text.clipq: directory, byte 0: expected" in refused(capsys, "info", tmp_path / "text.clipq")
    assert "clipq encode" in refused(capsys, "info", clipq_file.with_name("net.mat"))
    assert "nowhere.clipq" in refused(capsys, "info", tmp_path / "nowhere.clipq")


# decode


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_decode_gives_the_weights_bit_for_bit(suffix: str, clipq_file: Path, tmp_path: Path):
    out = tmp_path / f"net{suffix}"
    assert cli.main(["decode", str(clipq_file), str(out)]) == 0
    if suffix == ".npz":
        with np.load(out) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    else:
        state = load_file(out) if suffix == ".safetensors" else torch.load(out, weights_only=True)
    expected = decode_sparse_quantized_net_v2(clipq_file).state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_decode_takes_the_mat_struct_too(clipq_file: Path, tmp_path: Path):
    for source in (clipq_file, clipq_file.with_name("net.mat")):
        assert cli.main(["decode", str(source), str(tmp_path / f"from{source.suffix}.npz")]) == 0
    assert (tmp_path / "from.mat.npz").read_bytes() == (tmp_path / "from.clipq.npz").read_bytes()


def test_decode_refuses(clipq_file: Path, tmp_path: Path, capsys):
    assert ".safetensors" in refused(capsys, "decode", clipq_file, tmp_path / "net.onnx")
    damaged = bytearray(clipq_file.read_bytes())
    damaged[2000] ^= 1
    (tmp_path / "damaged.clipq").write_bytes(damaged)
    (tmp_path / "out.pt").write_text("the old file")
    assert re.search(
        r"damaged\.clipq: .*CRC", refused(capsys, "decode", tmp_path / "damaged.clipq", tmp_path / "out.pt")
    )
    assert (tmp_path / "out.pt").read_text() == "the old file"
    assert cli.main(["decode", str(clipq_file), str(tmp_path / "no" / "out.pt")]) == 2
    assert "there is no folder" in capsys.readouterr().err


# encode


def test_encode_weights(weights: Path, tmp_path: Path, capsys):
    out = tmp_path / "net.clipq"
    arguments = ["--p", "0.5", "--b", "3", "--layer", "fc=0.9,2", "--convention", "index_bits=deep_compression"]
    assert cli.main(["encode", str(weights), str(out), *arguments]) == 0
    assert f"{out.stat().st_size:,} bytes" in capsys.readouterr().out
    state, net = torch.load(weights, weights_only=True)["state_dict"], decode_sparse_quantized_net_v2(out)
    settings = {"conv.weight": LayerSetting(0.5, 3), "fc.weight": LayerSetting(0.9, 2)}
    assert [layer.name for layer in net.layers] == list(settings) and net.aliases == {"head.weight": "fc.weight"}
    for name, theta in settings.items():
        assert torch.equal(net.state_dict()[name], ws_learn_one_layer(state[name], theta.p, theta.b).quantized)
    assert torch.equal(net.tensors["conv.bias"], state["conv.bias"]) and net.tensors["steps"] == 7


def test_encode_by_patterns_and_conventions(weights: Path, tmp_path: Path):
    out = tmp_path / "net.clipq"
    chosen = ["--p", "0.5", "--b", "3", "--include", "f*", "--include", "conv", "--exclude", "fc"]
    assert cli.main(["encode", str(weights), str(out), *chosen, "--convention", "partition=joined"]) == 0
    (layer,) = decode_sparse_quantized_net_v2(out).layers
    assert layer.name == "conv.weight"
    (tmp_path / "other").mkdir()
    assert cli.main(["encode", str(weights), str(tmp_path / "other" / "net.clipq"), *chosen]) == 0
    assert (tmp_path / "other" / "net.clipq").read_bytes() != out.read_bytes()


def test_encode_mat_and_back_is_the_same_file(clipq_file: Path, tmp_path: Path):
    mat, back = tmp_path / "net.mat", tmp_path / "back.clipq"
    assert cli.main(["encode", str(clipq_file), str(mat)]) == 0
    assert cli.main(["encode", str(mat), str(back)]) == 0
    assert back.read_bytes() == clipq_file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--p and --b"),
        (["--p", "0.5"], "--p and --b"),
        (["--p", "2", "--b", "4"], "[0, 1]"),
        (["--p", "0.5", "--b", "1"], "bits b"),
        (["--layer", "fc"], "NAME=P,B"),
        (["--layer", "fc=0.5,x"], "NAME=P,B"),
        (["--layer", "fc=0.5,99"], "--layer fc=0.5,99"),
        (["--layer", "fc7=0.5,4"], "fc7"),
        (["--layer", "steps=0.5,4"], "steps"),
        (["--p", "0.5", "--b", "4", "--include", "fc7"], "fc7"),
        (["--p", "0.5", "--b", "4", "--exclude", "*"], "no tensor to compress"),
        (["--p", "0.5", "--b", "4", "--convention", "edge=left"], "edge"),
        (["--layer", "fc=0.5,4", "--include", "fc"], "--include, --exclude: choose what --p and --b are for"),
        (["--layer", "fc=0.5,3", "--layer", "fc=0.9,4"], "--layer fc: expected one value, got two"),
        (["--layer", "fc=0.5,3", "--layer", "fc.weight=0.9,4"], "net.pt: tensor fc.weight: expected one setting"),
        (["--p", "0.5", "--b", "4", *["--convention", "partition=joined"] * 2], "--convention partition: expected one"),
        (["--p", "0.5", "--b", "4", "--convention", "search_order=backward"], "search_order"),
    ],
)
def test_encode_refuses(arguments: list[str], words: str, weights: Path, tmp_path: Path, capsys):
    assert words in refused(capsys, "encode", weights, tmp_path / "net.clipq", *arguments)
    assert not (tmp_path / "net.clipq").exists()


def test_encode_refuses_files(weights: Path, clipq_file: Path, tmp_path: Path, capsys):
    theta = ["--p", "0.5", "--b", "4"]
    assert ".clipq or .mat" in refused(capsys, "encode", weights, tmp_path / "net.zip", *theta)
    assert "a .mat file has no coder" in refused(
        capsys, "encode", weights, tmp_path / "net.mat", *theta, "--coder", "best"
    )
    assert not (tmp_path / "net.mat").exists()
    assert "nowhere.pt" in refused(capsys, "encode", tmp_path / "nowhere.pt", tmp_path / "net.clipq", *theta)
    assert "is taken for quantized weights; expected dense ones" in refused(
        capsys, "encode", clipq_file, tmp_path / "net.clipq", *theta
    )
    for suffix in (".pt", ".npz", ".safetensors", ".caffemodel", ".clipq", ".mat"):
        (tmp_path / f"bad{suffix}").write_bytes(b"\x07nothing of the kind")
        given = theta if suffix not in (".clipq", ".mat") else []
        refused(capsys, "encode", tmp_path / f"bad{suffix}", tmp_path / "net.clipq", *given)
    write_state({"w.weight": torch.tensor([[1.0, float("nan")]])}, tmp_path / "nan.npz")
    assert "nan.npz: layer w.weight" in refused(capsys, "encode", tmp_path / "nan.npz", tmp_path / "net.clipq", *theta)
    assert not (tmp_path / "net.clipq").exists()
