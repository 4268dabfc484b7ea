"""Where a result comes from: command, commit, versions, hardware."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clipq import __version__

_PACKAGES = ("numpy", "scipy", "numba", "torch", "bayesian-optimization", "scikit-learn")


def provenance(seed: int) -> dict[str, Any]:
    """A record of this process, for a report: JSON types only."""
    return {
        "clipq": __version__,
        "commit": commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "hardware": hardware(),
    }


def without_folders(origin: Mapping[str, Any]) -> dict[str, Any]:
    """The same with files' names alone in its command: what lies where on this machine is of no use on another."""
    words = shlex.split(origin["command"])
    return {**origin, "command": shlex.join(Path(word).name if "/" in word else word for word in words)}


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, torch's threads, and the GPUs."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def commit(folder: Path = Path(__file__).parent) -> str:
    """The git commit of the source in ``folder``, with ``+changes`` where files outside ``results/`` differ from it.

    ``unknown`` where no git has this source, as where it is installed inside a checkout of something else.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
