"""The page of ``scripts/paper_sizes.py``: which uniform (p, b) reach the file sizes of the paper's Table 4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clipq.figure_style import GREY, NewFigure
from clipq.pages.page import Data, Page, PageFigure, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CODERS = ("fixed", "entropy")
_TICKS = (0.2, 0.5, 0.8, 0.9, 0.95, 0.98)
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9")


def pruning_rate_for(network: Mapping[str, Any], b: int, coder: str, target: float) -> float | None:
    """The pruning rate from which on the file has at most ``target`` bytes, between the measured ones on a straight
    line; -inf where the smallest measured rate is enough, None where the largest is not."""
    points = sorted((x["p"], x[coder]) for x in network["points"] if x["b"] == b)
    rates, sizes = np.array(points).T
    sizes = np.maximum.accumulate(sizes[::-1])[::-1]  # weak pruning can cost more than none
    if target >= sizes[0]:
        return -np.inf
    if target < sizes[-1]:
        return None
    return float(np.interp(-target, -sizes, rates))


def _headline(data: Data) -> str:
    networks = data["paper_sizes"]["networks"]
    bits = _bits(networks[0])
    b = bits[(len(bits) - 1) // 2]
    words = []
    for x in networks:
        fixed, entropy = (_rate(pruning_rate_for(x, b, coder, x["compressed"]), x, "p = ") for coder in _CODERS)
        words.append(f"{x['title']}'s {x['compressed'] / 1e6:.1f} MB take {fixed} (entropy coder: {entropy})")
    return f"The paper's file sizes, with the same p and b = {b} in every layer: {', '.join(words)}."


def _summary(data: Data) -> str:
    report = data["paper_sizes"]
    return "\n\n".join(
        [
            "Which pruning rate p and how many bits b, the same for every layer, give the file sizes that the paper "
            "reports for ImageNet's networks, and which give half of them? Weights are stand-ins, independent of each "
            "other (the coder `fixed` does not look at their values, only at how many are pruned, and where); "
            "shapes, biases, codebooks, header and checksums are real: a size is that of the whole file.",
            _reach_table(report["networks"]).markdown(),
            "The pruning rate from which on the file is as small as the paper's, or half of it. `fixed` is the coder "
            "that the paper counts (relative index and b-bit codes), `entropy` stores the same weights in fewer bytes. "
            f"{_range_words(report['networks'])}",
        ]
    )


def _body(data: Data) -> str:
    report = data["paper_sizes"]
    parts = [
        "## Table 4 of the paper",
        _table_4(report["networks"]).markdown(),
        f"MB are 10^6 bytes. Uncompressed, here: every tensor at 32 bits. Stand-ins: {report['stand_in']}.",
    ]
    for network in report["networks"]:
        parts += [
            f"## {network['title']}: MB by p and b",
            _size_table(network).markdown(),
            f"`fixed` / `entropy`; bold where it is at most the paper's {network['compressed'] / 1e6:.1f} MB.",
        ]
    parts += [
        "## The count and the file",
        _written_table(report["networks"]).markdown(),
        "Sizes above are counted; these files were written, and decoded to the same weights bit for bit.",
    ]
    seconds = sum(network["seconds"] for network in report["networks"])
    return "\n\n".join([*parts, origin(report["provenance"], seconds)])


def _reach_table(networks: Sequence[Mapping[str, Any]]) -> Table:
    header = ("network", "paper", "b", "p, `fixed`", "for half", "p, `entropy`", "for half")
    rows = []
    for network in networks:
        for b in _bits(network):
            cells = [
                _rate(pruning_rate_for(network, b, coder, target), network)
                for coder in _CODERS
                for target in (network["compressed"], network["compressed"] / 2)
            ]
            rows.append((network["title"], f"{network['compressed'] / 1e6:.1f} MB", str(b), *cells))
    return Table(header, rows)


def _range_words(networks: Sequence[Mapping[str, Any]]) -> str:
    rates = [point["p"] for point in networks[0]["points"]]
    return f"Measured from p = {min(rates):g} to {max(rates):g}, between the measured rates on a straight line."


def _table_4(networks: Sequence[Mapping[str, Any]]) -> Table:
    header = ("network", "uncompressed, paper", "here", "CLIP-Q, paper", "ratio", "change of top-1")
    rows = [
        (
            x["title"], f"{x['dense'] / 1e6:.1f} MB", f"{x['stored'] / 1e6:.1f} MB", f"{x['compressed'] / 1e6:.1f} MB",
            f"{x['dense'] / x['compressed']:.0f}x", f"{x['accuracy']:+.1f} %",
        )
        for x in networks
    ]  # fmt: skip
    return Table(header, rows)


def _size_table(network: Mapping[str, Any]) -> Table:
    of = {(x["p"], x["b"]): x for x in network["points"]}
    bits, rates = _bits(network), sorted({p for p, _ in of})
    rows = [(f"{p:g}", *(_cell(of[p, b], network["compressed"]) for b in bits)) for p in rates]
    return Table(("p", *(f"b = {b}" for b in bits)), rows)


def _cell(point: Mapping[str, Any], target: float) -> str:
    texts = (f"{point[coder] / 1e6:.2f}" for coder in _CODERS)
    return " / ".join(
        f"**{text}**" if point[coder] <= target else text for coder, text in zip(_CODERS, texts, strict=True)
    )


def _written_table(networks: Sequence[Mapping[str, Any]]) -> Table:
    header = ("network", "coder", "p", "b", "counted", "file", "difference")
    rows = [
        (
            network["title"], x["coder"], f"{x['p']:g}", str(x["b"]), f"{x['counted']:,}", f"{x['file']:,}",
            f"{100 * (x['counted'] / x['file'] - 1):+.2f} %",
        )
        for network in networks for x in network["written"]
    ]  # fmt: skip
    return Table(header, rows, n_text=2)


def _bits(network: Mapping[str, Any]) -> list[int]:
    return sorted({x["b"] for x in network["points"]})


def _rate(rate: float | None, network: Mapping[str, Any], equals: str = "") -> str:
    rates = [x["p"] for x in network["points"]]
    bound = equals.removesuffix("= ")
    if rate is None:
        return f"{bound}> {max(rates):g}"
    return f"{bound}< {min(rates):g}" if rate == -np.inf else f"{equals}{rate:.2f}"


def _figure(data: Data, new_figure: NewFigure) -> Figure:
    networks = data["paper_sizes"]["networks"]
    figure = new_figure(figsize=(7.2, 3.1))
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for panel, network in zip(panels, networks, strict=True):
        _panel(panel, network)
    panels[0].set_ylabel("file (MB)")
    lines = {line.get_label(): line for line in panels[0].get_lines() if not line.get_label().startswith("_")}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines))
    return figure


def _panel(panel: Axes, network: Mapping[str, Any]) -> None:
    from matplotlib.ticker import LogLocator

    for b, coder, rates, sizes in _curves(network):
        colour = _COLOURS[_bits(network).index(b) % len(_COLOURS)]
        style, label = ("-", f"b = {b}") if coder == "fixed" else ("--", "_")
        panel.plot(1 - rates, sizes / 1e6, style, color=colour, label=label)
    for share, words in ((1.0, "paper"), (0.5, "half")):
        target = share * network["compressed"] / 1e6
        panel.axhline(target, color="black", linewidth=0.8, linestyle=":")
        panel.annotate(
            f"{words}\n{target:.1f}", (1.0, target), xycoords=("axes fraction", "data"), xytext=(2, 0),
            textcoords="offset points", fontsize=6.5, va="center", annotation_clip=False,
        )  # fmt: skip
    panel.plot([], [], "-", color=GREY, label="coder fixed")
    panel.plot([], [], "--", color=GREY, label="coder entropy")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.invert_xaxis()
    shown = [p for p in _TICKS if min(rates) <= p <= max(rates)]
    panel.set_xticks([1 - p for p in shown], [f"{p:g}" for p in shown])
    panel.set_xticks([], minor=True)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("")
    panel.set_title(network["title"])
    panel.set_xlabel("pruning rate p")
    panel.grid(axis="y")


def _curves(network: Mapping[str, Any]) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    for b in _bits(network):
        for coder in _CODERS:
            rates, sizes = np.array(sorted((x["p"], x[coder]) for x in network["points"] if x["b"] == b)).T
            yield b, coder, rates, sizes


PAPER_SIZES = Page(
    folder="paper_sizes",
    title="The paper's file sizes",
    sources=("paper_sizes/paper_sizes.json",),
    command="python scripts/paper_sizes.py",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "paper_sizes.png",
            "Size of the whole file over the pruning rate, the same p and b for every layer, with the paper's size and "
            "half of it.",
            _figure,
        ),
    ),
)
