"""Trains the networks whose layers ``scripts/benchmark.py codec`` packs, and writes a ``.clipq`` file of each.

    python scripts/codec_networks.py FOLDER && python scripts/benchmark.py codec FOLDER/*.clipq

Networks whose file is there are left as they are, and those of MNIST are left out where it is not at hand.  About 20
minutes of one core in all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from clipq.api import compress, load, save
from clipq.data import load_dataset
from clipq.errors import ClipqError
from clipq.experiment import load_experiment
from clipq.networks import build_network
from clipq.quantized_net import QuantizedNet
from clipq.run import Run
from clipq.train_config import TrainConfig
from clipq.train_state import seed_everything
from clipq.training import fit
from scripts.mnist_runs import exit_code

_DENSE, _FINE_TUNING = TrainConfig(epochs=15, lr=0.05, weight_decay=5e-4), TrainConfig(epochs=8, lr=0.02)
_SIDE = 28


def of_experiment(name: str, data_dir: str, runs: Path, p: float | None = None, b: int = 4) -> QuantizedNet:
    """What the experiment ``name`` makes with seed 0, with the same p and b for every layer if they are given."""
    overrides = {"run.seed": "0", "run.threads": "1", "data.data_dir": data_dir}
    if p is not None:
        overrides |= {"search.mode": "uniform", "search.p": str(p), "search.b": str(b)}
    run = Run(load_experiment(name, overrides), runs / f"{name}-{p}-{b}", resume=True)
    if not run.files.report.is_file():
        run()
    return load(run.files.clipq)


def of_digits(network: str, p: float, b: int) -> QuantizedNet:
    """A LeNet that was trained on scikit-learn's digits, enlarged to MNIST's size, and then in parallel."""
    digits = load_digits()
    x = nn.functional.interpolate(
        torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, _SIDE, mode="bilinear"
    )
    seed_everything(0)
    model = build_network(network, n_classes=10, input_shape=(1, _SIDE, _SIDE))
    loader = DataLoader(TensorDataset(x, torch.tensor(digits.target)), 64, shuffle=True)
    fit(model, lambda epoch: loader, _DENSE)
    return compress(model, loader, None, settings={"*": (p, b)}, train=_FINE_TUNING).net


def networks(data_dir: str, runs: Path) -> dict[str, Callable[[], QuantizedNet]]:
    """Each network's title and what makes it."""
    mnist = partial(of_experiment, data_dir=data_dir, runs=runs)
    try:
        load_dataset("mnist", data_dir or None)
    except ClipqError as error:
        print(f"without the networks of MNIST: {error}", file=sys.stderr)
        of_mnist = {}
    else:
        of_mnist = {
            "LeNet-300-100 (MNIST), p = 0.93, b = 4": partial(mnist, "mnist_lenet300100", p=0.93),
            "LeNet-5 (MNIST), p = 0.93, b = 4": partial(mnist, "mnist_lenet5", p=0.93),
            "LeNet-5 (MNIST), p = 0.97, b = 3": partial(mnist, "mnist_lenet5", p=0.97, b=3),
        }
    return {
        "Digits network, searched p and b": partial(of_experiment, "digits", "", runs),
        "LeNet-300-100 (digits), p = 0.9, b = 4": partial(of_digits, "lenet300100", 0.9, 4),
        "LeNet-5 (digits), p = 0.9, b = 4": partial(of_digits, "lenet5", 0.9, 4),
        **of_mnist,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go; the runs that make them in its folder `runs`")
    parser.add_argument("--data-dir", default="", help="folder that holds MNIST (default: $CLIPQ_DATA, the cache)")
    arguments = parser.parse_args(argv)

    def work() -> None:
        torch.set_num_threads(1)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for title, make in networks(arguments.data_dir, arguments.folder / "runs").items():
            path = arguments.folder / f"{title}.clipq"
            if not path.is_file():
                save(make(), path)
            print(path, flush=True)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
