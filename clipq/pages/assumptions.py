"""The page of ``scripts/measure_assumptions.py``: what each open reading of the paper changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipq.figure_style import BLUE, GREY, LIGHT, NewFigure
from clipq.pages.page import Data, Page, PageFigure, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _headline(data: Data) -> str:
    report = data["assumptions"]
    base, variants = report["base"], report["variants"]
    errors = {name: 100 * (x["error"] - base["error"]) for name, x in variants.items()}
    sizes = {name: 100 * (x["bytes"] / base["bytes"] - 1) for name, x in variants.items()}
    worst, largest = max(errors, key=lambda n: abs(errors[n])), max(sizes, key=lambda n: abs(sizes[n]))
    return (
        f"Of the questions that the paper's sources leave open, {worst} changes the error most "
        f"({errors[worst]:+.2f} points) and {largest} the size ({sizes[largest]:+.1f} %)."
    )


def _summary(data: Data) -> str:
    report = data["assumptions"]
    seeds = report["seeds"]
    runs = f"means of {seeds} runs each" if seeds > 1 else "one run each, so that small differences mean nothing"
    error, spread = (100 * report["base"][key] for key in ("error", "error_sd"))
    return (
        "The paper's sources leave questions open; each is an option, and here is what the other answers change, on "
        f"`{report['experiment']}`, {runs}. The defaults give {error:.2f}{f' ± {spread:.2f}' if seeds > 1 else ''} "
        f"% test error in {report['base']['bytes']:,.0f} bytes."
    )


def _body(data: Data) -> str:
    report = data["assumptions"]
    base = report["base"]
    rows = [("defaults", f"{100 * base['error']:.2f} %", "", f"{base['bytes']:,.0f}", "")]
    rows += [
        (
            name, f"{100 * x['error']:.2f} %", f"{100 * (x['error'] - base['error']):+.2f}", f"{x['bytes']:,.0f}",
            f"{100 * (x['bytes'] / base['bytes'] - 1):+.1f} %",
        )
        for name, x in report["variants"].items()
    ]  # fmt: skip
    table = Table(("reading", "test error", "points", "bytes", "change"), rows)
    return (
        f"{table.markdown()}\n\nThe ids are those of "
        "[ASSUMPTIONS](../../matlab_parity/ASSUMPTIONS.md), which says what each question is.\n\n"
        f"{origin(report['provenance'])}"
    )


def _figure(data: Data, new_figure: NewFigure) -> Figure:
    report = data["assumptions"]
    base, variants = report["base"], report["variants"]
    figure = new_figure(figsize=(6.8, 1.2 + 0.2 * len(variants)))
    error, size = figure.subplots(1, 2, sharey=True)
    places = range(len(variants))
    error.axvspan(-100 * base["error_sd"], 100 * base["error_sd"], color=LIGHT, label="spread of the defaults")
    error.plot([100 * (x["error"] - base["error"]) for x in variants.values()], places, "o", color=BLUE, markersize=3)
    size.plot(
        [100 * (x["bytes"] / base["bytes"] - 1) for x in variants.values()], places, "o", color=BLUE, markersize=3
    )
    for panel, words in ((error, "test error (points)"), (size, "file (%)")):
        panel.axvline(0, color=GREY, linewidth=0.8)
        panel.set_xlabel(f"change of the {words}")
        panel.grid(axis="y")
    error.set_yticks(places, list(variants))
    error.set_ylim(len(variants) - 0.4, -0.6)
    figure.legend(*error.get_legend_handles_labels(), loc="outside upper center")
    return figure


ASSUMPTIONS = Page(
    folder="assumptions",
    title="What the open readings change",
    sources=("assumptions.json",),
    command="python scripts/measure_assumptions.py",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "assumptions.png",
            "Each answer against the defaults: the change of the decoded file's test error, and of the file's size.",
            _figure,
        ),
    ),
)
