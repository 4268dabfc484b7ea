"""What the figures of a run share: style, colours, and which layers are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
#: ``matplotlib.figure.Figure``, given by the caller so that importing a module of figures does not import matplotlib.
NewFigure = Callable[..., "Figure"]

#: Layers that have a panel of their own.
MAX_PANELS = 12

BLUE, ORANGE, GREY, LIGHT = "#0072B2", "#D55E00", "#777777", "#c9d3dc"
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.titlelocation": "left", "axes.axisbelow": True, "grid.linewidth": 0.4, "grid.color": "#dddddd",
    "figure.constrained_layout.use": True, "figure.dpi": 160,
}  # fmt: skip


def as_text(label: str) -> str:
    """As matplotlib takes it for text, not for a formula."""
    return label.replace("$", r"\$")


def largest(items: Sequence[Any], size: Callable[[Any], float], n: int = MAX_PANELS) -> list[Any]:
    """The n largest, in their own order."""
    kept = sorted(sorted(range(len(items)), key=lambda i: -size(items[i]))[:n])
    return [items[i] for i in kept]


def legend_handles(panels: Iterable[Axes]) -> dict[str, Any]:
    """Label -> one of the artists that have it, each label once."""
    return {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}


def of_all(chosen: Sequence[Any] | Mapping[str, Any], every: Sequence[Any]) -> str:
    return f" The {len(chosen)} largest of {len(every)} layers." if len(chosen) < len(every) else ""
