"""The page of MNIST's LeNets: what the file weighs and errs, beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipq.figure_style import BLUE, ORANGE, NewFigure
from clipq.pages.page import Data, Page, PageFigure, duration_in_words, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {"lenet300100": "LeNet-300-100", "lenet5": "LeNet-5"}
_TICKS = (40, 100, 200, 400, 700)
#: network, method, error before and after in %, bytes of all parameters before and after, as published.
PUBLISHED: tuple[tuple[str, str, float | None, float, int, int], ...] = (
    ("lenet300100", "Deep Compression (Han et al., 2016)", 1.64, 1.58, 1_070_000, 27_000),
    ("lenet300100", "Entropy-penalized reparameterization (Oktay et al., 2020)", 1.6, 1.9, 1_066_440, 8_560),
    ("lenet5", "Deep Compression (Han et al., 2016)", 0.80, 0.74, 1_720_000, 44_000),
    ("lenet5", "MIRACLE (Havasi et al., 2019)", None, 0.69, 1_724_320, 3_030),
    ("lenet5", "Entropy-penalized reparameterization (Oktay et al., 2020)", 0.7, 1.0, 1_724_320, 2_840),
)


def _headline(data: Data) -> str:
    parts = []
    for network, name in _NAMES.items():
        reports = [r for r in data.values() if r["network"]["name"] == network]
        if reports:
            best = max(reports, key=lambda r: r["size"]["ratio"] if _gain(r) >= 0 else 0)
            parts.append(
                f"{name} {best['size']['ratio']:.0f} times smaller at {100 * best['error']['decoded_test']:.2f} % "
                f"error (dense {100 * best['error']['dense_test']:.2f} %)"
            )
    return f"MNIST, whole files: {'; '.join(parts)}."


def _gain(report: Mapping[str, Any]) -> float:
    return report["error"]["dense_test"] - report["error"]["decoded_test"]


def _summary(data: Data) -> str:
    rows: list[tuple[str, ...]] = []
    for network, name in _NAMES.items():
        rows += [
            (
                name, method, "-" if before is None else f"{before:.2f} %", f"{after:.2f} %",
                f"{size:,}", f"{dense / size:.1f}x",
            )
            for n, method, before, after, dense, size in PUBLISHED
            if n == network
        ]  # fmt: skip
        rows += [
            (
                name, f"**clipq**, {_start(r)}, `{r['config']['encode']['coder']}` coder",
                f"{100 * r['error']['dense_test']:.2f} %", f"{100 * r['error']['decoded_test']:.2f} %",
                f"{r['size']['file']:,}", f"**{r['size']['ratio']:.1f}x**",
            )
            for r in data.values()
            if r["network"]["name"] == network
        ]  # fmt: skip
    header = ("network", "method", "error, dense", "error, compressed", "bytes", "smaller")
    return (
        "Test error on 10,000 images, ours of the network decoded from the file; bytes of the whole file: weights, "
        "codebooks, biases, names and checksums. The test images are read once, at the end; the epoch is chosen on "
        f"images held out of the training set.\n\n{Table(header, rows, n_text=2).markdown()}"
    )


def _start(report: Mapping[str, Any]) -> str:
    weights = report["config"]["network"]["weights"]
    return f"from Caffe's weights, seed {_seed(report)}" if weights else f"trained here, seed {_seed(report)}"


def _seed(report: Mapping[str, Any]) -> int:
    return int(report["config"]["run"]["seed"])


def _body(data: Data) -> str:
    parts = []
    for name, report in data.items():
        rows = [
            (
                x["name"].removesuffix(".weight"), f"{x['weights']:,}", f"{x['p']:.2f}", str(x["b"]),
                f"{100 * x['kept'] / x['weights']:.1f}", f"{x['bytes']:,}", f"{x['ratio']:.1f}x",
            )
            for x in report["layers"]
        ]  # fmt: skip
        table = Table(("layer", "weights", "p", "b", "kept %", "bytes", "smaller"), rows, n_text=1)
        seconds = ", ".join(f"{stage} {duration_in_words(s)}" for stage, s in report["seconds"].items() if s >= 1)
        parts += [
            f"## {name}", table.markdown(), f"Time: {seconds}.",
            origin(report["provenance"], report["provenance"]["seconds"]),
        ]  # fmt: skip
    return "\n\n".join(parts)


def _figure(data: Data, new_figure: NewFigure) -> Figure:
    figure = new_figure(figsize=(6.8, 3.0), layout="constrained")
    panels = figure.subplots(1, len(_NAMES))
    for panel, (network, name) in zip(panels, _NAMES.items(), strict=True):
        published = [(dense / size, error) for n, _, _, error, dense, size in PUBLISHED if n == network]
        ours = [r for r in data.values() if r["network"]["name"] == network]
        panel.plot(*zip(*published, strict=True), "o", color=ORANGE, label="published")
        for i, r in enumerate(ours):
            dense, decoded = (100 * r["error"][key] for key in ("dense_test", "decoded_test"))
            panel.plot([r["size"]["ratio"]] * 2, [dense, decoded], "-", color=BLUE, linewidth=1)
            panel.plot(
                r["size"]["ratio"], dense, "o", color=BLUE, fillstyle="none", label="clipq, dense" if not i else ""
            )
            panel.plot(r["size"]["ratio"], decoded, "o", color=BLUE, label="clipq, decoded" if not i else "")
        panel.set_xscale("log")
        panel.set_xlim(30, 800)
        panel.set_xticks(_TICKS, [f"{tick}x" for tick in _TICKS])
        panel.set_xticks([], minor=True)
        panel.set_ylim(0, 2.5)
        panel.set_title(name)
        panel.set_xlabel("times smaller")
        panel.grid(visible=True)
    panels[0].set_ylabel("test error (%)")
    panels[-1].legend(loc="lower right")
    return figure


MNIST = Page(
    folder="mnist",
    title="MNIST's LeNets",
    sources=("mnist/*.json",),
    command="python scripts/mnist_results.py --caffe FOLDER",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "error_and_size.png",
            "Test error and how many times smaller the whole file is: ours (blue, joined to its own dense network's "
            "error) and the published figures (orange).",
            _figure,
        ),
    ),
)
