"""Ratios measured side by side in one run: ``python scripts/benchmark.py speed`` or ``codec``.

Machines differ and are shared, so nothing here is a time alone: every figure stands beside what it is compared with,
measured in turn with it, and the table names the hardware.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipq.atomic_file import write_text
from clipq.layers import compressible_layers
from clipq.networks import build_network
from clipq.provenance import provenance
from clipq.quantized_net import LayerSetting
from clipq.weight_sharing import share_weights
from clipq.ws_learn_one_layer import ws_learn_one_layer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts import benchmark_codec

RESULTS = Path(__file__).resolve().parent.parent / "results"
LARGE_LAYER = 37_748_736  # AlexNet's fc6
Row = dict[str, Any]


def in_turn(works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each work; they take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            _wait(device)
            started = time.perf_counter()
            work()
            _wait(device)
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operation(n: int, device: torch.device, repeats: int) -> list[Row]:
    """Pruning-quantization of one layer, as a multiple of a copy of its weights; beside a sort and ``kthvalue``."""
    W = torch.randn(n, generator=torch.Generator().manual_seed(0)).mul_(0.01).to(device)
    rows = []
    for p in (0.0, 0.5, 0.9, 0.97):
        learned = ws_learn_one_layer(W, p, 4)
        near = (learned.c_neg, learned.c_pos)
        works: dict[str, Callable[[], Any]] = {
            "copy": lambda: W.clone(),
            "first step": partial(ws_learn_one_layer, W, p, 4),
            "later steps": partial(ws_learn_one_layer, W, p, 4, near=near),
        }
        if p == 0.9:
            works["torch.kthvalue"] = lambda: torch.kthvalue(W, n // 2)
            works["torch.sort"] = lambda: torch.sort(W)
        seconds = in_turn(works, repeats, device)
        rows += [{"what": name, "p": p, "ms": 1e3 * s, "copies": s / seconds["copy"]} for name, s in seconds.items()]
    return rows


def training_step(network: str, batch: int, shape: tuple[int, ...], device: torch.device, repeats: int) -> Row:
    """A training step with pruning-quantization over one without it, at p = 0.9 and b = 4 in every layer."""
    x = torch.rand(batch, *shape, device=device)
    y = torch.arange(batch, device=device) % 10
    works = {}
    for name in ("dense", "CLIP-Q"):
        model = build_network(network, n_classes=10, input_shape=shape).to(device)
        if name == "CLIP-Q":
            layers = compressible_layers(model)
            shared = share_weights(layers, {layer.name: LayerSetting(0.9, 4) for layer in layers})
            assert shared.by_layer, "held while the steps are measured"
        works[name] = _step(model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9), x, y)
    seconds = in_turn(works, repeats, device)
    return {
        "network": network, "batch": batch, "dense_ms": 1e3 * seconds["dense"], "clipq_ms": 1e3 * seconds["CLIP-Q"],
        "ratio": seconds["CLIP-Q"] / seconds["dense"],
    }  # fmt: skip


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that issues from the cost of pruning-quantization, on ``--device``."""
    device = torch.device(arguments.device)
    report: dict[str, Any] = {"provenance": provenance(0), "device": arguments.device, "weights": arguments.weights}
    print(f"one layer of {arguments.weights:,} weights, b = 4, on {device} with {torch.get_num_threads()} threads")
    report["operation"] = operation(arguments.weights, device, arguments.repeats)
    for row in report["operation"]:
        print(f"  p = {row['p']:<5} {row['what']:<16} {row['ms']:9.1f} ms  {row['copies']:7.1f} copies")
    print("a training step with CLIP-Q over one without")
    report["training"] = [
        training_step(network, batch, (1, 28, 28), device, arguments.step_repeats)
        for network in ("lenet300100", "lenet5")
        for batch in (64, 128)
    ]
    for row in report["training"]:
        print(
            f"  {row['network']:<12} batch {row['batch']:<4} {row['dense_ms']:7.2f} ms dense "
            f"{row['clipq_ms']:7.2f} ms CLIP-Q   ratio {row['ratio']:.2f}"
        )
    return report


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["codec"]:
        return benchmark_codec.main(argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "codec"], help="which table; codec has options of its own")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="as torch names it")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--weights", type=int, default=LARGE_LAYER, help="in the large layer")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each operation")
    parser.add_argument("--step-repeats", type=int, default=100, help="measurements of each training step")
    parser.add_argument("--save", action="store_true", help="write results/speed/<device>.json")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report = speed(arguments)
    if arguments.save:
        path = RESULTS / "speed" / f"{torch.device(arguments.device).type}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(report, indent=1) + "\n")
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
