"""Dry runs of every experiment, without any data set at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from clipq import cli, dry_run
from clipq.data.made import data_shape, made_dataset
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.distillation import DistillationConfig, distilled
from clipq.dry_run_text import dry_run_text, duration
from clipq.errors import DataError, ExperimentError
from clipq.experiment import list_experiments, load_experiment
from clipq.networks import NETWORKS, build_network
from clipq.pruning_schedule import PruningSchedule
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.training import Objective
from clipq.ws_learn_one_layer import ws_learn_one_layer
from clipq.ws_train import ws_train

SMALL = {"train.batch_size": "2", "dense.batch_size": "2", "search.subset": "2", "search.p": "0.75", "search.b": "3"}


FEW_CANDIDATES = {"search.p_min": "0.5", "search.p_max": "0.5", "search.b_min": "4", "search.b_max": "5"}


@pytest.fixture(autouse=True)
def nothing_at_hand_and_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPQ_DATA", raising=False)
    monkeypatch.setattr(dry_run, "SECONDS", 0.0)


@pytest.mark.parametrize("name", sorted(list_experiments()))
def test_every_experiment(name: str, tmp_path: Path):
    """ImageNet's images are cropped smaller here, which leaves every layer but the first inner product as it is."""
    overrides = dict(SMALL)
    if name.startswith("imagenet"):
        overrides["data.images.crop"] = {"imagenet_alexnet": "75", "imagenet_caffenet": "75"}.get(name, "64")
    experiment = load_experiment(name, overrides)
    found = dry_run.dry_run(experiment, tmp_path / "x" / "net.clipq")
    stages = ["dense training", "search of p and b", "fine-tuning with CLIP-Q"]
    assert [stage.name for stage in found.stages] == stages
    assert all(stage.step_seconds > 0 and stage.images == 2 for stage in found.stages)
    assert (tmp_path / "x" / "net.clipq").stat().st_size == found.n_bytes == sum(s for *_, s in found.encoded.sizes())
    text = dry_run_text(experiment, found, tmp_path)
    with torch.device("meta"):
        network = NETWORKS[experiment.network.name](found.shape.n_classes, found.shape.input_shape)
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in text
    for layer, theta in found.settings.items():
        assert layer.removesuffix(".weight") in text and (theta.p, theta.b) == (0.75, 3)


def test_the_file_holds_the_starting_weights_quantized_once(tmp_path: Path):
    torch.manual_seed(5)
    model = build_network("digits_net")
    torch.save(model.state_dict(), tmp_path / "net.pt")
    overrides = {"network.weights": str(tmp_path / "net.pt"), "search.mode": "given", "search.given.ip1": "[0.5, 2]"}
    experiment = load_experiment("digits", SMALL | overrides)
    found = dry_run.dry_run(experiment, tmp_path / "net.clipq")
    assert found.settings["ip1.weight"] == LayerSetting(0.5, 2) and found.settings["ip2.weight"] == LayerSetting(
        0.75, 3
    )
    assert [stage.name for stage in found.stages] == ["search of p and b", "fine-tuning with CLIP-Q"]
    decoded = decode_sparse_quantized_net_v2(tmp_path / "net.clipq").state_dict()
    for name, tensor in model.state_dict().items():
        theta = found.settings.get(name)
        expected = tensor if theta is None else ws_learn_one_layer(tensor, theta.p, theta.b).quantized
        assert torch.equal(decoded[name], expected), name


def test_times_follow_from_the_steps(tmp_path: Path):
    experiment = load_experiment("mnist_lenet300100", SMALL | {"train.epochs": "3", "search.subset": "1000"})
    found = dry_run.dry_run(experiment, tmp_path / "net.clipq")
    _, search, train = found.stages
    assert (train.steps, train.epochs) == (27_503, 3), "55,006 images in batches of 2"
    assert train.seconds == pytest.approx(27_503 * 3 * train.step_seconds)
    assert search.steps == experiment.search.evaluations * 3
    few = dry_run.dry_run(load_experiment("mnist_lenet300100", SMALL | FEW_CANDIDATES), tmp_path / "net.clipq")
    assert few.stages[1].steps == 2 * 3, "no candidate is tried twice"
    once, every_batch = search.steps * search.step_seconds, search.steps * 500 * search.step_seconds
    assert once < search.seconds < every_batch, "1,000 images, 2 at a time; quantizing and counting are done once"


def test_a_step_is_the_runs_with_teacher_and_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    taught, scheduled = [], []

    def counted(objective: Objective, teacher: nn.Module, config: DistillationConfig) -> Objective:
        learn = distilled(objective, teacher, config)
        return lambda model, batch: taught.append(config.weight) or learn(model, batch)

    def trained(*args: object, schedule: PruningSchedule, **options: object) -> object:
        scheduled.append(schedule)
        return ws_train(*args, schedule=schedule, **options)

    monkeypatch.setattr("clipq.experiment.distilled", counted)
    monkeypatch.setattr(dry_run, "ws_train", trained)
    experiment = load_experiment("mnist_lenet5_small", SMALL)
    dry_run.dry_run(experiment, tmp_path / "net.clipq")
    assert taught == [0.9, 0.9] and scheduled == [experiment.schedule]


def test_a_file_that_decodes_to_something_else_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = dry_run.decode_sparse_quantized_net_v2

    def damaged(path: Path) -> QuantizedNet:
        net = real(path)
        net.tensors["conv1.bias"][0] += 1e-3  # type: ignore[index]
        return net

    monkeypatch.setattr(dry_run, "decode_sparse_quantized_net_v2", damaged)
    with pytest.raises(ExperimentError, match=r"other weights than were encoded: conv1\.bias$"):
        dry_run.dry_run(load_experiment("digits", SMALL), tmp_path / "net.clipq")


def test_shapes_without_images(tmp_path: Path):
    assert data_shape("imagenet").input_shape == (3, 224, 224)
    images = load_experiment("imagenet_alexnet").data.images
    assert data_shape("imagenet", images=images).input_shape == (3, 227, 227)
    with pytest.raises(DataError, match="idx: its shape is not known"):
        data_shape("idx")
    with pytest.raises(DataError, match="image folders"):
        data_shape("imagenet", tmp_path)


def test_made_images_are_in_the_range_of_prepared_ones():
    images = load_experiment("imagenet_resnet50_torchvision").data.images
    assert images is not None
    made = made_dataset(data_shape("imagenet", images=images), 3, images).train
    for channel, (mean, std) in enumerate(zip(images.mean, images.std, strict=True)):
        low, high = -mean / std, (255 - mean) / std
        values = made.x[:, channel]
        assert low <= float(values.min()) < low + 0.01 and high - 0.01 < float(values.max()) <= high
    assert made.y.shape == (3,) and 0 <= int(made.y.min()) and int(made.y.max()) < 1000


def test_durations():
    seconds = [0.0123, 4.5, 119.0, 402.0, 32000.0, 872640.0]
    assert [duration(s) for s in seconds] == ["12.3 ms", "4.5 s", "119.0 s", "6.7 min", "8.9 h", "10.1 d"]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["train", "--dry-run", "--results", str(tmp_path), "--set", "dense.batch_size=2", "--p", "0.5"]
    assert cli.main(arguments) == 0
    output, progress = capsys.readouterr()
    assert "decoded to the same weights bit for bit" in output
    stages = ("dense training", "search of p and b", "fine-tuning with CLIP-Q", "file")
    assert re.findall("dry run: (.*)", progress) == list(stages)
    assert cli.main([*arguments, "--quiet"]) == 0
    assert "dry run" not in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["dry_run.clipq"]
    assert cli.main([*arguments, "--run", "mine"]) == 2
    assert "--dry-run: expected neither --run nor --resume" in capsys.readouterr().err


@pytest.mark.parametrize("amp", ["true", "false"])
def test_mixed_precision_that_a_run_would_be_refused_for_is_told(
    amp: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["train", "--dry-run", "--results", str(tmp_path), "--set", "dense.batch_size=2", "--p", "0.5"]
    assert cli.main([*arguments, "--device", "cpu", f"run.amp={amp}"]) == 0
    assert ("a run on cpu needs run.amp = false" in capsys.readouterr().out) == (amp == "true")
