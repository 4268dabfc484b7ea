"""Figure: error, loss, sparsity and bits per weight over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipq.figure_style import BLUE, GREY, ORANGE, NewFigure, Report, legend_handles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training(report: Report, new_figure: NewFigure) -> tuple[Figure, str] | None:
    """Error, loss, sparsity and bits per weight over the iterations: the dense network's training, then CLIP-Q's."""
    phases = _phases(report)
    if not phases:
        return None
    rows = [("error", "top-1 error (%)", 100.0), ("loss", "loss", 1.0), ("sparsity", "pruned (%)", 100.0)]
    rows.append(("bits_per_weight", "bits per\nweight", 1.0))
    rows = [row for row in rows if any(row[0] in record for phase in phases for record in phase.epochs)]
    heights = [2, 1.6, 1, 1][: len(rows)]
    figure = new_figure(figsize=(6.8, 1 + 0.9 * sum(heights)))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (key, label, scale) in zip(panels, rows, strict=True):
        for phase in phases:
            _phase_lines(panel, phase, key, scale)
        panel.set_ylabel(label)
        panel.grid(axis="y")
        for phase in phases[1:]:
            panel.axvline(phase.start, color="black", linewidth=0.8, linestyle=":")
    _error_panel(panels[0], report, phases)
    if panels[1].dataLim.y1 > 10 * panels[1].dataLim.minpos[1]:
        panels[1].set_yscale("log")
        panels[1].yaxis.set_major_formatter("{x:g}")
        panels[1].yaxis.set_minor_formatter("")
    for panel in panels[2:]:
        panel.set_ylim(0, 1.15 * max(panel.dataLim.y1, 1e-3))
    panels[-1].set_xlabel("iterations (minibatches)")
    panels[-1].set_xlim(phases[0].start, 1.01 * phases[-1].stop)  # room for the last epoch's dot
    figure.align_ylabels(panels)
    handles = legend_handles(panels[:1])
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles))
    names = " and ".join(phase.title for phase in phases)
    kept = {"best": "the epoch with the lowest validation error", "last": "the last epoch"}
    return figure, (
        f"Error, loss and sparsity over the iterations of {names}. The weights kept are those of "
        f"{kept[report['config']['train']['keep']]}. Bits per weight are those of the coder `fixed`: index, codes and, "
        "unless reading A09 says otherwise, codebook."
    )


@dataclass(frozen=True)
class _Phase:
    """One training on the axis of iterations: from ``start`` to ``stop``, ``per_epoch`` iterations an epoch."""

    title: str
    steps: Sequence[Mapping[str, float]]
    epochs: Sequence[Mapping[str, float]]
    start: int
    per_epoch: int

    @property
    def stop(self) -> int:
        return self.start + self.per_epoch * len(self.epochs)


def _phases(report: Report) -> list[_Phase]:
    """The trainings that took place, one after the other."""
    phases: list[_Phase] = []
    for key, title in (("dense", "dense training"), ("train", "CLIP-Q fine-tuning")):
        history = report["history"][key]
        per_epoch = -(-report["data"]["train"] // report["config"][key]["batch_size"])
        if history["epochs"]:
            start = phases[-1].stop if phases else 0
            phases.append(_Phase(title, history["steps"], history["epochs"], start, per_epoch))
    return phases


def _phase_lines(panel: Axes, phase: _Phase, key: str, scale: float) -> None:
    """The figure ``key`` of single minibatches, faint, and of whole epochs."""
    minibatches = [(phase.start + s["step"] + 1, scale * s[key]) for s in phase.steps if key in s]
    ends = [(phase.start + phase.per_epoch * (e["epoch"] + 1), scale * e[key]) for e in phase.epochs if key in e]
    if key in ("error", "loss") and minibatches:
        style: dict[str, Any] = {"color": BLUE, "alpha": 0.4, "markersize": 2.5, "markeredgewidth": 0}
        panel.plot(*np.transpose(minibatches), "o", label="training, minibatch", **style)
    if ends:
        panel.plot(*np.transpose(ends), ".-", color=BLUE, markersize=3, label="training, epoch")


def _error_panel(panel: Axes, report: Report, phases: Sequence[_Phase]) -> None:
    """Validation error, the phases' names, the legend and a scale that holds 60 % and 0 alike."""
    for phase in phases:
        ends = [
            (phase.start + phase.per_epoch * (e["epoch"] + 1), e["val_error"]) for e in phase.epochs if "val_error" in e
        ]
        if ends:
            x, error = np.transpose(ends)
            panel.plot(x, 100 * error, ".-", color=ORANGE, markersize=3, label="validation")
        panel.annotate(
            phase.title, ((phase.start + phase.stop) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=8,
        )  # fmt: skip
    dense = 100 * report["error"]["dense_val"]
    panel.axhline(dense, color=GREY, linewidth=0.8, linestyle="--", label="dense network, validation")
    panel.set_yscale("symlog", linthresh=1, linscale=0.5)
    panel.set_ylim(0, 10 if panel.dataLim.y1 < 10 else 100)
    panel.yaxis.set_major_formatter("{x:g}")
