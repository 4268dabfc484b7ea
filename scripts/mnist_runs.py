"""Runs on MNIST that share their dense networks, and what is kept of their reports."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from clipq.atomic_file import write_text
from clipq.checkpoint import CheckpointFile
from clipq.data import load_dataset
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import ClipqError
from clipq.experiment import load_experiment
from clipq.networks import build_network
from clipq.pretrained import load_weights
from clipq.progress import ProgressBars
from clipq.provenance import without_folders
from clipq.run import Run
from clipq.train_state import seed_everything
from clipq.training import fit, top1_error
from scripts.argument_types import at_least

NETWORKS = ("lenet300100", "lenet5")
KEPT = (
    "provenance", "experiment", "config", "network", "data", "error", "size", "layers", "selection", "seconds",
)  # fmt: skip


def dense_network(name: str, seed: int, folder: Path, overrides: Mapping[str, str]) -> Path:
    """The dense network of the experiment ``name`` with this seed: a file of its state dict in ``folder``, trained once
    for all experiments that say the same of it."""
    experiment = load_experiment(name, {**overrides, "run.seed": str(seed)})
    network, shift = experiment.network.name, experiment.data.shift
    says = hashlib.sha256(f"{experiment.dense}, shift {shift}".encode()).hexdigest()
    path = folder / f"{network}-dense-{says[:6]}-{seed}.pt"
    if path.is_file():
        return path
    if experiment.run.threads:
        torch.set_num_threads(experiment.run.threads)
    data = load_dataset("mnist", experiment.data.data_dir or None, shift=shift)
    seed_everything(seed)
    model = build_network(network, n_classes=data.n_classes, input_shape=data.input_shape)
    folder.mkdir(parents=True, exist_ok=True)
    depends_on = {"data set": data.sha256, "dense": says}
    fit(
        model,
        lambda epoch: data.loader("train", experiment.dense.batch_size, train=True, seed=seed, epoch=epoch),
        experiment.dense,
        validate=lambda m: top1_error(m, data.loader("val", data.evaluation_batch)),
        seed=seed,
        checkpoints=CheckpointFile(path.with_suffix(".ckpt"), depends_on),
        progress=ProgressBars(f"{network}, dense, seed {seed}"),
    )
    partial = path.with_suffix(".partial")
    torch.save(model.state_dict(), partial)
    partial.replace(path)
    return path


def held_out_error(network: str, weights: Path, data_dir: str) -> float:
    """Of trained ``weights``, in [0, 1]."""
    data = load_dataset("mnist", data_dir or None)
    model = build_network(network, n_classes=data.n_classes, input_shape=data.input_shape)
    load_weights(model, str(weights))
    return top1_error(model, data.loader("val", data.evaluation_batch))


def run_once(experiment: str, overrides: Mapping[str, str], folder: Path, kept: Path) -> dict[str, Any]:
    """What is kept of a run's report, in ``kept``; a run that is complete is not repeated, one that was killed goes on.

    ``size.best`` is the file's size with the smallest coder for each layer, whatever coder the run used.
    """
    run = Run(load_experiment(experiment, overrides), folder, resume=True)
    report = json.loads(run.files.report.read_text("utf-8")) if run.files.report.is_file() else run()
    short = {key: report[key] for key in KEPT}
    net = decode_sparse_quantized_net_v2(run.files.clipq)
    short["size"]["best"] = len(encode_sparse_quantized_net_v2(net, "best").to_bytes())
    short["history"] = [
        {k: round(v, 5) for k, v in epoch.items() if k != "seconds"} for epoch in report["history"]["train"]["epochs"]
    ]
    short["config"]["network"]["weights"] = Path(short["config"]["network"]["weights"]).name
    short["config"]["data"]["data_dir"] = ""
    short["provenance"] = without_folders(short["provenance"])
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(short, indent=1) + "\n")
    print(f"{kept.name}: {short['size']['ratio']:.1f}x, error {short['error']['decoded_test']:.2%}", flush=True)
    return short


def add_common_options(parser: argparse.ArgumentParser, runs: Path) -> None:
    """Which networks and seeds, from what data, where; ``runs``: the default folder of the runs."""
    parser.add_argument("--data-dir", default="", help="folder that holds MNIST (default: $CLIPQ_DATA, the cache)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2], help="one run of each")
    parser.add_argument("--threads", type=at_least(0), default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--runs", type=Path, default=runs, help="folder of the runs")


def exit_code(work: Callable[[], None]) -> int:
    """Does the work; errors and interruptions in a line on stderr."""
    try:
        work()
    except (ClipqError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"{stop or 'interrupted'}; the same command goes on", file=sys.stderr)
        return 130
    return 0
