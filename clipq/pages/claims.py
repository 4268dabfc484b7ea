"""The page of ``scripts/mnist_claims.py``: what the paper's ideas are worth on MNIST's LeNets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from clipq.figure_style import BLUE, GREY, ORANGE, NewFigure
from clipq.pages.mnist import NAMES, PUBLISHED
from clipq.pages.page import Data, Page, PageFigure, commit_in_words, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
_ORDERS = ("in parallel", "in parallel, mask kept", "one after the other")
_SEARCHES = {"bayesopt": BLUE, "random": ORANGE, "uniform": GREY}
_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100)
_WORST_SHOWN = 2.0  # times the dense network's error


def _networks(data: Data) -> list[tuple[str, Mapping[str, Any]]]:
    return [(NAMES[name], data[name]) for name in NAMES if name in data]


def _is_searched(claims: Mapping[str, Any]) -> bool:
    """Whether searches were compared, and not only one made for the orders."""
    return all(_of(claims["searches"], search=search) for search in _SEARCHES)


def _mean(rows: Sequence[Row], key: str) -> float:
    return fmean(row[key] for row in rows)


def _error(rows: Sequence[Row]) -> str:
    spread = f" ± {pstdev([100 * row['test_error'] for row in rows]):.2f}" if len(rows) > 1 else ""
    return f"{100 * _mean(rows, 'test_error'):.2f}{spread} %"


def _of(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _severities(claims: Mapping[str, Any], search: str) -> list[float]:
    return sorted({row["severity"] for row in _of(claims["searches"], search=search)})


def _headline(data: Data) -> str:
    parts = []
    for name, claims in _networks(data):
        parallel, after = (_of(claims["orders"], order=order) for order in (_ORDERS[0], _ORDERS[2]))
        parts.append(f"on {name} {_error(parallel)} error in parallel, {_error(after)} one after the other")
    return f"Pruning and quantizing with the same (p, b) and as many epochs: {'; '.join(parts)}."


def _summary(data: Data) -> str:
    rows = [
        (
            name, order, _error(found := _of(claims["orders"], order=order)), f"{_mean(found, 'bytes'):,.0f}",
            f"{_mean(found, 'kept'):,.0f}", str(len(found)),
        )
        for name, claims in _networks(data)
        for order in _ORDERS
    ]  # fmt: skip
    header = ("network", "order", "test error", "bytes", "weights kept", "seeds")
    came_back = [
        f"{100 * fmean(row['recovery'][-1]['came_back'] for row in _of(claims['orders'], order=_ORDERS[0])):.0f} % "
        f"({name})"
        for name, claims in _networks(data)
    ]
    return (
        "The paper says that pruning and quantization belong together, in parallel with the fine-tuning, and that a "
        "weight once pruned must be able to come back. Here are its order, the same with the first step's mask kept, "
        "and the usual order (prune, fine-tune half of the epochs, quantize, fine-tune the other half), with the same "
        "dense networks, (p, b) and epochs. (p, b) are those that Bayesian optimisation found with lambda = 100. All "
        "start from the experiments `mnist_*_small`, with batches of 256, no distillation, and the smallest coder "
        "for each layer; these three orders also without that experiment's ramp of the pruning rate, its folding of "
        "dead units and its rounding of biases, which the searches below have: so theirs differs from `in parallel` "
        f"here with the same (p, b).\n\n{Table(header, rows, n_text=2).markdown()}\n\n"
        f"Of the weights kept in the end, {' and '.join(came_back)} had been pruned by the first step."
    )


def _body(data: Data) -> str:
    parts = []
    for name, claims in _networks(data):
        how = f"{claims['epochs']} epochs of fine-tuning each. Dense: {_error(claims['dense'])}.{_diverged(claims)}"
        made = f"{origin(claims['provenance'], claims['seconds'])} {_commits(claims)}"
        if not _is_searched(claims):
            parts += [f"## {name}: the orders alone", how, made]
            continue
        rows = [
            (
                search, f"{'p' if search == 'uniform' else 'lambda'} = {severity:g}",
                _error(found := _of(claims["searches"], search=search, severity=severity)),
                f"{_mean(found, 'bytes'):,.0f}", str(len(found)),
            )
            for search in _SEARCHES
            for severity in _severities(claims, search)
        ]  # fmt: skip
        parts += [
            f"## {name}: the search",
            f"25 evaluations a layer, by Bayesian optimisation or at random, and the same p with b = "
            f"{claims['uniform_bits']} everywhere; {how}",
            Table(("search", "setting", "test error", "bytes", "seeds"), rows, n_text=2).markdown(),
            made,
        ]
    return "\n\n".join(parts)


def _commits(claims: Mapping[str, Any]) -> str:
    """Finished parts are taken over: the commits that they were made at."""
    counts = Counter(commit_in_words(row["commit"]) for part in ("orders", "searches") for row in claims[part])
    return f"Runs were made at {', '.join(f'{commit} ({n})' for commit, n in counts.most_common())}."


def _diverged(claims: Mapping[str, Any]) -> str:
    """What has no figures."""
    rows = claims.get("diverged", [])
    names = [f"{row.get('order') or '{search} {severity:g}'.format(**row)} (seed {row['seed']})" for row in rows]
    return f" Diverged, and left out: {', '.join(names)}." if rows else ""


def _pareto(data: Data, new_figure: NewFigure) -> Figure:
    networks = [(name, claims) for name, claims in _networks(data) if _is_searched(claims)]
    figure = new_figure(figsize=(3.6 * len(networks) + 0.4, 3.2), layout="constrained")
    for panel, (name, claims) in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        worst = _WORST_SHOWN * 100 * _mean(claims["dense"], "test_error")
        for search, color in _SEARCHES.items():
            groups = [_of(claims["searches"], search=search, severity=s) for s in _severities(claims, search)]
            points = [(_mean(rows, "bytes") / 1000, 100 * _mean(rows, "test_error"), rows) for rows in groups]
            shown = [
                (size, error, pstdev([100 * r["test_error"] for r in rows]))
                for size, error, rows in points
                if error <= worst
            ]
            if shown:
                panel.errorbar(
                    *zip(*shown, strict=True), fmt="o-", color=color, markersize=4, linewidth=1, label=search
                )
            lost = [size for size, error, _ in points if error > worst]
            panel.plot(lost, [worst] * len(lost), linestyle="", marker=r"$\uparrow$", color=color, markersize=9)
        panel.axhline(100 * _mean(claims["dense"], "test_error"), color=GREY, linewidth=1, linestyle=":", label="dense")
        published = [(size / 1000, after) for n, _, _, after, _, size in PUBLISHED if NAMES[n] == name]
        panel.plot(*zip(*published, strict=True), "k^", markersize=5, label="published")
        panel.set_xscale("log")
        smallest, largest = panel.get_xlim()
        ticks = [kb for kb in _TICKS if smallest <= kb <= largest]
        panel.set_xticks(ticks, [f"{kb:g}" for kb in ticks])
        panel.set_xticks([], minor=True)
        panel.set_ylim(0.5 * worst / _WORST_SHOWN, 1.04 * worst)
        panel.set_title(name)
        panel.set_xlabel("kB of the file")
        panel.set_ylabel("test error (%)")
        panel.grid(visible=True)
    panel.legend()
    return figure


def _recovery(data: Data, new_figure: NewFigure) -> Figure:
    figure = new_figure(figsize=(5.2, 3.0), layout="constrained")
    panel = figure.subplots()
    for (name, claims), color in zip(_networks(data), (BLUE, ORANGE), strict=False):
        runs = [row["recovery"] for row in _of(claims["orders"], order=_ORDERS[0])]
        epochs = range(1, len(runs[0]) + 1)
        for key, style, what in (("came_back", "-", "pruned by the first step"), ("new", ":", "not kept an epoch ago")):
            share = [100 * fmean(run[i][key] for run in runs) for i in range(len(runs[0]))]
            panel.plot(epochs, share, style, color=color, label=f"{name}: {what}")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("epoch")
    panel.set_ylabel("of the kept weights (%)")
    panel.grid(visible=True)
    panel.legend(fontsize=8)
    return figure


CLAIMS = Page(
    folder="claims",
    title="The paper's claims",
    sources=("claims/*.json",),
    command="python scripts/mnist_claims.py --networks lenet300100 --epochs 12 --seeds 3 4 5 && "
    "python scripts/mnist_claims.py --networks lenet5 --epochs 4 --seeds 15 16 17",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "pareto.png",
            "Test error against the bytes of the file, from mild to severe settings, mean and standard deviation over "
            "seeds: (p, b) found by Bayesian optimisation, at random, and the same everywhere; arrows for settings "
            "whose error is beyond the picture; published points as triangles; the dense networks' error dotted.",
            _pareto,
        ),
        PageFigure(
            "recovery.png",
            "Of the weights that are kept after each epoch, those that the first step had pruned (solid) and those "
            "that were not kept after the epoch before (dotted).",
            _recovery,
        ),
    ),
)
