"""Figures of the layers: their bytes in the file, and the histograms of their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipq.figure_names import layer_labels, shortened
from clipq.figure_style import BLUE, GREY, LIGHT, ORANGE, NewFigure, Report, as_text, largest, legend_handles, of_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Layers that have a bar of their own.
MAX_BARS = 30

_PARTS = {
    "codes": "#0072B2", "index": "#56B4E9", "codebook": "#E69F00", "other tensors": "#999999",
    "header, checksum": "#CC79A7",
}  # fmt: skip
_UNITS = {"kB": 1e3, "MB": 1e6}
_MORE_PARTS = ("#009E73", "#D55E00", "#F0E442", "#332288", "#88CCEE")


def bytes_per_layer(report: Report, new_figure: NewFigure) -> tuple[Figure, str]:
    """Bytes of each layer by part of its section, beside the dense network's."""
    rows = _byte_rows(report)
    labels = layer_labels((row.name for row in rows if row.is_layer), (x["name"] for x in report["layers"]))
    figure = new_figure(figsize=(6.8, 1.3 + 0.21 * len(rows)))
    dense, stored = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    unit = "MB" if _axis_end(rows, lambda row: row.dense) >= 1e7 else "kB"
    cut = [_dense_bars(dense, rows, unit), _stored_bars(stored, rows, unit)]
    dense.set_yticks(range(len(rows)), [as_text(labels.get(row.name, row.name)) for row in rows])
    dense.set_ylim(len(rows) - 0.4, -0.6)
    stored.tick_params(axis="y", length=0)
    figure.legend(*stored.get_legend_handles_labels(), loc="outside upper center", ncols=6)
    size = report["size"]
    shown = (
        "" if len(report["layers"]) <= MAX_BARS else f" The {MAX_BARS} layers that are largest when dense have a bar."
    )
    return figure, (
        f"Bytes of each layer. The bars on the right sum to the file's {size['file']:,} bytes; the dense network has "
        f"{size['dense']:,}. The two axes differ in scale.{shown}"
        + (" A bar that goes on beyond its axis has its bytes written in it." if any(cut) else "")
        + shortened(labels)
    )


def weights(report: Report, new_figure: NewFigure) -> tuple[Figure, str]:
    """Histograms of the full-precision weights with clips and levels, before and after fine-tuning."""
    chosen = largest(report["histograms"], lambda h: sum(h["before"]["counts"]))
    labels = layer_labels((h["layer"] for h in chosen), (x["name"] for x in report["layers"]))
    n_columns = 1 if len(chosen) <= 4 else 2
    n_rows = -(-len(chosen) // n_columns)
    figure = new_figure(figsize=(7.2, 0.7 + (1.6 if n_columns == 1 else 1.35) * n_rows))
    panels = figure.subplots(n_rows, 2 * n_columns, squeeze=False)
    for panel in panels.flat[2 * len(chosen) :]:
        panel.set_axis_off()
    for i, histogram in enumerate(chosen):
        pair = panels.flat[2 * i : 2 * i + 2]
        for panel, when in zip(pair, ("before", "after"), strict=True):
            _histogram(panel, histogram[when])
            panel.text(0.02, 0.98, when, transform=panel.transAxes, va="top", fontsize=7, color=GREY)
        pair[0].set_title(as_text(labels[histogram["layer"]]))
        pair[1].sharex(pair[0])
        pair[1].sharey(pair[0])
        _share_limits(pair[0], [histogram["before"], histogram["after"]])
    for panel in panels[:, 0]:
        panel.set_ylabel("weights")
    for panel in panels[-1]:
        panel.set_xlabel("value")
    handles = legend_handles(panels.flat)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    folded = report["config"]["encode"].get("dead_units") == "fold"
    return figure, (
        "Full-precision weights of each layer before and after fine-tuning, on a logarithmic scale. What lies between "
        "the clips is pruned; a stem is a quantization level and as high as the number of weights that take it"
        + (", afterwards without those of units that do nothing." if folded else ".")
        + of_all(chosen, report["layers"])
        + shortened(labels)
    )


@dataclass(frozen=True)
class _ByteRow:
    """A layer, or what else is in the file: its bytes when dense, and those in the file by part."""

    name: str
    dense: int
    parts: Mapping[str, int]
    is_layer: bool = False

    @property
    def stored(self) -> int:
        return sum(self.parts.values())


def _byte_rows(report: Report) -> list[_ByteRow]:
    """The largest layers in the network's order, the rest of them, other tensors, the directory."""
    layers = [
        _ByteRow(x["name"], round(x["ratio"] * x["bytes"]), _merged(x["parts"]), is_layer=True)
        for x in report["layers"]
    ]
    rows = largest(layers, lambda row: row.dense, MAX_BARS)
    shown = {id(row) for row in rows}
    rest = [row for row in layers if id(row) not in shown]
    if rest:
        names = {part for row in rest for part in row.parts}
        parts = {name: sum(row.parts.get(name, 0) for row in rest) for name in names}
        rows.append(_ByteRow(f"{len(rest)} smaller layers", sum(row.dense for row in rest), parts))
    sections = report["size"]["sections"]
    dense_tensors = report["size"]["dense"] - sum(row.dense for row in layers)
    if "tensors" in sections:
        rows.append(_ByteRow("biases and others", dense_tensors, {"other tensors": sections["tensors"]}))
    return [*rows, _ByteRow("directory", 0, {"header, checksum": sections["directory"]})]


def _dense_bars(panel: Axes, rows: Sequence[_ByteRow], unit: str) -> bool:
    """Whether any is longer than the axis."""
    scale, end = _UNITS[unit], _axis_end(rows, lambda row: row.dense)
    panel.barh(range(len(rows)), [row.dense / scale for row in rows], color=LIGHT, height=0.7)
    panel.set_xlim(1.05 * end / scale, 0)
    panel.set_xlabel(f"dense ({unit})")
    cut = [(i, row) for i, row in enumerate(rows) if row.dense > end]
    for i, row in cut:
        _write_in_bar(panel, i, f"{row.dense / scale:,.1f} {unit}", "left")
    return bool(cut)


def _stored_bars(panel: Axes, rows: Sequence[_ByteRow], unit: str) -> bool:
    """Whether any is longer than the axis."""
    scale, end = _UNITS[unit], _axis_end(rows, lambda row: row.stored)
    left = np.zeros(len(rows))
    more = iter(_MORE_PARTS * len(rows))
    for part in _part_names(rows):
        width = np.array([row.parts.get(part, 0) for row in rows]) / scale
        color = _PARTS.get(part) or next(more)
        panel.barh(range(len(rows)), width, left=left, color=color, height=0.7, label=part)
        left += width
    panel.set_xlim(0, 1.12 * end / scale)
    panel.set_xlabel(f"in the file ({unit}), and how many times smaller")
    for i, row in enumerate(rows):
        ratio = f"{row.dense / row.stored:.1f}x" if row.dense and row.stored else ""
        if row.stored > end:
            _write_in_bar(panel, i, f"{row.stored / scale:,.1f} {unit} ({_shares(row)})  {ratio}".rstrip(), "right")
        else:
            place = (row.stored / scale, i)
            panel.annotate(ratio, place, xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5)
    return any(row.stored > end for row in rows)


def _shares(row: _ByteRow) -> str:
    """What a bar that is cut does not show: its parts of a percent and more, the largest first."""
    shares = {part: round(100 * row.parts[part] / row.stored) for part in _part_names([row])}
    return ", ".join(f"{share} % {part}" for part, share in shares.items() if share)


def _axis_end(rows: Sequence[_ByteRow], size: Callable[[_ByteRow], int]) -> int:
    """The longest bar's size, but no more than twice the largest layer's, whose bars are to be compared."""
    return min(max(map(size, rows)), 2 * max(size(row) for row in rows if row.is_layer))


def _write_in_bar(panel: Axes, i: int, text: str, side: Literal["left", "right"]) -> None:
    """At the axis' end on this side, which bar number i goes beyond."""
    box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none"}
    x, gap = (0, 5) if side == "left" else (1, -5)
    panel.annotate(
        text, (x, i), xycoords=("axes fraction", "data"), xytext=(gap, 0), textcoords="offset points", ha=side,
        va="center", fontsize=6.5, bbox=box,
    )  # fmt: skip


def _merged(parts: Mapping[str, int]) -> dict[str, int]:
    """The parts of a section, those of a few bytes together."""
    small = ("header", "padding", "checksum")
    merged = {name: size for name, size in parts.items() if name not in small}
    return {**merged, "header, checksum": sum(parts.get(name, 0) for name in small)}


def _part_names(rows: Sequence[_ByteRow]) -> list[str]:
    """Largest in sum first, those of no bytes left out."""
    sums: dict[str, int] = {}
    for row in rows:
        for name, size in row.parts.items():
            sums[name] = sums.get(name, 0) + size
    return sorted((name for name in sums if sums[name]), key=lambda name: (-sums[name], name))


def _histogram(panel: Axes, h: Mapping[str, Any]) -> None:
    counts = np.array(h["counts"])
    edges = np.linspace(h["low"], h["high"], len(counts) + 1)
    panel.stairs(counts, edges, fill=True, color=LIGHT, label="weights in a bin", baseline=0.5)
    panel.axvspan(h["c_neg"], h["c_pos"], color=ORANGE, alpha=0.12, linewidth=0, label="pruned, between the clips")
    for clip in (h["c_neg"], h["c_pos"]):
        panel.axvline(clip, color=ORANGE, linewidth=0.7)
    taken = [(level, n) for level, n in zip(h["levels"], h["level_counts"], strict=True) if n]
    if taken:
        level, n = np.transpose(taken)
        panel.vlines(level, 0.5, n, color=BLUE, linewidth=0.6)
        panel.plot(level, n, "o", color=BLUE, markersize=2.2, markeredgewidth=0, label="level, weights that take it")
    panel.set_yscale("log")


def _share_limits(panel: Axes, histograms: Sequence[Mapping[str, Any]]) -> None:
    low, high = min(h["low"] for h in histograms), max(h["high"] for h in histograms)
    top = max(max(h["counts"] + h["level_counts"]) for h in histograms)
    margin = 0.02 * (high - low) or 1.0
    panel.set_xlim(low - margin, high + margin)
    panel.set_ylim(0.5, 2 * max(top, 1))
