"""A run's report as a person reads it: ``report.md`` and the text at the end of a run, from ``report.json`` alone.

The schema of the report is that of ``clipq.run``.  Percentages are of images (errors) or of weights (kept); points are
percentage points.  Bytes are those of the file on disk: every table's parts sum to its size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from clipq.atomic_file import atomic_write, write_text
from clipq.conventions import Conventions
from clipq.run_files import RunFiles
from clipq.text_table import Table

Report = Mapping[str, Any]

FIGURES = "figures"


def write_report_page(report: Report, folder: str | Path) -> Path:
    """Writes ``report.md`` and ``figures/*.png`` into ``folder``; the page's path.

    The page comes last, so that a folder with a page is a run that is finished.
    """
    from clipq.figures import draw_figures

    folder = Path(folder)
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    captions = {}
    for drawing in draw_figures(report):
        with atomic_write(folder / FIGURES / drawing.name) as file:
            file.write(drawing.png)
        captions[f"{FIGURES}/{drawing.name}"] = drawing.caption
    page = RunFiles(folder).page
    write_text(page, markdown_page(report, captions))
    return page


def markdown_page(report: Report, figures: Mapping[str, str] | None = None) -> str:
    """The page in Markdown.

    figures: path relative to the page -> caption, in the order in which they are embedded.
    """
    size, seconds = report["size"], report["seconds"]
    sections = [
        f"# {report['network']['name']} on {report['data']['name']}: {size['ratio']:.1f} times smaller",
        _headline(report),
        errors_table(report).markdown(),
        "## Layers",
        layers_table(report).markdown(),
        "p is the pruning rate and b the bits of a code as they were chosen; kept % is what is stored, without the "
        "filler zeros of the index. The ratio is that of the dense bytes to the stored ones, codebook included.",
        _search_words(report),
        *(f"![{_plain(caption)}]({path})\n\n*{caption}*" for path, caption in (figures or {}).items()),
        "## Readings of the paper",
        _readings(report),
        "## Time",
        Table(("stage", "seconds"), [(stage, f"{s:,.1f}") for stage, s in seconds.items()]).markdown(),
        "Of the process that finished the run, all lambdas together; what an interrupted one had done is not in it.",
        "## Where this comes from",
        _provenance(report),
        "## Files",
        "\n".join(f"- [`{name}`]({name}): {what}" for name, what in files(report).items()),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def terminal_table(report: Report, folder: str | Path | None = None) -> str:
    """What a run ends with on the terminal.

    folder: the run's, to say where everything lies.
    """
    network, size = report["network"], report["size"]
    parts = [
        f"{network['name']} on {report['data']['name']}: {size['dense']:,} -> {size['file']:,} bytes, "
        f"{size['ratio']:.1f} times smaller",
        layers_table(report).plain(),
        errors_table(report).plain(),
    ]
    if folder is not None:
        parts.append(f"{Path(folder)}/\n  {', '.join([RunFiles(Path()).page.name, FIGURES + '/', *files(report)])}")
    return "\n\n".join(parts)


def layers_table(report: Report) -> Table:
    """A row a layer; then what else the file holds, and the file, whose bytes are the sum."""
    layers, size = report["layers"], report["size"]
    rows = [
        (
            short_name(x["name"]), f"{x['weights']:,}", f"{x['p']:g}", str(x["b"]), _percent(x["kept"], x["weights"]),
            "-" if x["index_bits"] is None else str(x["index_bits"]), f"{x['bytes']:,}", f"{x['ratio']:.1f}x",
        )
        for x in layers
    ]  # fmt: skip
    if other := size["sections"].get("tensors"):
        rows.append(("biases and other tensors", "", "", "", "", "", f"{other:,}", ""))
    rows.append(("directory", "", "", "", "", "", f"{size['sections']['directory']:,}", ""))
    weights, kept = sum(x["weights"] for x in layers), sum(x["kept"] for x in layers)
    total = (
        "file", f"{weights:,}", "", "", _percent(kept, weights), "", f"{size['file']:,}", f"{size['ratio']:.1f}x",
    )  # fmt: skip
    header = ("layer", "weights", "p", "b", "kept %", "index bits", "bytes", "ratio")
    return Table(header, [*rows, total], n_totals=1)


def errors_table(report: Report) -> Table:
    """Top-1 error of the dense network, of the compressed one, and of the file's, decoded into a fresh network."""
    error = report["error"]
    rows = [
        ("dense", _error(error["dense_val"]), _error(error["dense_test"])),
        ("compressed", _error(error["compressed_val"]), _error(error["compressed_test"])),
        ("decoded from the file", "", _error(error["decoded_test"])),
    ]
    return Table(("error", f"validation ({_measured(report, 'val')})", f"test ({_measured(report, 'test')})"), rows)


def files(report: Report) -> dict[str, str]:
    """What the run's folder holds, beside this page: name -> what it is."""
    searches, run = {}, RunFiles(Path())
    if report["search"]:
        for number, tried in enumerate(report["selection"]["tried"]):
            name = run.attempt(number).search.name
            searches[name] = f"the search's evaluations with lambda = {tried['lambda']:g}, a line each"
    return {
        run.clipq.name: "the compressed network; `clipq info`, `clipq decode` and `clipq encode` work on it",
        run.mat.name: "the same codes, levels and tensors as a MATLAB struct",
        run.config.name: "the experiment with every key resolved",
        **searches,
        run.report.name: "everything that this page is drawn from",
    }


def short_name(layer: str) -> str:
    """A layer's name without ``.weight``."""
    return layer.removesuffix(".weight")


def _headline(report: Report) -> str:
    error, size, data = report["error"], report["size"], report["data"]
    change = 100 * (error["decoded_test"] - error["dense_test"])
    images = round((error["decoded_test"] - error["dense_test"]) * data["test"])
    words = (
        f"**{report['network']['name']}** ({report['network']['parameters']:,} parameters): "
        f"{_kilobytes(size['dense'])} dense, **{_kilobytes(size['file'])}** as a file, "
        f"**{size['ratio']:.1f} times smaller**. Decoded from the file it errs on **{_error(error['decoded_test'])}** "
        f"of the test images, the dense network on {_error(error['dense_test'])}: {change:+.2f} points, {images:+,} of "
        f"{_measured(report, 'test')}."
    )
    if error["decoded_test"] != error["compressed_test"]:
        words += (
            f"\n\n**The file's error is not that of the network in memory ({_error(error['compressed_test'])}).** "
            "Decoded weights are meant to be the same bit for bit; on another device the arithmetic may differ."
        )
    return words


def _search_words(report: Report) -> str:
    config, evaluations = report["config"]["search"], report["search"]
    if config["mode"] == "uniform":
        return f"## The choice of p and b\n\nNot searched: p = {config['p']:g} and b = {config['b']} for every layer."
    if config["mode"] == "given":
        return "## The choice of p and b\n\nNot searched: given for each layer by the experiment."
    n_layers = len({e["layer"] for e in evaluations})
    how = {"bayesopt": "Bayesian optimisation", "random": "Random draws"}[config["mode"]]
    selection = report["selection"]
    return (
        f"## The choice of p and b\n\n{how}, layer by layer: the least error - {selection['lambda']:g} x saving, the "
        f"error on {min(config['subset'], report['data']['train']):,} training images{_unread(report)}, the saving as "
        f"a fraction of the whole network's bits. {len(evaluations):,} evaluations for {n_layers} layers took "
        f"{sum(e['seconds'] for e in evaluations):,.1f} s with this lambda.{_selection_words(selection)}"
    )


def _selection_words(selection: Mapping[str, Any]) -> str:
    """Nothing where one lambda was tried."""
    tried, accepted = selection["tried"], selection["accepted"]
    if len(tried) == 1:
        return ""
    errors = ", ".join(f"{_error(x['val_error'])} with {x['lambda']:g}" for x in tried)
    if min(x["val_error"] for x in tried) > accepted:
        return (
            f" None of the {len(tried)} lambdas brought the network's error on the validation images down to "
            f"{_error(accepted)}, and the one with the lowest error was taken: {errors}."
        )
    return (
        f" Lambdas were tried until the network's error on the validation images was no more than {_error(accepted)}, "
        f"and the last one was taken: {errors}."
    )


def _measured(report: Report, split: str) -> str:
    """How many images of ``val`` or ``test`` the errors are of."""
    left_out = report["data"].get("left_out", {}).get(split, 0)
    return f"{report['data'][split]:,} images{f', left out as unreadable: {left_out:,}' if left_out else ''}"


def _unread(report: Report) -> str:
    """Behind a number of training images, of which any that cannot be read is left out."""
    images = report["config"]["data"].get("images")
    return " (less unreadable ones)" if images and images["skip_corrupt"] else ""


def _readings(report: Report) -> str:
    chosen = report["config"]["conventions"]
    rows = [
        (f.metadata["id"], f"`{f.name}`", f"`{chosen[f.name]}`", f"`{f.default}`", f.metadata["question"])
        for f in fields(Conventions)
        if chosen[f.name] != f.default
    ]
    if not rows:
        return (
            "Where the paper's sources leave a question open, this run follows the defaults of `clipq/conventions.py`."
        )
    header = ("id", "reading", "here", "default", "question")
    words = "Questions that the paper's sources leave open, answered otherwise than by default:"
    return f"{words}\n\n{Table(header, rows, n_text=5).markdown()}"


def _provenance(report: Report) -> str:
    origin, data, experiment = report["provenance"], report["data"], report["config"]
    hardware = origin["hardware"]
    machine = [
        hardware["processor"],
        _counted(hardware["cores"], "core"),
        _counted(hardware["threads"], "thread"),
        *hardware["gpus"],
    ]
    trained = f"trained here, {_counted(experiment['dense']['epochs'], 'epoch')}"
    packages = {"Python": origin["python"], "clipq": origin["clipq"], **origin["packages"]}
    rows = [
        ("experiment", f"{report['experiment']}: {experiment['experiment']['description']}"),
        ("command", f"`{origin['command']}`"),
        ("again", "`clipq train --experiment config.toml`, in this folder"),
        ("commit", f"`{origin['commit']}`"),
        ("dense network", experiment["network"]["weights"] or trained),
        (
            "data",
            f"{data['name']}: {data['train']:,} training{_unread(report)}, {data['val']:,} validation, "
            f"{data['test']:,} test images",
        ),
        ("data's sha256", f"`{data['sha256']}`"),
        ("seed", str(origin["seed"])),
        ("started", f"{origin['started']}, {origin['seconds']:,.1f} s"),
        ("machine", f"{hardware['system']}, {', '.join(machine)}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    return Table(("what", "value"), rows, n_text=2).markdown()


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def _error(error: float) -> str:
    return f"{100 * error:.2f} %"


def _kilobytes(n: int) -> str:
    """In kB of 1,000 bytes, or MB of 10^6."""
    return f"{n / 1e6:,.2f} MB" if n >= 1e6 else f"{n / 1e3:,.1f} kB"


def _plain(caption: str) -> str:
    """A caption's first sentence as the alternative text of an image."""
    return caption.split(". ")[0].removesuffix(".").replace("[", "(").replace("]", ")")
