"""MNIST's LeNets by the paper's recipe and by our own, from networks trained here and from Caffe's.

Runs them and keeps their figures in results/mnist/.  A seed's dense network is trained once for both recipes, where
they say the same of it.  Caffe's networks have seen the images that are held out here: what theirs may err on them
(``selection.error``) is what our dense network of the `paper` recipe does, which is trained as they were.  Finished
runs are not repeated, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.errors import DataError
from scripts.mnist_runs import add_common_options, dense_network, exit_code, held_out_error, run_once

RESULTS = Path(__file__).resolve().parent.parent / "results"
RECIPES = {"paper": "mnist_{}", "small": "mnist_{}_small"}
STARTS = ("ours", "caffe")
CAFFE = "caffe_{}_original.caffemodel"


def measure(options: argparse.Namespace) -> None:
    """Every network, recipe, seed and start."""
    if options.caffe and "caffe" in options.starts:
        for path in (options.caffe / CAFFE.format(network) for network in options.networks):
            if not path.is_file():
                raise DataError(f"{path}: no such file; expected --caffe to be the folder of Caffe's LeNets")
    common = {"data.data_dir": options.data_dir, "run.threads": str(options.threads)}
    for network, recipe, seed in product(options.networks, options.recipes, options.seeds):
        experiment = RECIPES[recipe].format(network)
        starts = {}
        if "ours" in options.starts:
            starts["ours"] = dense_network(experiment, seed, options.runs, common)
        if options.caffe and "caffe" in options.starts:
            starts["caffe"] = options.caffe / CAFFE.format(network)
        for start, weights in starts.items():
            name = f"{network}-{recipe}-{start}-{seed}"
            overrides = {**common, "run.seed": str(seed), "network.weights": str(weights.resolve())}
            if start == "caffe":
                like = dense_network(f"mnist_{network}", seed, options.runs, common)
                overrides["selection.error"] = str(held_out_error(network, like, options.data_dir))
            kept = RESULTS / "mnist" / f"{name}.json"
            run_once(experiment, overrides, options.runs / name, kept)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, RESULTS / "mnist" / "runs")
    parser.add_argument("--caffe", type=Path, help="folder of Caffe's LeNets; without it only our own are run")
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    options = parser.parse_args(argv)
    return exit_code(lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
