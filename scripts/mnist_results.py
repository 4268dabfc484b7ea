"""MNIST's LeNets by the paper's recipe and by our own, from networks trained here and from Caffe's.

Runs them and keeps their figures in results/mnist/.  The dense network of a seed is trained once for both recipes.
Finished runs are not repeated, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.errors import ClipqError
from scripts.mnist_runs import NETWORKS, dense_network, run_once

RESULTS = Path(__file__).resolve().parent.parent / "results"
RECIPES = {"paper": "mnist_{}", "small": "mnist_{}_small"}
CAFFE = "caffe_{}_original.caffemodel"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caffe", type=Path, help="folder of Caffe's LeNets; without it only our own are run")
    parser.add_argument("--data-dir", default="", help="folder that holds MNIST (default: $CLIPQ_DATA, the cache)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--runs", type=Path, default=RESULTS / "mnist" / "runs", help="folder of the runs")
    options = parser.parse_args(argv)
    common = {"data.data_dir": options.data_dir, "run.threads": str(options.threads)}
    try:
        for network in options.networks:
            for recipe in options.recipes:
                for seed in options.seeds:
                    starts = {"ours": dense_network(network, seed, options.runs, common)}
                    if options.caffe:
                        starts["caffe"] = options.caffe / CAFFE.format(network)
                    for start, weights in starts.items():
                        name = f"{network}-{recipe}-{start}-{seed}"
                        overrides = {**common, "run.seed": str(seed), "network.weights": str(weights.resolve())}
                        kept = RESULTS / "mnist" / f"{name}.json"
                        run_once(RECIPES[recipe].format(network), overrides, options.runs / name, kept)
    except ClipqError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"{stop or 'interrupted'}; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
