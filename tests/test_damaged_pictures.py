"""Runs on folders of pictures of which some cannot be read: seen before the training where possible, and never the end
of a run that has begun."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipq import cli
from clipq.commands.train import _plan
from clipq.data.image_dataset import ImageDataset
from clipq.experiment import Experiment, load_experiment
from clipq.run import Run

TINY = [
    "data.dataset=imagenet", "data.images.size=8", "data.images.crop=8", "dense.epochs=1", "train.epochs=1",
    "search.mode=uniform", "run.threads=1", "run.device=cpu",
]  # fmt: skip
SKIP = "data.images.skip_corrupt=true"
TEST_PICTURE = "val/b/1.png"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of four training and two test pictures, large enough to be cut short."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("val", 2)):
        for name in "ab":
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def train(pictures: Path, results: Path, run: str, *more: str) -> int:
    return cli.main(
        ["train", *TINY, *more, "--data-dir", str(pictures), "--results", str(results), "--run", run, "--quiet"]
    )


def resume(folder: Path, *more: str) -> int:
    return cli.main(["train", "--resume", str(folder), *more, "--quiet"])


@pytest.mark.parametrize("place", [TEST_PICTURE, "train/a/3.png"])
def test_a_new_run_reads_what_it_needs_last_before_it_trains(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A test picture, and one that is held out: the last of its class."""
    damage(pictures / place)
    monkeypatch.setattr("clipq.run.fit", lambda *_, **__: pytest.fail("it trains"))
    assert train(pictures, tmp_path / "results", "mine") == 2
    said = capsys.readouterr().err
    assert f"{place}: " in said and said.endswith(f"({SKIP} leaves such images out)\n")
    assert not list((tmp_path / "results").glob("*/*")), "nothing is left to resume"


def test_only_a_run_that_is_there_is_said_to_go_on(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training picture that is damaged is met before anything is done, or after the dense network's training."""
    picture = pictures / "train/a/0.png"
    whole = picture.read_bytes()
    picture.write_bytes(bytes(len(whole)))
    assert train(pictures, tmp_path, "mine") == 2
    assert capsys.readouterr().err.endswith(f"({SKIP} leaves such images out)\n")
    assert not list(tmp_path.glob("digits/*"))
    picture.write_bytes(whole)
    search = Run._search
    monkeypatch.setattr(Run, "_search", lambda *args: (picture.write_bytes(bytes(len(whole))), search(*args))[1])
    assert train(pictures, tmp_path, "mine") == 2
    advice = f"go on with: clipq train --resume {tmp_path / 'digits' / 'mine'} {SKIP}\n"
    assert capsys.readouterr().err.endswith(f"; {advice}")
    assert resume(tmp_path / "digits" / "mine") == 2
    assert capsys.readouterr().err.endswith(f"; {advice}")
    with pytest.warns(UserWarning, match="left out"):
        assert resume(tmp_path / "digits" / "mine", SKIP) == 0


@pytest.mark.filterwarnings("ignore:left out")
def test_a_run_goes_on_without_a_picture_that_was_damaged_meanwhile(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the result of a run that leaves it out from the start, with its configuration."""
    damage(pictures / TEST_PICTURE)
    assert train(pictures, tmp_path, "whole", SKIP) == 0
    with monkeypatch.context() as patch:
        patch.setattr(ImageDataset, "check", lambda *_: None)
        assert train(pictures, tmp_path, "stopped") == 2
    assert SKIP in capsys.readouterr().err
    whole, stopped = tmp_path / "digits" / "whole", tmp_path / "digits" / "stopped"
    trained = {path: path.read_bytes() for path in stopped.glob("*.ckpt")}
    assert len(trained) == 2 and resume(stopped) == 2 and SKIP in capsys.readouterr().err
    assert resume(stopped, SKIP, "train.epochs=2") == 2 and "train.epochs" in capsys.readouterr().err
    assert resume(stopped, SKIP) == 0
    assert all(path.read_bytes() == content for path, content in trained.items())
    for name in ("net.clipq", "config.toml"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (stopped, whole))
    assert ours["error"] == theirs["error"] and ours["config"] == theirs["config"]
    assert ours["config"]["data"]["images"]["skip_corrupt"]


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_counted_that_were_measured(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """Of four test pictures three; of two that are held out one."""
    for place in (TEST_PICTURE, "train/a/3.png", "train/b/0.png"):
        damage(pictures / place)
    assert train(pictures, tmp_path, "mine", SKIP, f"run.workers={workers}") == 0
    said = capsys.readouterr().out
    for words in ("validation (1 images, left out as unreadable: 1)", "test (3 images, left out as unreadable: 1)"):
        assert words in said
    folder = tmp_path / "digits" / "mine"
    report = json.loads((folder / "report.json").read_text())
    assert [report["data"][split] for split in ("train", "val", "test")] == [6, 1, 3]
    assert report["data"]["left_out"] == {"val": 1, "test": 1}
    assert 3 * report["error"]["decoded_test"] == pytest.approx(round(3 * report["error"]["decoded_test"]))
    assert "of 3 images, left out as unreadable: 1." in (folder / "report.md").read_text()


@pytest.mark.filterwarnings("ignore:left out")
def test_a_lambda_is_accepted_by_the_images_that_were_measured(pictures: Path, tmp_path: Path) -> None:
    """One of two that are held out: the standard error of 1/2 is the root of 1/4."""
    damage(pictures / "train/a/3.png")
    options = ["search.mode=random", "search.evaluations=2", "selection.error=0.5", "selection.tolerance=0.5"]
    given = dict(option.split("=") for option in [*TINY, SKIP, f"data.data_dir={pictures}", *options])
    report = Run(load_experiment("digits", given), tmp_path / "run", show=False)()
    assert report["selection"]["accepted"] == 0.75


def test_the_plan_says_that_pictures_may_be_left_out(pictures: Path, tmp_path: Path) -> None:
    given = dict(option.split("=") for option in [*TINY, SKIP, f"data.data_dir={pictures}"])
    plan = dict(_plan(Run(load_experiment("digits", given), tmp_path, show=False)))
    assert "6 training, 2 validation and 4 test images (less unreadable ones) of 3x8x8" in plan["data"]


def test_only_leaving_out_may_be_begun_on_the_way() -> None:
    def experiment(*overrides: str, dataset: str = "imagenet") -> Experiment:
        return load_experiment("digits", dict(x.split("=") for x in (f"data.dataset={dataset}", *overrides)))

    plain, skipping = experiment(), experiment(SKIP)
    explicit = experiment("data.images.skip_corrupt=false")
    assert plain.may_go_on_as(plain) and plain.may_go_on_as(skipping) and explicit.may_go_on_as(skipping)
    assert plain.strict == skipping.strict == explicit.strict == explicit
    for other in (plain, explicit, experiment(SKIP, "data.images.crop=9"), experiment(SKIP, "train.epochs=7")):
        assert not skipping.may_go_on_as(other)
    assert not plain.may_go_on_as(experiment(SKIP, "run.seed=1"))
    cifar, with_options = experiment(dataset="cifar10"), experiment(SKIP, dataset="cifar10")
    assert cifar.may_go_on_as(with_options), "what is not said is as usual for this data set, too"
