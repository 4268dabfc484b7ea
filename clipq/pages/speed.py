"""The page of ``scripts/benchmark.py speed``: what pruning-quantization costs, beside a copy of the weights and beside
dense training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipq.figure_style import BLUE, ORANGE, NewFigure
from clipq.pages.page import Data, Page, PageFigure, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _headline(data: Data) -> str:
    ratios = [x["ratio"] for report in data.values() for x in report["training"]]
    return f"A training step of CLIP-Q costs {min(ratios):.2f} to {max(ratios):.2f} dense ones."


def _summary(data: Data) -> str:
    rows = [
        (
            device,
            x["network"] + (", bfloat16" if x.get("amp") else ""),
            str(x["batch"]),
            f"{x['dense_ms']:.2f} ms",
            f"{x['clipq_ms']:.2f} ms",
            f"{x['numpy_ms']:.2f} ms" if "numpy_ms" in x else "-",
            f"{x['plain_ms']:.2f} ms",
            f"{x['ratio']:.2f}",
        )
        for device, report in data.items()
        for x in report["training"]
    ]
    header = (
        "device",
        "network",
        "batch",
        "dense step",
        "CLIP-Q step",
        "with NumPy alone",
        "with the plain version",
        "ratio",
    )
    return (
        "What a training step with pruning-quantization costs beside one without, measured in turn with it, on a CPU "
        "also without Numba (the extra `fast`), and with the plain version (a full sort for each sign). Times are "
        "medians over the turns, and so are ratios, each of a turn's own times:\n\n"
        f"{Table(header, rows, n_text=2).markdown()}"
    )


def _body(data: Data) -> str:
    parts = []
    for device, report in data.items():
        parts += [
            f"## One layer of {report['weights']:,} weights on {device}",
            _operation_table(report).markdown(),
            "A copy reads and writes the weights once, here and now: a time in copies is what the operation costs on "
            "any machine. "
            + ("Later steps know the last step's clips." if report["device"] == "cpu" else "Ten are started in a row."),
            "## Memory and search",
            _memory_text(report["memory"]),
            _search_text(report["search"]),
            origin(report["provenance"]),
        ]
    return "\n\n".join(parts)


def _operation_table(report: Mapping[str, Any]) -> Table:
    rows = [(x["what"], f"{x['p']:g}", _milliseconds(x["ms"]), f"{x['copies']:.1f}") for x in report["operation"]]
    return Table(("what", "p", "time", "in copies"), rows)


def _milliseconds(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def _memory_text(m: Mapping[str, float]) -> str:
    return (
        f"At its peak a step of AlexNet with one image takes {m['dense']:.2f} times the bytes of the weights, and "
        f"{m['clipq']:.2f} times with CLIP-Q: {m['clipq'] - m['dense']:.2f} more. The largest layer alone is "
        f"{m['largest_layer']:.2f}."
    )


def _search_text(s: Mapping[str, Any]) -> str:
    return (
        f"The search of LeNet-5, {s['evaluations']} evaluations on {s['images']:,} images ({s['data']}), took "
        f"{s['seconds']:.1f} s: {s['evaluation_seconds']:.1f} s the evaluations, as long as {s['passes']:.0f} runs of "
        f"the network on these images, and {s['proposal_seconds']:.1f} s the choice of what to try next."
    )


def _figure(data: Data, new_figure: NewFigure) -> Figure:
    figure = new_figure(figsize=(6.8, 2.6))
    panels = figure.subplots(1, len(data), squeeze=False)[0]
    for panel, (device, report) in zip(panels, data.items(), strict=True):
        rows = [x for x in report["operation"] if x["what"] != "copy"]  # which is the unit
        names, copies = [f"{x['what']}, p = {x['p']:g}" for x in rows], [x["copies"] for x in rows]
        colours = [BLUE if "step" in name else ORANGE for name in names]
        panel.barh(range(len(names)), copies, color=colours, height=0.7)
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.set_xlim(left=min(1, 0.5 * min(copies)))  # a bar shorter than the axis would not be seen
        panel.xaxis.set_major_formatter("{x:g}")
        panel.grid(axis="x")
        panel.set_xlabel("time, in copies of the weights")
        panel.set_title(device)
    return figure


SPEED = Page(
    folder="speed",
    title="The cost of pruning-quantization",
    sources=("speed/*.json",),
    command="python scripts/benchmark.py speed --save",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "operation.png",
            "Pruning-quantization of one large layer (blue) beside a sort and a selection of its weights (orange).",
            _figure,
        ),
    ),
)
