"""The figures of a run, drawn from its report alone: the same report gives the same bytes.

Networks of any number of layers: where a figure has no room for all of them it shows the largest, and its caption says
so.  matplotlib is imported when figures are drawn, without pyplot, and the user's settings of it are left as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipq.figure_layers import bytes_per_layer, weights
from clipq.figure_search import search, search_progress
from clipq.figure_style import STYLE, NewFigure, Report
from clipq.figure_training import training

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """name: of the file.  caption: what the figure shows.  png: its bytes."""

    name: str
    caption: str
    png: bytes


def draw_figures(report: Report) -> Iterator[Drawing]:
    """Every figure that the report has something for, whatever the user's settings of matplotlib are."""
    import matplotlib
    from matplotlib.figure import Figure

    draw: dict[str, Callable[[Report, NewFigure], tuple[Figure, str] | None]] = {
        "training.png": training, "bytes.png": bytes_per_layer, "weights.png": weights,
        "search.png": search, "search_progress.png": search_progress,
    }  # fmt: skip
    style: dict[Any, Any] = {**matplotlib.rcParamsDefault} | STYLE
    for name, function in draw.items():
        with matplotlib.rc_context(style):
            drawn = function(report, Figure)
            drawing = drawn and Drawing(name, drawn[1], _png(drawn[0]))
        if drawing:
            yield drawing


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
