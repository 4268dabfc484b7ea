"""Tables of text, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table whose cells are texts.

    header: the columns' titles.
    rows: as many cells each.
    n_text: leading columns that hold text, aligned left; the others are numbers, aligned right.
    n_totals: last rows that sum up the others: below a rule in plain text, bold in Markdown.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_text: int = 1
    n_totals: int = 0

    def plain(self) -> str:
        """Columns aligned by spaces, two between them."""
        every = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in every) for i in range(len(self.header))]
        lines = ["  ".join(self._padded(row, widths)).rstrip() for row in every]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        if self.n_totals:
            lines.insert(len(lines) - self.n_totals, rule)
        return "\n".join([lines[0], rule, *lines[1:]])

    def markdown(self) -> str:
        """A table of GitHub's Markdown."""
        start = len(self.rows) - self.n_totals
        body = [
            row if i < start else [f"**{cell}**" if cell else "" for cell in row] for i, row in enumerate(self.rows)
        ]
        marks = ["---" if i < self.n_text else "---:" for i in range(len(self.header))]
        return "\n".join(_markdown_row(row) for row in (self.header, marks, *body))

    def _padded(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            cell.ljust(width) if i < self.n_text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
