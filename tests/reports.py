"""A run's report with figures chosen by hand, for tests of what is drawn from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from clipq.experiment import Experiment


def example_report(n_layers: int = 3) -> dict[str, Any]:
    """Layers of 1,000 weights, a quarter kept, in 200 bytes; then 40 bytes of other tensors and 60 of directory."""
    names = [f"block{i}.weight" for i in range(n_layers)]
    file = 200 * n_layers + 100
    dense = 4 * (1000 * n_layers + 9)
    return {
        "format": 1,
        "provenance": {
            "clipq": "0.1.0", "commit": "unknown", "command": "clipq train", "seed": 0, "seconds": 12.0,
            "started": "2020-01-01T00:00:00+00:00", "python": "3.11.0", "packages": {"torch": "2.4.0"},
            "hardware": {"system": "Linux", "processor": "one", "cores": 2, "threads": 1, "gpus": []},
        },
        "experiment": "example",
        "config": asdict(Experiment()),
        "network": {"name": "example_net", "parameters": dense // 4},
        "data": {"name": "images", "sha256": "0" * 64, "train": 640, "val": 100, "test": 200},
        "error": {
            "dense_val": 0.02, "compressed_val": 0.03, "dense_test": 0.04, "compressed_test": 0.045,
            "decoded_test": 0.045,
        },
        "size": {
            "file": file, "dense": dense, "ratio": dense / file,
            "sections": {"directory": 60, **{f"layer {name}": 200 for name in names}, "tensors": 40},
        },
        "layers": [_layer(name) for name in names],
        "selection": {"lambda": 1.0, "accepted": 0.02, "tried": [{"lambda": 1.0, "val_error": 0.03}]},
        "search": [_evaluation(name, number) for name in names for number in range(4)],
        "history": {"dense": _history(3), "train": _history(2, sparsity=0.75, bits_per_weight=1.6)},
        "histograms": [{"layer": name, "before": _histogram(), "after": _histogram()} for name in names],
        "seconds": {"dense": 5.0, "search": 1.0, "train": 5.0, "encode": 0.5, "decode": 0.25, "test": 0.25},
    }  # fmt: skip


def _layer(name: str) -> dict[str, Any]:
    return {
        "name": name, "shape": [10, 100], "weights": 1000, "p": 0.75, "b": 3, "kept": 250, "coder": "fixed",
        "index_bits": 2, "fillers": 3, "bytes": 200, "ratio": 20.0,
        "parts": {"header": 3, "codebook": 28, "index": 65, "codes": 100, "padding": 0, "checksum": 4},
    }  # fmt: skip


def _evaluation(layer: str, number: int) -> dict[str, Any]:
    eps = (0.5, 0.04, 0.06, 0.04)[number]
    return {
        "layer": layer, "number": number, "p": 0.25 * number, "b": 2 + number, "eps": eps, "bits": 1600, "saving": 0.2,
        "value": eps - 0.2, "seconds": 0.01,
    }  # fmt: skip


def _history(epochs: int, **figures: float) -> dict[str, Any]:
    return {
        "steps": [{"step": 0, "lr": 0.1, "loss": 2.0, "error": 0.9, **({"sparsity": 0.75} if figures else {})}],
        "epochs": [
            {"epoch": i, "seconds": 1.0, "loss": 1 / (i + 1), "error": 0.0, "val_error": 0.02, **figures}
            for i in range(epochs)
        ],
    }


def _histogram() -> dict[str, Any]:
    return {
        "low": -1.0, "high": 1.0, "counts": [10, 240, 500, 240, 10], "c_neg": -0.3, "c_pos": 0.3,
        "levels": [-0.9, -0.5, -0.4, -0.35, 0.4, 0.5, 0.9], "level_counts": [10, 50, 40, 25, 60, 65, 0],
    }  # fmt: skip
