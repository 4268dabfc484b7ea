"""The page of ``scripts/benchmark.py codec`` and ``scripts/fuzz.py``: the file's coders beside others, and what
became of damaged files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipq.figure_style import BLUE, GREY, LIGHT, ORANGE, NewFigure
from clipq.pages.page import Data, Page, PageFigure, origin
from clipq.text_table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
OURS, NUMBA = "clipq entropy", "Numba's kernels"
#: How a coder's name starts or goes on -> its name in the table over all sets.
_IN_SUMMARY = {
    OURS: "clipq `entropy`", "NNCodec": "NNCodec", "static tables": "gaps + codes, ANS", "brotli": "brotli",
    "Huffman": "Deep Compression, Huffman", "clipq fixed": "clipq `fixed`",
}  # fmt: skip
_COLOURS = (BLUE, ORANGE, GREY, GREY, LIGHT, LIGHT)
_MARKERS = ("o", "D", "x", "+", "v", "s")


def _coder(of_set: Row, part: str) -> Row:
    """The row of the coder whose name has this part."""
    return next(row for row in of_set["rows"] if part in row["coder"])


def _against_nncodec(of_set: Row) -> float:
    """How much smaller ours is: 0.05 is 5 % smaller."""
    return 1 - _coder(of_set, OURS)["bytes"] / _coder(of_set, "NNCodec")["bytes"]


def _speed(of_set: Row, row: Row, what: str) -> float:
    """MB of float32 weights a second."""
    return 4e-6 * of_set["weights"] / row[what]


def _headline(data: Data) -> str:
    sets = data["benchmark"]["sets"]
    smaller = [100 * _against_nncodec(s) for s in sets]
    large = max(sets, key=lambda s: s["weights"])
    compiled = [f", {_both_speeds(large, row)} with {NUMBA}" for row in large["rows"] if NUMBA in row["coder"]]
    return (
        f"The `entropy` coder beside NNCodec (DeepCABAC): {min(smaller):.1f} to {max(smaller):.1f} % smaller on "
        f"{len(sets)} sets of weights; {large['weights'] / 1e6:.0f} million weights are "
        f"{_both_speeds(large, _coder(large, OURS))} by NumPy alone{''.join(compiled)}."
    )


def _both_speeds(of_set: Row, row: Row) -> str:
    encoding, decoding = (_speed(of_set, row, what) for what in ("encode", "decode"))
    return f"encoded at {encoding:.0f} and decoded at {decoding:.0f} MB/s of float32"


def _summary(data: Data) -> str:
    rows = [
        (
            s["set"],
            f"{s['h0']:,.0f}",
            *(f"{_coder(s, part)['times_h0']:.3f}" for part in _IN_SUMMARY),
            f"{100 * _against_nncodec(s):.1f} %",
        )
        for s in data["benchmark"]["sets"]
    ]
    header = ("weights", "H0, bytes", *_IN_SUMMARY.values(), "smaller than NNCodec")
    return (
        "The bytes of sparse quantized layers, in multiples of H0, the zeroth-order entropy of their codes. Codebooks "
        "are in, biases are not; ours also hold names, shapes and checksums, the others nothing but codes and levels. "
        f"All coders ran side by side on the same weights.\n\n{Table(header, rows).markdown()}"
    )


def _body(data: Data) -> str:
    report = data["benchmark"]
    parts = []
    for s in report["sets"]:
        parts += [f"## {s['set']}", _table(s).markdown(), _counted(s)]
    parts += [
        "## How it was measured",
        "Speeds are MB of float32 weights a second, the best of three or more (of fewer where three take longer than "
        "3 s); memory is what coding takes at its peak beyond what the process held before, over the float32 weights "
        "(in the first set of all also what libraries set up when they are first used). Lossless: what was decoded is "
        "what was encoded. Numba's kernels do the steps of the lanes where Numba is installed, and loaded already or "
        "worth loading, for eight million symbols. `codec_networks.py` trains the networks of ours: those of MNIST as "
        "the experiments do, with the same p and b for every layer, and on digits, whose images are enlarged for the "
        "LeNets. Deep Compression's SqueezeNet is read from its published file; independent Laplace weights are "
        "pruned at p = 0.9 and have 15 levels, as Caffe's LeNets here, which are not trained again.",
        origin(report["provenance"]),
    ]
    if "fuzz" in data:
        parts += ["## Damaged files", _fuzz(data["fuzz"])]
    return "\n\n".join(parts)


def _table(s: Row) -> Table:
    size = 4 * s["weights"]
    rows = []
    for row in s["rows"]:
        cells = ["-"] * 5
        if "encode" in row:
            cells = [f"{_speed(s, row, what):,.0f}" for what in ("encode", "decode")]
            memory = [row[f"{what}_memory"] for what in ("encode", "decode")]
            cells += ["-" if m is None else f"{m / size:.2f}" for m in memory]
            cells.append("yes" if row["lossless"] else "NO")
        rows.append((row["coder"], f"{row['bytes']:,}", f"{row['times_h0']:.3f}", *cells))
    header = ("coder", "bytes", "of H0", "encode MB/s", "decode MB/s", "memory, encode", "memory, decode", "lossless")
    return Table(header, rows)


def _counted(s: Row) -> str:
    """What the search's count of bits is off by."""
    row = _coder(s, OURS)
    return (
        f"{s['weights']:,} weights; codebooks take {s['codebooks']:,} bytes. The search counts the layers of the "
        f"`entropy` coder {100 * (row['counted'] / row['sections'] - 1):+.2f} % off, in {row['count_seconds']:.2f} s; "
        f"encoding takes {row['encode']:.2f} s, decoding {row['decode']:.2f} s."
    )


def _fuzz(report: Mapping[str, Any]) -> str:
    counts: dict[str, dict[str, int]] = {}
    for outcome, n in report["outcomes"].items():
        damage, result = outcome.rsplit(": ", 1)
        of_damage = counts.setdefault(damage, {})
        kind = "network" if result == "network" else "error"
        of_damage[kind] = of_damage.get(kind, 0) + n
    rows = [
        (damage, f"{sum(n.values()):,}", f"{n.get('error', 0):,}", f"{n.get('network', 0):,}")
        for damage, n in counts.items()
    ]
    table = Table(("damage", "files", "a named error", "a valid network"), rows).markdown()
    both_ways = "; and each was the same with Numba's kernels as without" if report["compiled"] else ""
    return (
        f"`{report['provenance']['command']}` read {report['cases']:,} damaged files, made of {report['files']} sound "
        f"ones. Each gave an error that names section and offset, or a valid network (where the checksums were made "
        f"right again, or the damage left the file as it was); none gave another exception or a warning, took more "
        f"than {report['slowest_seconds']:.2f} s, or more memory than the {report['memory_limit'] >> 30} GB that "
        f"were allowed{both_ways}.\n\n{table}\n\n{origin(report['provenance'], report['seconds'])}"
    )


def _figure(data: Data, new_figure: NewFigure) -> Figure:
    sets = data["benchmark"]["sets"]
    figure = new_figure(figsize=(6.8, 1.2 + 0.24 * len(sets)))
    panel = figure.subplots()
    places = range(len(sets))
    for (part, name), colour, marker in zip(_IN_SUMMARY.items(), _COLOURS, _MARKERS, strict=True):
        sizes = [_coder(s, part)["times_h0"] for s in sets]
        edge = GREY if colour == LIGHT else colour
        panel.plot(
            sizes, places, marker, color=colour, markeredgecolor=edge, markersize=4.5, label=name.replace("`", "")
        )
    panel.axvline(1, color=GREY, linewidth=0.8)
    panel.set_yticks(places, [s["set"] for s in sets])
    panel.set_ylim(len(sets) - 0.4, -0.6)
    panel.grid(axis="both")
    panel.set_xlabel("size, in multiples of the codes' zeroth-order entropy")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


CODEC = Page(
    folder="codec",
    title="The codec",
    sources=("codec/*.json",),
    command="python scripts/codec_networks.py FOLDER && python scripts/benchmark.py codec --save FOLDER/*.clipq && "
    "python scripts/fuzz.py --save",
    headline=_headline,
    summary=_summary,
    body=_body,
    figures=(
        PageFigure(
            "sizes.png",
            "Size of the layers over the zeroth-order entropy of their codes. Further left is smaller.",
            _figure,
        ),
    ),
)
