"""Draws every table and figure of results/ from its JSON; with --check only says whether they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clipq.errors import ClipqError, DataError
from clipq.pages import PAGES
from clipq.pages.site import measured_pages, outdated, write_site

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if anything is not up to date")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder (default: the repository's)")
    options = parser.parse_args(argv)
    try:
        if not measured_pages(options.results, PAGES):
            raise DataError(f"{options.results}: expected a folder of results, found none of their JSON files")
        lines = outdated(options.results, PAGES) if options.check else write_site(options.results, PAGES)
    except ClipqError as error:
        print(error, file=sys.stderr)
        return 2
    print(*lines, sep="\n", end="\n" if lines else "")
    if options.check and lines:
        print("make them anew: python scripts/make_results.py")
    return int(options.check and bool(lines))


if __name__ == "__main__":
    sys.exit(main())
