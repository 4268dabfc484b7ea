"""What pruning-quantization costs: ``python scripts/benchmark.py speed``.

One large layer beside a copy of its weights, a sort, a selection and the plain version (sort each sign, search every
weight's interval, average); training steps with CLIP-Q beside dense ones and ones with the plain version; the memory
at the peak; the search.  On a GPU also ResNet-50 and AlexNet at batch 256.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from clipq import ws_learn_one_layer as learning
from clipq.atomic_file import write_text
from clipq.conventions import Conventions
from clipq.data import load_dataset
from clipq.device import find_device
from clipq.errors import ClipqError
from clipq.layers import compressible_layers
from clipq.learning import host_weights
from clipq.learning.device_weights import learn_together
from clipq.learning.host_part import Part
from clipq.networks import build_network
from clipq.provenance import provenance
from clipq.quantized_net import LayerSetting
from clipq.search import search
from clipq.search_config import SearchConfig
from clipq.subset_error import SubsetError
from clipq.weight_sharing import share_weights, straight_through
from clipq.ws_learn_one_layer import learn, ws_learn_one_layer
from scripts.argument_types import at_least
from scripts.operations import Operations

RESULTS = Path(__file__).resolve().parent.parent / "results"
LARGE_LAYER = 37_748_736  # AlexNet's fc6
SETTING = LayerSetting(0.9, 4)
IMAGES = 10_000  # on which the search measures
BLOCK = 5  # steps in a row, before another kind of step takes its turn
SLOW_REPEATS = 1  # of what takes a hundred copies
QUEUED = 10  # operations that an accelerator is given in a row
Row = dict[str, Any]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="as torch names it")
    parser.add_argument("--threads", type=at_least(0), default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--weights", type=at_least(1), default=LARGE_LAYER, help="in the large layer")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="measurements of each operation")
    parser.add_argument("--step-repeats", type=at_least(1), default=100, help="measurements of each training step")
    parser.add_argument("--data-dir", help="of MNIST, for the search; by default as the experiments find it")
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


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, printed as it comes."""
    device = find_device(arguments.device)
    report: dict[str, Any] = {"provenance": provenance(0), "device": arguments.device, "weights": arguments.weights}
    print(f"one layer of {arguments.weights:,} weights, b = 4, on {device} with {torch.get_num_threads()} threads")
    report["operation"] = operation(arguments.weights, device, arguments.repeats)
    for row in report["operation"]:
        print(f"  p = {row['p']:<5} {row['what']:<16} {row['ms']:9.2f} ms  {row['copies']:7.1f} copies")
    print("a training step with CLIP-Q over one without")
    report["training"] = []
    for network, batch, shape, repeats, amp in _networks(device, arguments.step_repeats):
        row = training_step(network, batch, shape, device, repeats, amp)
        row["operations"] = operations(network, shape)
        name = f"{network}, bfloat16" if amp else network
        print(
            f"  {name:<18} batch {batch:<4} {row['dense_ms']:7.2f} ms dense {row['clipq_ms']:7.2f} ms CLIP-Q "
            f"{row['plain_ms']:7.2f} ms plain version   ratio {row['ratio']:.3f}   "
            + (f"{row['numpy_ms']:7.2f} ms with NumPy alone   " if "numpy_ms" in row else "")
            + f"{row['operations']} operations on an accelerator without kernels"
        )
        report["training"].append(row)
    report["memory"] = memory(device)
    print(
        "memory at the peak of AlexNet's step, batch 1, in copies of its weights: "
        f"{report['memory']['dense']:.2f} dense, {report['memory']['clipq']:.2f} CLIP-Q; largest layer "
        f"{report['memory']['largest_layer']:.2f}"
    )
    report["search"] = search_time(device, arguments.data_dir)
    print(
        "search of LeNet-5, {evaluations} evaluations on {images:,} images of {data}: {seconds:.1f} s, of which "
        "evaluations {evaluation_seconds:.1f} s (the time of {passes:.0f} runs of the network), choosing the next "
        "{proposal_seconds:.1f} s".format(**report["search"])
    )
    return report


def _networks(device: torch.device, repeats: int) -> list[tuple[str, int, tuple[int, ...], int, bool]]:
    """(network, batch, shape of an input, repeats, whether in mixed precision)."""
    networks: list[tuple[str, int, tuple[int, ...], int, bool]] = [
        (network, batch, (1, 28, 28), repeats, False) for network in ("lenet300100", "lenet5") for batch in (64, 128)
    ]
    if device.type == "cuda":
        large = (("resnet50", (3, 224, 224)), ("alexnet", (3, 227, 227)))
        networks += [(network, 256, shape, 20, amp) for network, shape in large for amp in (False, True)]
    return networks


def in_turn(
    works: dict[str, Callable[[], Any]], turns: int, device: torch.device, block: int = 1, queued: int = 1
) -> dict[str, list[float]]:
    """Seconds of each work in every turn, the median of ``block`` runs in a row after one that is not measured.

    queued: works that are given to a device before it is waited for; their mean is one run.

    They take turns, so that a busy machine slows all alike: to be compared turn by turn.  In a row, as the steps of a
    training follow each other, a work finds in the caches what its last run left there.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            runs = [_seconds(work, device, queued) for _ in range(1 + block)]
            times[name].append(statistics.median(runs[1:]))
    return times


def _seconds(work: Callable[[], Any], device: torch.device, queued: int = 1) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(queued):
        work()
    _wait(device)
    return (time.perf_counter() - started) / queued


def ratio(times: list[float], reference: list[float]) -> float:
    """The median of the ratios of each turn."""
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operation(n: int, device: torch.device, repeats: int) -> list[Row]:
    """Pruning-quantization of one layer, as a multiple of a copy of its weights."""
    W = torch.randn(n, generator=torch.Generator().manual_seed(0)).mul_(0.01).to(device)
    queued, rows = 1 if device.type == "cpu" else QUEUED, []
    for p in (0.0, 0.5, 0.9, 0.97):
        works: dict[str, Callable[[], Any]] = {"copy": W.clone}
        if device.type == "cpu":
            near = ws_learn_one_layer(W, p, 4).near
            works["first step"] = partial(learn, W, LayerSetting(p, 4), name="layer")
            works["later steps"] = partial(learn, W, LayerSetting(p, 4), name="layer", near=near)
        else:
            works["each step"] = partial(learn_together, [W], [LayerSetting(p, 4)], Conventions())
        rows += _in_copies(in_turn(works, repeats, device, queued=queued), p)
    slow: dict[str, Callable[[], Any]] = {
        "copy": W.clone,
        "torch.kthvalue": lambda: torch.kthvalue(W, n // 2),
        "torch.sort": lambda: torch.sort(W),
        "plain version": lambda: plain(W, SETTING),
    }
    return rows + _in_copies(in_turn(slow, SLOW_REPEATS, device, queued=queued), SETTING.p)[1:]


def _in_copies(times: dict[str, list[float]], p: float) -> list[Row]:
    return [
        {"what": name, "p": p, "ms": 1e3 * statistics.median(own), "copies": ratio(own, times["copy"])}
        for name, own in times.items()
    ]


def plain(W: torch.Tensor, theta: LayerSetting) -> torch.Tensor:
    """The quantized weights by docs/method.md with its default readings, read plainly: one full sort for each sign."""
    x = W.detach().reshape(-1)
    quantized = torch.zeros_like(x)
    for sign, m in ((-1, 2 ** (theta.b - 1)), (1, 2 ** (theta.b - 1) - 1)):
        side = sign * x
        magnitude = side[side > 0].sort().values
        if not len(magnitude):
            continue
        k = int(np.ceil(theta.p * len(magnitude)))
        c, e = float(magnitude[k - 1]) if k else 0.0, float(magnitude[-1])
        edges = torch.as_tensor(c + (e - c) * np.arange(1, m) / m, device=x.device)
        kept = side > c
        interval = torch.bucketize(side[kept].double(), edges, right=True)
        sums = torch.bincount(interval, weights=x[kept].double(), minlength=m)
        quantized[kept] = (sums / torch.bincount(interval, minlength=m).clamp(min=1)).to(x.dtype)[interval]
    return quantized.view(W.shape)


class PlainSharing(nn.Module):
    """The plain version as a weight's parametrization."""

    def forward(self, W: torch.Tensor) -> torch.Tensor:
        return straight_through(W, plain(W, SETTING))


def training_step(
    network: str, batch: int, shape: tuple[int, ...], device: torch.device, repeats: int, amp: bool = False
) -> Row:
    """A training step with pruning-quantization over one without it, at p = 0.9 and b = 4 in every layer."""
    works = {kind: step(network, batch, shape, device, kind, amp) for kind in ("dense", "clipq", "plain")}
    if device.type == "cpu":
        works["numpy"] = without_kernels(step(network, batch, shape, device, "clipq"))
    times = in_turn(works, -(-repeats // BLOCK), device, BLOCK)
    return {
        "network": network, "batch": batch, "amp": amp,
        **{f"{kind}_ms": 1e3 * statistics.median(own) for kind, own in times.items()},
        "ratio": ratio(times["clipq"], times["dense"]),
    }  # fmt: skip


def step(
    network: str, batch: int, shape: tuple[int, ...], device: torch.device, kind: str, amp: bool = False
) -> Callable[[], torch.Tensor]:
    """One step of training: ``dense``, ``clipq``, or with the ``plain`` version; amp: in bfloat16 where that serves."""
    x, y = torch.rand(batch, *shape, device=device), torch.arange(batch, device=device) % 10
    model = build_network(network, n_classes=10, input_shape=shape).to(device)
    layers = compressible_layers(model)
    if kind == "clipq":
        share_weights(layers, {layer.name: SETTING for layer in layers})
    if kind == "plain":
        for module, attribute in (owner for layer in layers for owner in layer.owners):
            parametrize.register_parametrization(module, attribute, PlainSharing())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            output = model(x)
            loss = functional.cross_entropy(output[0] if isinstance(output, tuple) else output, y)
        loss.backward()
        optimizer.step()
        return loss

    return run


def without_kernels(work: Callable[[], Any]) -> Callable[[], Any]:
    """The work on the host with NumPy alone, as where Numba is not installed."""

    def run() -> Any:
        numpy_alone = patch.object(host_weights, "part_kind", lambda dtype: Part)
        with numpy_alone, patch.object(learning, "layer_step", lambda dtype, generally: None):
            return work()

    return run


def operations(network: str, shape: tuple[int, ...]) -> int:
    """What an accelerator starts at each step to prune and quantize the network's weights, counted without one."""
    layers = compressible_layers(build_network(network, n_classes=10, input_shape=shape))
    weights = [torch.empty(layer.weight.numel(), device="meta") for layer in layers]
    for _ in range(2):  # the first also makes what is kept
        with Operations() as count:
            learn_together(weights, [SETTING] * len(weights), Conventions())
    return count.n


def memory(device: torch.device) -> Row:
    """Bytes at the peak of AlexNet's training step, weights, gradients and momentum in, over the weights' bytes."""
    model = build_network("alexnet", n_classes=10, input_shape=(3, 227, 227))
    sizes = [layer.weight.numel() * layer.weight.element_size() for layer in compressible_layers(model)]
    del model
    row = {"largest_layer": max(sizes) / sum(sizes)}
    for kind in ("dense", "clipq"):
        before = _bytes_now(device)
        work = step("alexnet", 1, (3, 227, 227), device, kind)
        work()
        _forget_peak(device)
        work()
        row[kind] = (_peak_bytes(device) - before) / sum(sizes)
        del work
    return row


def _status(key: str) -> int:
    """A figure in bytes of Linux' /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def _bytes_now(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS:")


def _peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM:")


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def search_time(device: torch.device, data_dir: str | None) -> Row:
    """25 evaluations for each layer of a fresh LeNet-5 on MNIST's images; random ones where MNIST is not to be had."""
    try:
        name, (x, y) = "MNIST", load_dataset("mnist", data_dir).subset(IMAGES)
    except ClipqError:
        name, x, y = "random", torch.rand(IMAGES, 1, 28, 28), torch.arange(IMAGES) % 10
    torch.manual_seed(0)
    model = build_network("lenet5", n_classes=10, input_shape=(1, 28, 28)).to(device)
    batches = [(a.to(device), b.to(device)) for a, b in zip(x.split(1000), y.split(1000), strict=True)]
    error = SubsetError(batches)
    whole = statistics.median(_seconds(partial(error, model), device) for _ in range(5))
    started = time.perf_counter()
    _, evaluations = search(model, compressible_layers(model), error, SearchConfig(evaluations=25))
    seconds = time.perf_counter() - started
    evaluating = sum(e.seconds for e in evaluations)
    return {
        "data": name, "images": len(x), "evaluations": len(evaluations), "seconds": seconds,
        "evaluation_seconds": evaluating, "passes": evaluating / whole, "proposal_seconds": seconds - evaluating,
    }  # fmt: skip
