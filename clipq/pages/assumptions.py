"""The page of ``scripts/measure_assumptions.py``: what each open reading of the paper changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from clipq.figure_style import BLUE, GREY, ORANGE, NewFigure
from clipq.pages.page import Data, Page, PageFigure, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Of one experiment after the other.
_STYLES = [{"fmt": marker, "color": colour} for marker, colour in product("osDv^", (BLUE, ORANGE, GREY))]


class _Change(NamedTuple):
    """Of a variant: the change of its error (points) and of its size (%), and how each of these spreads over seeds."""

    name: str
    points: float
    points_sd: float
    percent: float
    percent_sd: float


def _changes(report: Mapping[str, Any]) -> Iterator[_Change]:
    base = report["base"]
    for name, x in report["variants"].items():
        error, size = 100 * (x["error"] - base["error"]), 100 * (x["bytes"] / base["bytes"] - 1)
        yield _Change(name, error, 100 * x["error_sd"], size, 100 * x["bytes_sd"] / base["bytes"])


def _headline(data: Data) -> str:
    every = [(change, report["experiment"]) for report in data.values() for change in _changes(report)]
    worst, where = max(every, key=lambda x: abs(x[0].points))
    largest, there = max(every, key=lambda x: abs(x[0].percent))
    return (
        f"Of the questions that the paper's sources leave open, {worst.name} changes the error most "
        f"({worst.points:+.2f} points, {where}) and {largest.name} the size ({largest.percent:+.1f} %, {there})."
    )


def _summary(data: Data) -> str:
    return (
        "The paper's sources leave questions open; each is an option, and here is what the other answers change. What "
        "the search does not see is measured with the defaults' (p, b). Training and search are short: the "
        "differences count here, not the errors. After ± stands how much the errors and sizes themselves spread over "
        "seeds; where a reading is searched anew, a change of the size within that may be chance."
    )


def _body(data: Data) -> str:
    parts = []
    for report in data.values():
        base = report["base"]
        rows = [("defaults", _error(base), "", _bytes(base), "")]
        rows += [
            (change.name, _error(x), f"{change.points:+.2f}", _bytes(x), f"{change.percent:+.1f} %")
            for change, x in zip(_changes(report), report["variants"].values(), strict=True)
        ]
        seeds = report["seeds"]
        parts += [
            f"## {report['experiment']}",
            f"Mean and standard deviation over {seeds} seeds:" if seeds > 1 else "One run each:",
            Table(("reading", "test error", "points", "bytes", "change"), rows).markdown(),
            origin(report["provenance"]),
        ]
    ids = "The ids are those of [ASSUMPTIONS](../../matlab_parity/ASSUMPTIONS.md), which says what each question is."
    return "\n\n".join([*parts, ids])


def _error(measured: Mapping[str, float]) -> str:
    return f"{100 * measured['error']:.2f} ± {100 * measured['error_sd']:.2f} %"


def _bytes(measured: Mapping[str, float]) -> str:
    return f"{measured['bytes']:,.0f} ± {measured['bytes_sd']:,.0f}"


def _figure(data: Data, new_figure: NewFigure) -> Figure:
    names = list(dict.fromkeys(name for report in data.values() for name in report["variants"]))
    figure = new_figure(figsize=(6.8, 1.2 + 0.2 * len(names)))
    error, size = figure.subplots(1, 2, sharey=True)
    for i, report in enumerate(data.values()):
        _, points, points_sd, percent, percent_sd = zip(*_changes(report), strict=True)
        places = [names.index(name) + 0.5 * i / len(data) for name in report["variants"]]
        style: dict[str, Any] = {**_STYLES[i % len(_STYLES)], "markersize": 3, "linewidth": 1}
        error.errorbar(points, places, xerr=points_sd, label=report["experiment"], **style)
        size.errorbar(percent, places, xerr=percent_sd, **style)
    for panel, words in ((error, "test error (points)"), (size, "file (%)")):
        panel.axvline(0, color=GREY, linewidth=0.8)
        panel.set_xlabel(f"change of the {words}")
        panel.grid(axis="y")
    error.set_yticks(range(len(names)), names)
    error.set_ylim(len(names) - 0.4, -0.6)
    figure.legend(*error.get_legend_handles_labels(), loc="outside upper center", ncols=len(data))
    return figure


ASSUMPTIONS = Page(
    folder="assumptions",
    title="What the open readings change",
    sources=("assumptions/*.json",),
    command="python scripts/measure_assumptions.py --quick --experiment mnist_lenet300100 --weights FILE && "
    "python scripts/measure_assumptions.py --quick --experiment mnist_lenet5 --weights FILE",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "assumptions.png",
            "Each answer against the defaults: the change of the decoded file's mean test error and of the file's mean "
            "size. The bars are as long as error and size with this answer spread over seeds.",
            _figure,
        ),
    ),
)
