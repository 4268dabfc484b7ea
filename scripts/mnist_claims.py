"""The paper's claims on MNIST's LeNets, tested: ``python scripts/mnist_claims.py``.

* Pruning and quantization in parallel with the fine-tuning, against one after the other (prune, fine-tune, quantize,
  fine-tune), with the same (p, b) and as many epochs; between them in parallel with the mask of the first step kept.
* Recoverable pruning: how many weights come back, and when.
* The search, against random candidates and the same (p, b) everywhere; each with settings from mild to severe, so that
  error stands against bytes.

All start from the same dense networks, one a seed, and use the training images alone until the last measurement.
Finished parts are not repeated, and those that diverge are told.  Writes results/claims/<network>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.atomic_file import write_text
from clipq.data import Dataset, load_dataset
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.experiment import Experiment, load_experiment
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.networks import build_network
from clipq.pretrained import load_weights
from clipq.provenance import provenance, without_folders
from clipq.quantized_net import LayerSetting
from clipq.train_config import TrainConfig
from clipq.train_state import seed_everything
from clipq.training import TrainingError, fit, top1_error
from clipq.ws_learn_one_layer import ws_learn_one_layer
from clipq.ws_train import ws_train
from scripts.argument_types import at_least
from scripts.mnist_runs import add_common_options, dense_network, exit_code, run_once

RESULTS = Path(__file__).resolve().parent.parent / "results" / "claims"
LAMBDAS = (10.0, 30.0, 100.0, 300.0, 1000.0)
UNIFORM = (0.9, 0.94, 0.96, 0.98, 0.99)
UNIFORM_BITS = 3
BATCH_SIZE = 256  # there are many runs, and few epochs of large batches tell them apart
WITHOUT = {"selection.attempts": "1", "distillation.weight": "0"}  # what hides the differences
FOR_ORDERS = ("bayesopt", 100.0)  # the search whose (p, b) all orders take
ORDERS = ("in parallel", "in parallel, mask kept", "one after the other")


@dataclass(frozen=True)
class Start:
    """What the orders share: experiment, data, the dense network's file and each layer's (p, b)."""

    experiment: Experiment
    data: Dataset
    weights: Path
    settings: Mapping[str, LayerSetting]
    seed: int

    def network(self) -> tuple[nn.Module, list[CompressibleLayer]]:
        seed_everything(self.seed)
        name = self.experiment.network.name
        model = build_network(name, n_classes=self.data.n_classes, input_shape=self.data.input_shape)
        load_weights(model, str(self.weights))
        return model, compressible_layers(model)

    def training(self, config: TrainConfig, first_epoch: int = 0) -> dict[str, Any]:
        """Arguments of a training whose epochs count from ``first_epoch``."""
        return {
            "epochs": lambda epoch: self.data.loader(
                "train", config.batch_size, train=True, seed=self.seed, epoch=first_epoch + epoch
            ),
            "config": config,
            "seed": self.seed,
        }

    def error(self, model: nn.Module, split: Any) -> float:
        return top1_error(model, self.data.loader(split, self.data.evaluation_batch))


def keep_mask(layers: list[CompressibleLayer], settings: Mapping[str, LayerSetting]) -> None:
    """Prunes for good: the weights become zero, and so do all their gradients to come."""
    for layer in layers:
        theta = settings[layer.name]
        mask = (ws_learn_one_layer(layer.weight, theta.p, theta.b).codes > 0).to(layer.weight.dtype)
        with torch.no_grad():
            layer.weight.mul_(mask)
        layer.weight.register_hook(mask.mul)


def measure_order(order: str, start: Start) -> dict[str, Any]:
    """Error and bytes of one order; of the paper's, how many weights came back after each epoch."""
    model, layers = start.network()
    config, conventions, settings = start.experiment.train, start.experiment.conventions, start.settings
    began = time.monotonic()
    first, came_back = 0, Recovery(layers, settings)
    if order != "in parallel":
        keep_mask(layers, settings)
        # What is zero stays pruned without a rate; the axis is split from the smallest kept weight on.
        settings = {name: LayerSetting(0.0, theta.b) for name, theta in settings.items()}
        conventions = replace(conventions, clip_value="first_kept")
    if order == "one after the other":
        first = config.epochs // 2
        fit(model, **start.training(replace(config, epochs=first)))
        config = replace(config, epochs=config.epochs - first)

    def validate(network: nn.Module) -> float:
        came_back.look()
        return start.error(network, "val")

    trained = ws_train(
        model, layers, settings, conventions=conventions, validate=validate, **start.training(config, first)
    )
    row: dict[str, Any] = {
        "order": order,
        "seed": start.seed,
        "val_error": start.error(model, "val"),
        "test_error": start.error(model, "test"),
        "kept": sum(layer.n_kept for layer in trained.net.layers),
        "bytes": len(encode_sparse_quantized_net_v2(trained.net, "best").to_bytes()),
        "seconds": round(time.monotonic() - began, 1),
        "commit": provenance(start.seed)["commit"],
    }
    if order == "in parallel":
        row["recovery"] = came_back.epochs
    return row


class Recovery:
    """Follows the weights that the first step prunes.

    epochs: for each, the shares of the weights kept then that the first step pruned (``came_back``) and that the epoch
        before did not keep (``new``).
    """

    def __init__(self, layers: list[CompressibleLayer], settings: Mapping[str, LayerSetting]) -> None:
        self._layers = layers
        self._first = [
            ws_learn_one_layer(x.weight, settings[x.name].p, settings[x.name].b).codes.flatten() > 0 for x in layers
        ]
        self._last = self._first
        self.epochs: list[dict[str, float]] = []

    @torch.no_grad()
    def look(self) -> None:
        """Takes note of the mask that the forward pass has now."""
        now = []
        for layer in self._layers:
            module, attribute = layer.owners[0]
            now.append(getattr(module, attribute).flatten() != 0)
        kept = sum(int(mask.sum()) for mask in now)

        def share(before: list[torch.Tensor]) -> float:
            return sum(int((mask & ~old).sum()) for mask, old in zip(now, before, strict=True)) / max(kept, 1)

        self.epochs.append({"came_back": round(share(self._first), 5), "new": round(share(self._last), 5)})
        self._last = now


def searches() -> Iterator[tuple[str, float, dict[str, str]]]:
    """How (p, b) are found, how severe, and the overrides that say so."""
    for value in LAMBDAS:
        for mode in ("bayesopt", "random"):
            yield mode, value, {"search.mode": mode, "search.lambda_": str(value)}
    for p in UNIFORM:
        yield "uniform", p, {"search.mode": "uniform", "search.p": str(p), "search.b": str(UNIFORM_BITS)}


def measure_search(
    network: str, seed: int, overrides: Mapping[str, str], runs: Path, which: tuple[str, float, dict[str, str]]
) -> dict[str, Any]:
    mode, severity, of_search = which
    name = f"{network}-{mode}-{severity:g}-{seed}"
    report = run_once(f"mnist_{network}_small", {**overrides, **of_search}, runs / name, runs / f"{name}.json")
    return {
        "search": mode, "severity": severity, "seed": seed, "val_error": report["error"]["compressed_val"],
        "test_error": report["error"]["decoded_test"], "bytes": report["size"]["file"],
        "seconds": report["provenance"]["seconds"], "commit": report["provenance"]["commit"],
        "layers": [[x["name"], x["p"], x["b"]] for x in report["layers"]],
    }  # fmt: skip


def claims(
    network: str, seed: int, all_searches: bool, options: argparse.Namespace
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part's rows, one after another: ("orders" | "searches", row), or ("diverged", what did)."""
    common = {"data.data_dir": options.data_dir, "run.threads": str(options.threads)}
    weights = dense_network(f"mnist_{network}_small", seed, options.runs, common).resolve()
    overrides = {**common, "run.seed": str(seed), "network.weights": str(weights)}
    overrides |= {"train.epochs": str(options.epochs), "train.batch_size": str(BATCH_SIZE)} | WITHOUT
    found: dict[str, LayerSetting] = {}
    for which in searches():
        if not all_searches and which[:2] != FOR_ORDERS:
            continue
        try:
            row = measure_search(network, seed, overrides, options.runs, which)
        except TrainingError as error:
            yield "diverged", {"search": which[0], "severity": which[1], "seed": seed, "error": str(error)}
            continue
        if all_searches:
            yield "searches", row
        if which[:2] == FOR_ORDERS:
            found = {name: LayerSetting(p, b) for name, p, b in row["layers"]}
    if not found:
        return
    experiment = load_experiment(f"mnist_{network}_small", overrides)
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_dataset("mnist", options.data_dir or None, shift=experiment.data.shift)
    for order in ORDERS:
        kept = options.runs / f"{network}-{order.replace(' ', '_').replace(',', '')}-{seed}.json"
        if not kept.is_file():
            try:
                row = measure_order(order, Start(experiment, data, weights, found, seed))
            except TrainingError as error:
                yield "diverged", {"order": order, "seed": seed, "error": str(error)}
                continue
            write_text(kept, json.dumps(row))
        yield "orders", json.loads(kept.read_text("utf-8"))


def measure(network: str, options: argparse.Namespace) -> None:
    """All of one network; what is there after each seed is kept."""
    rows: dict[str, list[dict[str, Any]]] = {"orders": [], "searches": [], "dense": [], "diverged": []}
    origin = without_folders(provenance(0))
    for i, seed in enumerate(options.seeds):
        for part, row in claims(network, seed, i < options.search_seeds, options):
            rows[part].append(row)
            print(f"{network}, seed {seed}, {row}"[:200], flush=True)
        if (report := options.runs / f"{network}-bayesopt-100-{seed}.json").is_file():
            dense = json.loads(report.read_text("utf-8"))["error"]
            rows["dense"].append({"seed": seed, "val_error": dense["dense_val"], "test_error": dense["dense_test"]})
        kept = {
            "network": network, "epochs": options.epochs, "batch_size": BATCH_SIZE, "uniform_bits": UNIFORM_BITS,
            "seconds": round(sum(row["seconds"] for part in ("orders", "searches") for row in rows[part]), 1),
            **rows, "provenance": origin,
        }  # fmt: skip
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / f"{network}.json", json.dumps(kept, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, RESULTS / "runs")
    parser.add_argument("--epochs", type=at_least(1), default=20, help="of every fine-tuning")
    parser.add_argument(
        "--search-seeds",
        type=at_least(0),
        default=sys.maxsize,
        help="of so many of the seeds searches are compared, too",
    )
    options = parser.parse_args(argv)

    def work() -> None:
        for network in options.networks:
            measure(network, options)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
