"""What a dry run found, as a person reads it on the terminal."""

from __future__ import annotations

from pathlib import Path

from clipq.dry_run import DryRun, Stage
from clipq.experiment import Experiment
from clipq.provenance import hardware
from clipq.report import short_name
from clipq.text_table import Table


def dry_run_text(experiment: Experiment, found: DryRun, path: Path) -> str:
    """Layers, file, time and memory."""
    config = experiment.search
    choice = (
        "as given" if config.mode in ("given", "uniform") else f"search.p and search.b until {config.mode} finds them"
    )
    shape = "x".join(map(str, found.shape.input_shape))
    return "\n\n".join(
        [
            f"{experiment.name}: {experiment.network.name}, {found.parameters:,} parameters, "
            f"{found.shape.n_classes} classes, {found.shape.n_train:,} training images of {shape}. "
            "Dry run: images are made, nothing is learned.",
            _layers_table(found).plain(),
            f"p and b: {choice}\n{path}: written, and decoded to the same weights bit for bit",
            _time_table(found).plain() + _attempts(experiment),
            f"Measured on {_machine(found)}; reading and preparing images comes on top where workers do not keep up."
            + _without_mixed_precision(experiment, found),
            "\n".join(f"memory of {what}: {n / 1e9:.2f} GB at the peak" for what, n in found.memory.items()),
        ]
    )


def duration(seconds: float) -> str:
    """In the unit that suits: 12.3 ms, 4.5 s, 6.7 min, 8.9 h, 10.1 d."""
    for limit, unit, name in ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.1f} d"


def _layers_table(found: DryRun) -> Table:
    """A row a layer; then what else the file holds, and the file, whose bytes are the sum."""
    header = ("layer", "shape", "weights", "p", "b", "kept %", "bytes", "ratio")
    rows: list[tuple[str, ...]] = []
    for layer, encoded in zip(found.net.layers, found.encoded.layers, strict=True):
        n, theta = layer.codes.size, found.settings[layer.name]
        rows.append(
            (
                short_name(layer.name), "x".join(map(str, layer.shape)), f"{n:,}", f"{theta.p:g}", str(theta.b),
                f"{100 * layer.n_kept / max(n, 1):.1f}", f"{encoded.n_bytes:,}", f"{4 * n / encoded.n_bytes:.1f}x",
            )
        )  # fmt: skip
    n = sum(layer.codes.size for layer in found.net.layers)
    other = found.n_bytes - sum(encoded.n_bytes for encoded in found.encoded.layers)
    dense = 4 * n + sum(t.numel() * t.element_size() for t in found.net.tensors.values())
    rows.append(("other tensors, directory", "", "", "", "", "", f"{other:,}", ""))
    rows.append(("file", "", f"{n:,}", "", "", "", f"{found.n_bytes:,}", f"{dense / found.n_bytes:.1f}x"))
    return Table(header, rows, n_text=2, n_totals=1)


def _time_table(found: DryRun) -> Table:
    header = ("stage", "images", "a step", "steps", "an epoch", "epochs", "in all")
    return Table(header, [_time_row(stage) for stage in found.stages])


def _time_row(stage: Stage) -> tuple[str, ...]:
    if stage.name.startswith("search"):
        total = f"about {duration(stage.seconds)}" if stage.steps else "not searched"
        return stage.name, f"{stage.images:,}", duration(stage.step_seconds), f"{stage.steps:,}", "", "", total
    epoch = duration(stage.step_seconds * stage.steps)
    return (
        stage.name, f"{stage.images:,}", duration(stage.step_seconds), f"{stage.steps:,}", epoch, f"{stage.epochs}",
        duration(stage.seconds),
    )  # fmt: skip


def _attempts(experiment: Experiment) -> str:
    n = len(experiment.lambdas)
    return f"\nSearch and fine-tuning are done up to {n} times, with smaller and smaller lambdas." if n > 1 else ""


def _without_mixed_precision(experiment: Experiment, found: DryRun) -> str:
    """What a run here would be refused for."""
    if not experiment.run.amp or found.device.type == "cuda":
        return ""
    return f"\nMeasured in float32: a run on {found.device} needs run.amp = false, as mixed precision needs a GPU."


def _machine(found: DryRun) -> str:
    machine = hardware()
    if found.device.type == "cuda":
        return ", ".join(machine["gpus"])
    return f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
