"""What each open reading costs: test error and file size of an experiment with it, against the defaults.

A reading that only the forward pass or the file sees is measured with the (p, b) that the search found under the
defaults, so that the difference is the reading's own; one that the search sees is searched anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from clipq.experiment import load_experiment
from clipq.provenance import provenance
from clipq.run import Run
from matlab_parity.assumptions import assumptions

#: Overrides that make a rough measurement in minutes.
QUICK = {"train.epochs": "1", "dense.epochs": "2", "search.evaluations": "12"}


def measure_effects(
    experiment: str,
    seeds: Sequence[int],
    folder: Path,
    overrides: Mapping[str, str],
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Error and bytes of the defaults and of every variant, with their spread over ``seeds``; runs in ``folder`` are
    continued.

    Raises:
        ExperimentError, DataError, ModelError: the experiment, its data or its weights are not as they should be.
    """
    defaults = {
        seed: _run(experiment, folder / f"defaults-{seed}", {**overrides, "run.seed": str(seed)}) for seed in seeds
    }
    base = _over_seeds(defaults.values())
    show(f"defaults: {_line(base)}")
    variants = {}
    for assumption in assumptions():
        for label, changes in assumption.variants.items():
            name = f"{assumption.id} {label}"
            reports = []
            for seed in seeds:
                settings = {} if assumption.searched else _found(defaults[seed])
                changed = {**overrides, **settings, **changes, "run.seed": str(seed)}
                reports.append(_run(experiment, folder / f"{name.replace(' ', '_')}-{seed}", changed))
            variants[name] = _over_seeds(reports)
            show(f"{name}: {_line(variants[name])}")
    given = {key: Path(value).name if key == "network.weights" else value for key, value in overrides.items()}
    return {
        "experiment": experiment, "overrides": given, "seeds": len(seeds), "base": base, "variants": variants,
        "provenance": provenance(seeds[0]),
    }  # fmt: skip


def _over_seeds(reports: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean and standard deviation of what the decoded file errs and weighs."""
    errors, sizes = zip(*((float(r["error"]["decoded_test"]), float(r["size"]["file"])) for r in reports), strict=True)
    return {"error": mean(errors), "error_sd": pstdev(errors), "bytes": mean(sizes), "bytes_sd": pstdev(sizes)}


def _run(experiment: str, folder: Path, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The run's report; a run that is complete is not repeated."""
    configured = load_experiment(experiment, overrides)
    run = Run(configured, folder, resume=True, show=False)
    if run.files.report.is_file():
        return json.loads(run.files.report.read_text(encoding="utf-8"))
    return run()


def _found(report: Mapping[str, Any]) -> dict[str, str]:
    """Overrides that give every layer the (p, b) of a run."""
    given = {
        f"search.given.{row['name'].removesuffix('.weight')}": f"[{row['p']}, {row['b']}]" for row in report["layers"]
    }
    return {"search.mode": "given", **given}


def _line(measured: Mapping[str, float]) -> str:
    error, spread = 100 * measured["error"], 100 * measured["error_sd"]
    return f"error {error:.2f} +- {spread:.2f} %, {measured['bytes']:.0f} +- {measured['bytes_sd']:.0f} bytes"
