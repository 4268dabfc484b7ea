"""MNIST's LeNets, from networks trained here and from Caffe's: runs them and keeps their figures in results/mnist/.

Finished runs are not repeated, interrupted ones go on.  ``--caffe FOLDER`` holds the two .caffemodel files.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from clipq.atomic_file import write_text
from clipq.errors import ClipqError
from clipq.experiment import load_experiment
from clipq.run import Run

RESULTS = Path(__file__).resolve().parent.parent / "results"
CAFFE = {
    "mnist_lenet300100": "caffe_lenet300100_original.caffemodel",
    "mnist_lenet5": "caffe_lenet5_original.caffemodel",
}
KEPT = ("provenance", "experiment", "config", "network", "data", "error", "size", "layers", "seconds")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caffe", type=Path, help="folder of Caffe's LeNets; without it only our own are run")
    parser.add_argument("--data-dir", default="", help="folder that holds MNIST (default: $CLIPQ_DATA, the cache)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--coder", default="fixed", choices=["fixed", "entropy", "best"], help="of the files")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its choice")
    parser.add_argument("--runs", type=Path, default=RESULTS, help="folder of the runs")
    options = parser.parse_args(argv)
    try:
        for seed in range(options.seeds):
            for experiment, weights in CAFFE.items():
                for start in ("ours", "caffe") if options.caffe else ("ours",):
                    path = str((options.caffe / weights).resolve()) if start == "caffe" else ""
                    report = _run(experiment, f"{start}-{options.coder}-{seed}", path, seed, options)
                    name = f"{experiment}-{start}-{options.coder}-{seed}.json"
                    kept = {key: report[key] for key in KEPT}
                    kept["config"]["network"]["weights"] = Path(path).name
                    kept["config"]["data"]["data_dir"] = ""
                    kept["provenance"]["command"] = _without_folders(report["provenance"]["command"])
                    (RESULTS / "mnist").mkdir(parents=True, exist_ok=True)
                    write_text(RESULTS / "mnist" / name, json.dumps(kept, indent=1) + "\n")
                    print(f"{name}: {report['size']['ratio']:.1f}x, error {report['error']['decoded_test']:.2%}")
    except ClipqError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _without_folders(command: str) -> str:
    """The command with the names of files alone: what lies where on this machine is of no use on another."""
    return shlex.join(Path(word).name if "/" in word else word for word in shlex.split(command))


def _run(experiment: str, name: str, weights: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The run's report; of a finished run, the one in its folder."""
    overrides = {
        "run.seed": str(seed), "network.weights": weights, "data.data_dir": options.data_dir,
        "encode.coder": options.coder, "run.threads": str(options.threads),
    }  # fmt: skip
    run = Run(load_experiment(experiment, overrides), options.runs / experiment / name, resume=True)
    return json.loads(run.files.report.read_text("utf-8")) if run.files.report.is_file() else run()


if __name__ == "__main__":
    sys.exit(main())
