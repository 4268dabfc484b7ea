"""A run of an experiment on small random images, from the dense network to the decoded file's error."""

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clipq.run
from clipq.conventions import Conventions
from clipq.data import Dataset, TensorDataset, TensorPair
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.errors import CheckpointError, ExperimentError, Interrupted, ModelError, SettingError, WriteError
from clipq.experiment import load_experiment
from clipq.layers import compressible_layers
from clipq.networks import build_network
from clipq.quantized_net import LayerSetting
from clipq.report import files
from clipq.run import Run
from clipq.run_report import histograms
from clipq.search import Evaluation
from clipq.selection import SelectionConfig
from clipq.train_config import TrainConfig
from clipq.ws_train import ws_train

SMALL = {
    "dense.epochs": "2", "train.epochs": "2", "dense.batch_size": "32", "train.batch_size": "32",
    "search.evaluations": "3", "search.subset": "50", "run.device": "cpu",
}  # fmt: skip


def digits(sample: int = 1) -> TensorDataset:
    """Another ``sample`` has other images."""
    g = torch.Generator().manual_seed(sample)

    def pair(n: int) -> TensorPair:
        y = torch.randint(0, 10, (n,), generator=g)
        x = torch.randn(n, 1, 8, 8, generator=g) * 0.3
        x[torch.arange(n), 0, y % 8, y // 2] += 2
        return TensorPair(x, y)

    return TensorDataset("spots", pair(120), pair(30), pair(40), 10, f"sample {sample}")


def use_small_data(patch: pytest.MonkeyPatch, sample: int = 1) -> None:
    """Random images in place of a data set, and a report without its page and figures."""
    patch.setattr(clipq.run, "load_dataset", lambda *_: digits(sample))
    patch.setattr(clipq.run, "write_report_page", lambda *_: None)


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_data(monkeypatch)


def made(folder: Path, resume: bool = False, every: float = 60.0, **overrides: str) -> Run:
    given = {**SMALL, **{key.replace("__", "."): value for key, value in overrides.items()}}
    return Run(load_experiment("digits", given), folder, resume=resume, show=False, checkpoint_every=every)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run and its report."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        use_small_data(patch)
        return folder, made(folder)()


Finished = tuple[Path, dict[str, Any]]


def test_the_report_says_what_is_in_the_file(finished: Finished) -> None:
    folder, report = finished
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    net = decode_sparse_quantized_net_v2(folder / "net.clipq")
    assert [x["name"] for x in report["layers"]] == [layer.name for layer in net.layers]
    for row, layer in zip(report["layers"], net.layers, strict=True):
        assert (row["b"], row["kept"], row["shape"]) == (layer.b, layer.n_kept, list(layer.shape))
    size = report["size"]
    assert size["file"] == (folder / "net.clipq").stat().st_size == sum(size["sections"].values())
    dense_bytes = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    assert size["dense"] == dense_bytes
    assert size["ratio"] == dense_bytes / size["file"]


def test_the_errors_are_those_of_the_decoded_file(finished: Finished) -> None:
    folder, report = finished
    model = build_network("digits_net", n_classes=10, input_shape=(1, 8, 8))
    model.load_state_dict(decode_sparse_quantized_net_v2(folder / "net.clipq").state_dict())
    x, y = digits().test
    assert report["error"]["decoded_test"] == pytest.approx((model.eval()(x).argmax(1) != y).double().mean().item())
    assert report["error"]["decoded_test"] == report["error"]["compressed_test"]
    assert report["error"]["compressed_val"] == min(e["val_error"] for e in report["history"]["train"]["epochs"])


def test_settings_are_the_best_of_the_searchs_evaluations(finished: Finished) -> None:
    _, report = finished
    evaluations = [Evaluation(**record) for record in report["search"]]
    assert len(evaluations) == 3 * len(report["layers"])
    for row in report["layers"]:
        best = min((e for e in evaluations if e.layer == row["name"]), key=lambda e: e.value)
        assert (row["p"], row["b"]) == (best.p, best.b)


def test_a_finished_run_goes_on_to_the_same_result(finished: Finished) -> None:
    folder, report = finished
    before = {name: (folder / name).read_bytes() for name in ("net.clipq", "search.jsonl", "config.toml")}
    again = made(folder, resume=True)()
    assert {name: (folder / name).read_bytes() for name in before} == before
    for part in ("error", "size", "layers", "search", "histograms"):
        assert again[part] == report[part]
    assert [e["val_error"] for e in again["history"]["train"]["epochs"]] == [
        e["val_error"] for e in report["history"]["train"]["epochs"]
    ]


def test_every_run_of_a_seed_gives_the_same_file(finished: Finished, tmp_path: Path) -> None:
    made(tmp_path / "again")()
    assert (tmp_path / "again" / "net.clipq").read_bytes() == (finished[0] / "net.clipq").read_bytes()
    made(tmp_path / "other", run__seed="1")()
    assert (tmp_path / "other" / "net.clipq").read_bytes() != (finished[0] / "net.clipq").read_bytes()


@pytest.mark.parametrize("stage", ["_dense", "_search", "_train"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_step_and_resuming_gives_the_same_file(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    """The signal comes at the stage's third batch or evaluation."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run, left = made(tmp_path), [3]
    work = getattr(run, stage)

    def signalled(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def count(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), number)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, count)

    def disturbed(*args: Any) -> Any:
        signalled(clipq.search, "layer_bits") if stage == "_search" else signalled(clipq.training, "to_device")
        return work(*args)

    monkeypatch.setattr(run, stage, disturbed)
    with pytest.raises(Interrupted, match="the search stopped after" if stage == "_search" else "the training stopped"):
        run()
    monkeypatch.undo()
    use_small_data(monkeypatch)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert left[0] == 0
    made(tmp_path, resume=True)()
    assert (tmp_path / "net.clipq").read_bytes() == (finished[0] / "net.clipq").read_bytes()


def test_a_folder_in_use_is_not_taken(finished: Finished) -> None:
    with pytest.raises(ExperimentError, match="holds a run already; continue it with --resume"):
        made(finished[0])


def test_a_changed_configuration_is_refused_and_nothing_is_lost(finished: Finished) -> None:
    folder, _ = finished
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CheckpointError, match=r"config\.toml: the run was started with another configuration"):
        made(folder, resume=True, train__epochs="3")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_data_set_that_changed_is_refused(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    use_small_data(monkeypatch, sample=2)
    with pytest.raises(CheckpointError, match=r"dense\.ckpt: belongs to another run, with another data set"):
        made(folder, resume=True)()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_starting_weights_that_changed_are_refused(tmp_path: Path) -> None:
    weights, options = tmp_path / "start.pt", {"network__weights": str(tmp_path / "start.pt"), "train__epochs": "0"}
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = build_network("digits_net", n_classes=10, input_shape=(1, 8, 8))
        torch.save(network.state_dict(), weights)
        if seed == 0:
            report = made(tmp_path / "run", **options)()
            assert report["history"]["dense"] == {"steps": [], "epochs": []}
    with pytest.raises(CheckpointError, match=r"search\.jsonl: belongs to another run, with another file of starting"):
        made(tmp_path / "run", resume=True, **options)()


def test_starting_weights_of_few_magnitudes_give_a_warning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("digits_net", n_classes=10, input_shape=(1, 8, 8))
    state = {name: value.sign() * value.abs().mean() for name, value in network.state_dict().items()}
    torch.save(state, tmp_path / "start.pt")
    with pytest.warns(UserWarning, match=r"as few magnitudes as in a compressed network"):
        made(tmp_path / "run", network__weights=str(tmp_path / "start.pt"), train__epochs="0", search__mode="uniform")()


def test_a_mean_image_that_changed_is_refused(tmp_path: Path) -> None:
    mean, options = tmp_path / "mean.binaryproto", {"data__images__mean_file": str(tmp_path / "mean.binaryproto")}
    mean.write_bytes(b"one")
    made(tmp_path / "run", train__epochs="0", **options)()
    mean.write_bytes(b"two")
    with pytest.raises(CheckpointError, match=r"dense\.ckpt: belongs to another run, with another mean image"):
        made(tmp_path / "run", resume=True, train__epochs="0", **options)()


def test_a_run_goes_on_with_as_many_threads_as_before(tmp_path: Path) -> None:
    """Unless the configuration says how many."""
    threads, options = torch.get_num_threads(), {"run__threads": "0", "train__epochs": "0"}
    made(tmp_path, **options)()
    expected = (tmp_path / "net.clipq").read_bytes()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(
            CheckpointError,
            match=rf"number of threads as OMP_NUM_THREADS sets it \({threads} there, {threads + 1} here\); use what",
        ):
            made(tmp_path, resume=True, **options)()
    finally:
        torch.set_num_threads(threads)
    made(tmp_path, resume=True, **options)()
    assert (tmp_path / "net.clipq").read_bytes() == expected


def test_threads_that_the_configuration_names_are_no_reason_to_refuse(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        made(tmp_path, run__threads="1", train__epochs="0")()
        torch.set_num_threads(threads + 1)
        made(tmp_path, resume=True, run__threads="1", train__epochs="0")()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_damaged_checkpoint_is_named_and_its_stage_can_be_redone(finished: Finished, tmp_path: Path) -> None:
    expected = (finished[0] / "net.clipq").read_bytes()
    for name in os.listdir(finished[0]):
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    for name in ("dense.ckpt", "train.ckpt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5])
        with pytest.raises(CheckpointError, match=f"{name}: is damaged.*delete it to redo its stage"):
            made(tmp_path, resume=True)()
        (tmp_path / name).unlink()
    (tmp_path / "net.clipq").unlink()
    made(tmp_path, resume=True)()
    assert (tmp_path / "net.clipq").read_bytes() == expected


@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(
    finished: Finished, tmp_path: Path, limit: int
) -> None:
    """No file may exceed ``limit`` bytes: the configuration does not fit, or no checkpoint does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"(config\.toml|dense\.ckpt): cannot be written: File too large"):
            made(tmp_path)()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    made(tmp_path, resume=True)()
    assert (tmp_path / "net.clipq").read_bytes() == (finished[0] / "net.clipq").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_only_the_named_layers_are_compressed(finished: Finished, tmp_path: Path) -> None:
    report = made(tmp_path / "a", layers__include="ip*", layers__exclude="ip2", search__mode="uniform")()
    assert [(row["name"], row["p"], row["b"]) for row in report["layers"]] == [("ip1.weight", 0.9, 4)]
    assert report["search"] == []
    assert not (tmp_path / "a" / "search.jsonl").exists()
    net = decode_sparse_quantized_net_v2(tmp_path / "a" / "net.clipq")
    assert "ip2.weight" in net.tensors
    with pytest.raises(ModelError, match="'fc6' matches nothing"):
        made(tmp_path / "b", layers__include="fc6")()


def test_given_settings_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"search.mode": "given", "search.given.conv1": "[0.25, 5]", "search.p": "0.5", "search.b": "3"}
    report = made(tmp_path, **{key.replace(".", "__"): value for key, value in given.items()})()
    assert [(row["p"], row["b"]) for row in report["layers"]] == [(0.25, 5)] + [(0.5, 3)] * (len(report["layers"]) - 1)
    assert capsys.readouterr() == ("", ""), "progress is not shown"


def test_the_test_images_are_not_seen_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Watched(TensorDataset):
        def loader(self, split: Any, batch_size: int, **options: Any) -> Any:
            asked.append(split)
            return super().loader(split, batch_size, **options)

    plain = digits()
    watched: Dataset = Watched(plain.name, plain.train, plain.val, plain.test, plain.n_classes, plain.sha256)
    monkeypatch.setattr(clipq.run, "load_dataset", lambda *_: watched)
    run, encoded = made(tmp_path), []
    encode: Callable[[Any], Any] = run._encode
    monkeypatch.setattr(run, "_encode", lambda net: encoded.extend(asked) or encode(net))
    run()
    assert "test" not in encoded
    assert encoded.count("train") == 4
    assert encoded.count("val") == 4 + 2  # each epoch's; the dense and the compressed network's
    assert asked.count("test") == 3


def test_lambda_falls_until_the_held_out_error_is_accepted(tmp_path: Path) -> None:
    options = {"selection__attempts": "3", "selection__factor": "4", "search__lambda_": "8"}
    report = made(tmp_path / "strict", selection__error="0", **options)()
    assert all((tmp_path / "strict" / name).is_file() for name in files(report)) and "search-2.jsonl" in files(report)
    strict = report["selection"]
    assert [x["lambda"] for x in strict["tried"]] == [8, 2, 0.5]
    errors = [x["val_error"] for x in strict["tried"]]
    assert strict["lambda"] == (8, 2, 0.5)[errors.index(min(errors))]
    at_once = made(tmp_path / "at once", selection__error="1", **options)()
    assert at_once["selection"] == {"lambda": 8, "accepted": 1, "tried": strict["tried"][:1]}
    second = made(tmp_path / "second", selection__error=str(errors[1]), **options)()["selection"]
    assert second["tried"] == strict["tried"][: 1 if errors[0] <= errors[1] else 2]


def test_the_dense_networks_error_is_accepted_without_another(tmp_path: Path) -> None:
    report = made(tmp_path, selection__attempts="2")()
    assert report["selection"]["accepted"] == report["error"]["dense_val"]
    chosen = {x["lambda"]: x["val_error"] for x in report["selection"]["tried"]}[report["selection"]["lambda"]]
    assert report["error"]["compressed_val"] == chosen


def test_chance_is_allowed_for(tmp_path: Path) -> None:
    """30 images are held out: the standard error of 1/5 is the root of 4/25/30."""
    report = made(tmp_path, selection__error="0.2", selection__tolerance="1.5")()
    assert report["selection"]["accepted"] == pytest.approx(0.2 + 1.5 * (4 / 25 / 30) ** 0.5)
    with pytest.raises(SettingError, match="tolerance: expected >= 0, got -1"):
        SelectionConfig(tolerance=-1)


def test_units_that_do_nothing_leave_the_file_and_the_model(tmp_path: Path) -> None:
    """The same training; the network that is measured, in the file and in the report is the folded one."""
    options = {"search__mode": "uniform", "search__p": "0.97", "search__b": "2", "encode__coder": "best"}
    whole = made(tmp_path / "keep", **options)()
    report = made(tmp_path / "fold", encode__dead_units="fold", encode__tensors="bfloat16", **options)()
    kept, folded = (decode_sparse_quantized_net_v2(tmp_path / name / "net.clipq") for name in ("keep", "fold"))
    assert sum(x["kept"] for x in report["layers"]) == sum(layer.n_kept for layer in folded.layers)
    assert sum(layer.n_kept for layer in folded.layers) < sum(layer.n_kept for layer in kept.layers)
    assert report["size"]["file"] < whole["size"]["file"]
    assert report["error"]["decoded_test"] == report["error"]["compressed_test"]
    for table, layer in zip(report["histograms"], folded.layers, strict=True):
        assert table["after"]["levels"] == layer.levels.tolist()
        assert table["after"]["level_counts"] == np.bincount(layer.codes.reshape(-1), minlength=4)[1:].tolist()
    x = digits().test.x
    outputs = []
    for net in (kept, folded):
        model = build_network("digits_net", n_classes=10, input_shape=(1, 8, 8)).eval()
        model.load_state_dict(net.state_dict())
        outputs.append(model(x))
    torch.testing.assert_close(*outputs, rtol=0, atol=0.05)


def test_a_search_of_several_lambdas_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"selection__attempts": "2", "selection__error": "0"}
    undisturbed = made(tmp_path / "whole", **options)()
    run = made(tmp_path / "stopped", **options)
    attempt = run._attempt

    def stop_at_the_second(number: int, *args: Any) -> Any:
        if number == 1:
            raise Interrupted("enough")
        return attempt(number, *args)

    monkeypatch.setattr(run, "_attempt", stop_at_the_second)
    with pytest.raises(Interrupted):
        run()
    resumed = made(tmp_path / "stopped", resume=True, **options)()
    assert resumed["selection"] == undisturbed["selection"]
    assert (tmp_path / "stopped/net.clipq").read_bytes() == (tmp_path / "whole/net.clipq").read_bytes()


def test_what_an_attempt_left_is_not_taken_for_anothers(tmp_path: Path) -> None:
    options = {"selection__attempts": "2", "selection__error": "0"}
    made(tmp_path, **options)()
    for first, second in (("train.ckpt", "train-1.ckpt"), ("search.jsonl", "search-1.jsonl")):
        one, two = (tmp_path / first).read_bytes(), (tmp_path / second).read_bytes()
        (tmp_path / first).write_bytes(two)
        with pytest.raises(
            CheckpointError, match=rf"{first}: belongs to another run, with another attempt .* and lambda"
        ):
            made(tmp_path, resume=True, **options)()
        (tmp_path / first).write_bytes(one)


def test_a_training_with_another_choice_of_p_and_b_is_not_taken_up(tmp_path: Path) -> None:
    options = {"search__mode": "random", "search__lambda_": "1"}
    made(tmp_path, **options)()
    first, *records = (tmp_path / "search.jsonl").read_text().splitlines()
    worse = []
    for record in map(json.loads, records):
        eps = 1.0 - record["eps"]
        worse.append(json.dumps({**record, "eps": eps, "value": eps - record["saving"]}))
    (tmp_path / "search.jsonl").write_text("\n".join([first, *worse, ""]))
    with pytest.raises(CheckpointError, match=r"train\.ckpt: .* with another choice of p and b; .*delete the file"):
        made(tmp_path, resume=True, **options)()


@pytest.mark.parametrize("option", ["attempts=0", "factor=1.0", "error=1.5", "error=-0.1"])
def test_selections_that_make_no_sense_are_refused(option: str) -> None:
    key, value = option.split("=")
    with pytest.raises(ExperimentError, match=f"selection option {key}: expected"):
        load_experiment("digits", {f"selection.{key}": value})


def test_lambda_plays_no_part_where_nothing_is_searched(tmp_path: Path) -> None:
    report = made(tmp_path, search__mode="uniform", selection__attempts="3", selection__error="0")()
    assert len(report["selection"]["tried"]) == 1


def test_an_unusable_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"run\.device: 'quantum' cannot be used"):
        made(tmp_path, run__device="quantum")


def test_mixed_precision_is_refused_where_there_is_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"run\.amp: mixed precision needs a GPU; expected false on cpu, got true"
    ):
        made(tmp_path, run__amp="true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layers__include": "nothing"}, "nothing"),
        ({"search__mode": "given", "search__given.nolayer": "[0.5, 4]"}, "no such layer: nolayer"),
    ],
)
def test_layers_that_are_not_there_are_refused_before_the_training(
    overrides: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        made(tmp_path / "run", **overrides)
    assert not (tmp_path / "run").exists()


def test_histograms_are_of_all_full_precision_weights_and_their_levels(finished: Finished) -> None:
    folder, report = finished
    net = decode_sparse_quantized_net_v2(folder / "net.clipq")
    for table, row, layer in zip(report["histograms"], report["layers"], net.layers, strict=True):
        assert table["layer"] == row["name"]
        for part in ("before", "after"):
            assert sum(table[part]["counts"]) == row["weights"]
        assert table["after"]["levels"] == layer.levels.tolist()
        assert sum(table["after"]["level_counts"]) == np.count_nonzero(layer.codes)
        assert table["after"]["levels"] != table["before"]["levels"]


def test_of_a_deep_network_the_largest_layers_have_histograms() -> None:
    """As many as the figure shows, and the same ones, in the network's order."""
    model = torch.nn.Sequential(*(torch.nn.Conv1d(1, 1 + i % 20, 3) for i in range(30)))
    layers = compressible_layers(model)
    settings = {layer.name: LayerSetting(0.5, 3) for layer in layers}
    trained = ws_train(model, layers, settings, lambda epoch: [], TrainConfig(epochs=0))
    found = histograms(layers, trained, settings, Conventions())
    assert [table["layer"] for table in found] == [f"{i}.weight" for i in (*range(9, 20), 29)]
