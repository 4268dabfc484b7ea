"""Measures what each open reading of the paper changes: test error and file size, by default of LeNet-5 on MNIST.

Writes results/assumptions/<experiment>.json; `python -m matlab_parity.tables` fills the column of effects in
matlab_parity/ASSUMPTIONS.md from there.  Killed, it goes on where it was.  About 30 runs for each seed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.atomic_file import write_text
from clipq.provenance import without_folders
from matlab_parity.effects import QUICK, measure_effects
from scripts.argument_types import at_least
from scripts.mnist_runs import exit_code

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="mnist_lenet5")
    parser.add_argument("--weights", default="", help="trained weights to start from; without, each run trains its own")
    parser.add_argument("--data-dir", default="", help="folder of the data set; default $CLIPQ_DATA")
    parser.add_argument("--seeds", type=at_least(1), default=3, help="runs of each reading")
    parser.add_argument("--quick", action="store_true", help="short training and search: rough figures")
    parser.add_argument("--folder", type=Path, help="where the runs go; default results/assumptions/<experiment>")
    options = parser.parse_args()
    return exit_code(lambda: measure(options))


def measure(options: argparse.Namespace) -> None:
    overrides = dict(QUICK) if options.quick else {}
    for key, value in (("network.weights", options.weights), ("data.data_dir", options.data_dir)):
        if value:
            overrides[key] = value
    name = options.experiment + ("-quick" if options.quick else "")
    folder = options.folder or RESULTS / "assumptions" / name
    effects = measure_effects(options.experiment, range(options.seeds), folder, overrides)
    effects["provenance"] = without_folders(effects["provenance"])
    out = RESULTS / "assumptions" / f"{options.experiment}.json"
    write_text(out, json.dumps(effects, indent=1) + "\n")
    print(f"{out}; now run: python -m matlab_parity.tables")


if __name__ == "__main__":
    sys.exit(main())
