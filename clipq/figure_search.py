"""Figures of the search: where its evaluations lie, and how it went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipq.figure_names import layer_labels, shortened
from clipq.figure_style import BLUE, ORANGE, NewFigure, Report, as_text, largest, of_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def search(report: Report, new_figure: NewFigure) -> tuple[Figure, str] | None:
    """Where each layer's evaluations lie in the plane of p and b, and what the objective was there."""
    from matplotlib.colors import LogNorm

    if not report["search"]:
        return None
    chosen = _searched(report)
    labels = layer_labels(chosen, (layer["name"] for layer in report["layers"]))
    figure, panels = _grid(new_figure, len(chosen), 1.75)
    norm = LogNorm(0.1, 100)
    for panel, (layer, evaluations) in zip(panels, chosen.items(), strict=True):
        above = 100 * _above_best(evaluations)
        p, b = (np.array([e[key] for e in evaluations]) for key in ("p", "b"))
        worst_first = np.argsort(-above, kind="stable")
        points = panel.scatter(
            p[worst_first], b[worst_first], c=np.maximum(above, 0.1)[worst_first], norm=norm, cmap="viridis", s=22,
            edgecolors="white", linewidths=0.3, clip_on=False,
        )  # fmt: skip
        best = int(above.argmin())
        panel.scatter(p[best], b[best], s=75, facecolors="none", edgecolors=ORANGE, linewidths=1.4, clip_on=False)
        panel.set_title(f"{as_text(labels[layer])}\np = {p[best]:g}, b = {b[best]}", fontsize=7)
        config = report["config"]["search"]
        panel.set_xlim(config["p_min"] - 0.03, config["p_max"] + 0.03)
        panel.set_ylim(config["b_min"] - 0.5, config["b_max"] + 0.5)
        panel.set_yticks(range(config["b_min"], config["b_max"] + 1))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.grid()
    _outer_labels(panels, "pruning rate p", "bits b")
    figure.colorbar(
        points, ax=panels, label="objective above the layer's best (points)", location="top", aspect=60, shrink=0.8,
        extend="both", extendfrac=0.02, format="{x:g}",
    )  # fmt: skip
    return figure, (
        "Every evaluation of the search, by layer. The colour is the objective, error - lambda x saving, above the "
        "best one found for the layer; the chosen setting has a ring."
        + of_all(chosen, report["layers"])
        + shortened(labels)
    )


def search_progress(report: Report, new_figure: NewFigure) -> tuple[Figure, str] | None:
    """The objective of each evaluation in turn, and the best so far."""
    if not report["search"]:
        return None
    chosen = _searched(report)
    labels = layer_labels(chosen, (layer["name"] for layer in report["layers"]))
    figure, panels = _grid(new_figure, len(chosen), 1.4)
    for panel, (layer, evaluations) in zip(panels, chosen.items(), strict=True):
        above = 100 * _above_best(evaluations)
        number = np.arange(1, len(above) + 1)
        panel.plot(number, above, ".", color=BLUE, markersize=4, label="evaluation", clip_on=False, zorder=3)
        panel.step(number, np.minimum.accumulate(above), where="post", color=ORANGE, label="best so far")
        panel.set_yscale("symlog", linthresh=0.1, linscale=0.5)
        panel.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        panel.minorticks_off()
        panel.set_ylim(0, 150)
        panel.set_xlim(0, len(above) + 0.5)
        panel.locator_params(axis="x", integer=True, nbins=6)
        panel.set_title(as_text(labels[layer]), fontsize=7)
        panel.grid(axis="y")
    _outer_labels(panels, "evaluation", "above best (points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure, (
        "The objective of each evaluation in turn above the best one found for the layer, in points; linear below 0.1."
        + of_all(chosen, report["layers"])
        + shortened(labels)
    )


def _searched(report: Report) -> dict[str, list[Mapping[str, Any]]]:
    """The largest layers in the network's order -> their evaluations in turn."""
    evaluations: dict[str, list[Mapping[str, Any]]] = {}
    for evaluation in report["search"]:
        evaluations.setdefault(evaluation["layer"], []).append(evaluation)
    layers = [layer for layer in report["layers"] if layer["name"] in evaluations]
    return {x["name"]: evaluations[x["name"]] for x in largest(layers, lambda layer: layer["weights"])}


def _above_best(evaluations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    values = np.array([e["value"] for e in evaluations])
    return values - values.min()


def _grid(new_figure: NewFigure, n: int, height: float) -> tuple[Figure, list[Axes]]:
    """n panels in rows of up to four."""
    n_columns = _n_columns(n)
    n_rows = -(-n // n_columns)
    figure = new_figure(figsize=(max(1.7 * n_columns + 0.6, 3.6), 0.7 + height * n_rows))
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[n:]:
        panel.set_axis_off()
    return figure, list(panels.flat[:n])


def _n_columns(n: int) -> int:
    """Up to four; three where that leaves fewer places empty."""
    return n if n <= 4 else min((4, 3), key=lambda columns: -n % columns)


def _outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    n_columns = _n_columns(len(panels))
    for i, panel in enumerate(panels):
        if i % n_columns == 0:
            panel.set_ylabel(y)
        if i + n_columns >= len(panels):
            panel.set_xlabel(x)
            panel.tick_params(labelbottom=True)
