"""Two processes that torchrun starts, against one and against each other."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes

from clipq import distributed
from clipq.data import load_dataset
from clipq.data.dataset import TensorBatches
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.errors import CheckpointError
from clipq.experiment import load_experiment
from clipq.networks import build_network
from clipq.run import Run
from clipq.training import top1_error

ROOT = Path(__file__).parent.parent
#: Between the weights of two processes and of one; the sums of the gradients are rounded in another order.
TOLERANCE = {"float64": 1e-14, "float32": 1e-6}


def torchrun(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine; ``--`` keeps torchrun from taking the script's options for its own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launch, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes had in the end."""
    folder = tmp_path_factory.mktemp("processes")
    torchrun(ROOT / "tests" / "two_processes.py", folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_both_have_the_same_bits_and_the_same_codes_at_every_step(outcomes: list[dict[str, Any]], dtype: str) -> None:
    first, second = (outcome[dtype] for outcome in outcomes)
    assert len(first["codes"]) == 12
    assert len(set(first["codes"])) > 6
    assert first["codes"] == second["codes"]
    assert equal(first["weights"], second["weights"])
    assert equal(first["net"], second["net"])
    assert first["history"] == second["history"]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_two_processes_give_the_weights_of_one(outcomes: list[dict[str, Any]], dtype: str) -> None:
    """The same global batches, of odd numbers of samples and of one."""
    one, two = two_processes.clip_q(getattr(torch, dtype)), outcomes[0][dtype]
    for part in ("weights", "net"):
        assert list(two[part]) == list(one[part])
        for name, tensor in one[part].items():
            assert torch.allclose(two[part][name], tensor, rtol=0, atol=TOLERANCE[dtype]), name
    assert two["codes"] == one["codes"]
    for a, b in zip(two["history"], one["history"], strict=True):
        assert a == pytest.approx(b, rel=TOLERANCE[dtype])


def test_validation_reads_a_part_of_each_batch_and_gives_the_error_of_one_process(
    outcomes: list[dict[str, Any]],
) -> None:
    error = two_processes.validated(TensorBatches)
    assert 0 < error < 1
    assert [outcome["validated"] for outcome in outcomes] == [error, error]


def test_running_statistics_and_dropout_leave_both_the_same(outcomes: list[dict[str, Any]]) -> None:
    assert equal(outcomes[0]["restless"], outcomes[1]["restless"])
    assert not equal(outcomes[0]["restless"], two_processes.restless_network().state_dict())


def test_if_one_is_asked_to_stop_all_do_and_go_on_as_if_nothing_was(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        assert equal(outcome["resumed"], outcomes[0]["restless"])


def test_a_state_is_saved_when_it_is_due_for_the_process_that_saves(outcomes: list[dict[str, Any]]) -> None:
    assert [outcome["saves"] for outcome in outcomes] == [two_processes.CONFIG.epochs, 0], "at the epochs' ends"


def test_shares_of_a_batch(outcomes: list[dict[str, Any]]) -> None:
    for rank, expected in enumerate(
        [[(0, 5, 1.0), (0, 2, 0.8), (0, 1, 0.0)], [(5, 10, 1.0), (2, 5, 1.2), (0, 1, 2.0)]]
    ):
        for (batch, weight), (start, stop, expected_weight) in zip(outcomes[rank]["shares"], expected, strict=True):
            samples = torch.arange(float(start), float(stop))
            assert torch.equal(batch["x"], samples)
            assert torch.equal(batch["more"][0], samples[:, None])
            assert batch["more"][1] == 7
            assert batch["names"] == [str(i) for i in range(start, stop)]
            assert batch["array"].tolist() == samples.tolist()
            assert weight == pytest.approx(expected_weight)


def test_what_processes_tell_each_other(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        assert outcome["total"] == [2.0, 5.0]
        assert outcome["any"] == [True, False]
        assert outcome["gathered"] == [0, 1]
        assert outcome["from the writer"] == ["rank", 0]


def test_a_network_is_compressed_from_python_by_both_together(outcomes: list[dict[str, Any]]) -> None:
    """They share each batch of a loader that shuffles; the first one's search and metric count."""
    first, second = (outcome["from Python"] for outcome in outcomes)
    epochs = [torch.tensor(x["seen"]).chunk(two_processes.CONFIG.epochs) for x in (first, second)]
    for halves in zip(*epochs, strict=True):
        assert sorted(torch.cat(halves).tolist()) == list(range(two_processes.N))
    assert equal(first["net"], second["net"])
    assert first["history"] == second["history"]
    assert [record["val_error"] for record in first["history"]] == [0.3, 0.1, 0.5]
    assert first["eps"] == second["eps"] == 0
    one = two_processes.from_python()
    for a, b in zip(first["history"], one["history"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for outcome in outcomes:
        for kind in ("own samples", "own batches"):
            assert outcome[kind].startswith("DataError: loader: expected the same batches in every process")


def test_loaders_draw_alike_and_networks_do_not(outcomes: list[dict[str, Any]]) -> None:
    (first, of_first), (second, of_second) = (outcome["drawn"] for outcome in outcomes)
    assert len(first) == two_processes.CONFIG.epochs * two_processes.N == len(set(first))
    assert first == second
    assert not set(of_first) & set(of_second)


def test_what_a_step_does_not_use_hinders_nobody(outcomes: list[dict[str, Any]]) -> None:
    first, second = (outcome["spared"] for outcome in outcomes)
    assert equal(first, second)
    for name, tensor in two_processes.spared().items():
        assert torch.allclose(first[name], tensor, rtol=0, atol=TOLERANCE["float32"]), name


def test_errors_end_both(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        assert outcome["drifted"].startswith("DistributedError: epoch 1: sha256 of the weights: expected the same on")
        assert outcome["another seed"].startswith(
            "DistributedError: sha256 of the configuration: expected the same on all 2 processes, got by rank: "
        )
        assert outcome["uneven"].startswith("DataError: a batch to be shared: expected tensors with an entry a sample")
        assert outcome["overflowing"].startswith("TrainingError: epoch 0, step 0: expected a finite loss")
        assert outcome["overflowing"].endswith("the output of 2")
        assert outcome["stopped writer"] == "Interrupted: by a signal"
    assert outcomes[0]["failing writer"] == "ModelError: of the writer"
    assert outcomes[1]["failing writer"] == "DistributedError: process 0 has failed: ModelError: of the writer"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run that the command did under torchrun, and what it said."""
    results = tmp_path_factory.mktemp("results")
    options = [
        "train.epochs=2", "dense.epochs=2", "search.evaluations=2", "search.subset=100", "run.threads=1",
        "--results", results, "--run", "two", "--quiet",
    ]  # fmt: skip
    said = torchrun(ROOT / "scripts" / "ws_train.py", *options).stdout
    return results / "digits" / "two", said


def test_the_command_under_torchrun(trained: tuple[Path, str]) -> None:
    """One writes, speaks and searches; the file is that of the network that both trained."""
    folder, said = trained
    assert said.count("times smaller") == 1
    report = json.loads((folder / "report.json").read_text())
    assert report["provenance"]["processes"] == 2
    assert len((folder / "search.jsonl").read_text().splitlines()) == 1 + 2 * len(report["layers"])
    assert (folder / "report.md").exists()
    assert not list(folder.glob(".*"))
    data = load_dataset("digits")
    model = build_network("digits_net", n_classes=data.n_classes, input_shape=data.input_shape)
    model.load_state_dict(decode_sparse_quantized_net_v2(folder / "net.clipq").state_dict())
    assert top1_error(model, data.loader("val", 100)) == report["error"]["compressed_val"]
    best = min(record["val_error"] for record in report["history"]["train"]["epochs"])
    assert best == pytest.approx(report["error"]["compressed_val"])


def test_one_process_does_not_go_on_with_what_two_began(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    run = Run(load_experiment(folder / "config.toml"), folder, resume=True, show=False)
    with pytest.raises(CheckpointError, match=r"dense\.ckpt: .* another number of processes \(2 there, 1 here\);"):
        run()


def test_one_process_alone_needs_nothing() -> None:
    distributed.connect()
    batch = (torch.zeros(3), {"more": [1]})
    assert (distributed.world_size(), distributed.rank(), distributed.is_writer()) == (1, 0, True)
    assert distributed.share(batch) == (batch, 1.0)
    assert distributed.total([1.5]) == [1.5]
    assert distributed.any_rank(True, False) == [True, False]
    assert distributed.on_writer(lambda: 3) == distributed.writer_first(lambda: 3) == 3
    module = torch.nn.Linear(1, 1)
    assert distributed.replicated(module) is module
