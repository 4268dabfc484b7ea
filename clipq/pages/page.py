"""What a page of results is, and the words about their origin that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipq.figure_style import NewFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name of a JSON file without ``.json`` -> what is in it.
Data = Mapping[str, Any]
Draw = Callable[[Data, NewFigure], "Figure"]


@dataclass(frozen=True)
class PageFigure:
    """name: of the PNG file.  caption: what it shows.  draw: from the data."""

    name: str
    caption: str
    draw: Draw


@dataclass(frozen=True)
class Page:
    """The page of one folder of results.

    folder: its name in results/.
    title: of the page.
    sources: patterns of the JSON files that everything is drawn from, relative to results/.
    command: makes the JSON again.
    headline: one sentence of Markdown, the finding.
    summary: Markdown for results/README.md: what was measured and found, in a few sentences and one table.
    body: Markdown for the folder's own page, below the summary.
    figures: the first one is shown in results/README.md, too.
    """

    folder: str
    title: str
    sources: tuple[str, ...]
    command: str
    headline: Callable[[Data], str]
    summary: Callable[[Data], str]
    body: Callable[[Data], str]
    figures: tuple[PageFigure, ...] = field(default=())


def origin(provenance: Mapping[str, Any], seconds: float | None = None) -> str:
    """By what, where and when a measurement was made, and how long it took: one sentence."""
    hardware = provenance["hardware"]
    machine = ", ".join(
        [hardware["processor"], f"{hardware['threads']} of {hardware['cores']} cores", *hardware["gpus"]]
    )
    packages = ", ".join(
        f"{name} {version}" for name, version in provenance["packages"].items() if name in ("numpy", "numba", "torch")
    )
    took = f" in {duration_in_words(seconds)}" if seconds else ""
    return (
        f"Measured by `{provenance['command']}`{took} on {machine}; {provenance['started'][:10]}, "
        f"{commit_in_words(provenance['commit'])}, Python {provenance['python']}, {packages}."
    )


def commit_in_words(commit: str) -> str:
    """Its first digits, and whether there were uncommitted changes."""
    clean, changes, _ = commit.partition("+")
    return f"commit `{clean[:12]}`{' with uncommitted changes' if changes else ''}"


def duration_in_words(seconds: float) -> str:
    """Rounded: ``42 s``, ``9 min``, ``3:25 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h"
