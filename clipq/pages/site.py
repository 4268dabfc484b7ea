"""All pages of a folder of results: written, or compared with what is there."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipq.atomic_file import write_bytes, write_text
from clipq.errors import DataError
from clipq.figure_style import STYLE
from clipq.pages.page import Data, Page, PageFigure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

README = "README.md"
_INTRODUCTION = """\
# Results

Every table and figure here is drawn from the JSON files beside it, which also say where they come from: command,
commit, versions, hardware, seeds. `python scripts/make_results.py` draws everything again, and with `--check` says
whether it is up to date."""
#: Under this key a figure's PNG holds the digest of what it was drawn from.
_DIGEST = "clipq-source"


@dataclass(frozen=True)
class MeasuredPage:
    """A page whose measurements are there.  digest: of the JSON files."""

    page: Page
    data: Data
    digest: str


def measured_pages(results: Path, pages: Sequence[Page]) -> list[MeasuredPage]:
    """Those of ``pages`` that have something to show.

    Raises:
        DataError: a file that is not JSON.
    """
    found = []
    for page in pages:
        files = sorted(file for pattern in page.sources for file in results.glob(pattern))
        if files:
            contents = {file: file.read_bytes() for file in files}
            digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents.values()))
            data = {file.stem: _parsed(file, content) for file, content in contents.items()}
            found.append(MeasuredPage(page, data, digest.hexdigest()))
    return found


def write_site(results: Path, pages: Sequence[Page]) -> list[Path]:
    """Writes every page and figure; their paths."""
    measured = measured_pages(results, pages)
    written = []
    for path, text in _texts(results, measured):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        written.append(path)
    for path, figure, source in _figures(results, measured):
        write_bytes(path, draw_png(figure, source))
        written.append(path)
    return written


def outdated(results: Path, pages: Sequence[Page]) -> list[str]:
    """What is missing, or is not what its JSON says now: pages by their text, figures by their source."""
    measured = measured_pages(results, pages)
    complaints = []
    for path, text in _texts(results, measured):
        if not path.is_file():
            complaints.append(f"{path}: missing")
        elif path.read_text(encoding="utf-8") != text:
            complaints.append(f"{path}: not what its JSON says")
    for path, _, source in _figures(results, measured):
        if not path.is_file():
            complaints.append(f"{path}: missing")
        elif source_digest(path) != source.digest:
            complaints.append(f"{path}: damaged, or not drawn from the JSON that is there")
    return complaints


def draw_png(figure: PageFigure, source: MeasuredPage) -> bytes:
    """The figure, in the style of all figures whatever the user's settings of matplotlib are."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**matplotlib.rcParamsDefault} | STYLE
    with matplotlib.rc_context(style):
        drawn: Figure = figure.draw(source.data, Figure)
        buffer = io.BytesIO()
        FigureCanvasAgg(drawn).print_png(buffer, metadata={"Software": None, _DIGEST: source.digest})
    return buffer.getvalue()


def source_digest(path: Path) -> str | None:
    """The digest that a figure holds; None where there is none, or the picture is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()  # the checksums of all chunks
        with Image.open(path) as image:
            image.load()
            return image.info.get(_DIGEST)
    except (OSError, SyntaxError, ValueError):  # Pillow's of broken chunks, and of pixels
        return None


def _texts(results: Path, measured: Sequence[MeasuredPage]) -> Iterator[tuple[Path, str]]:
    yield results / README, _index(measured)
    for source in measured:
        yield results / source.page.folder / README, _page(source)


def _figures(results: Path, measured: Sequence[MeasuredPage]) -> Iterator[tuple[Path, PageFigure, MeasuredPage]]:
    for source in measured:
        for figure in source.page.figures:
            yield results / source.page.folder / figure.name, figure, source


def _index(measured: Sequence[MeasuredPage]) -> str:
    parts = [_INTRODUCTION, "\n".join(f"- {source.page.headline(source.data)}" for source in measured)]
    for source in measured:
        page = source.page
        parts += [f"## {page.title}", page.summary(source.data)]
        parts += [_embedded(figure, f"{page.folder}/") for figure in page.figures[:1]]
        parts += [f"All tables and figures: [{page.folder}]({page.folder}/{README}).", _again(page)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _page(source: MeasuredPage) -> str:
    page, data = source.page, source.data
    figures = [_embedded(figure, "") for figure in page.figures]
    return "\n\n".join([f"# {page.title}", page.summary(data), *figures, page.body(data), _again(page)]) + "\n"


def _embedded(figure: PageFigure, folder: str) -> str:
    return f"![{figure.caption.split('. ')[0].removesuffix('.')}]({folder}{figure.name})\n\n*{figure.caption}*"


def _again(page: Page) -> str:
    return f"Again:\n\n```sh\n{page.command} && python scripts/make_results.py\n```"


def _parsed(file: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{file}: not JSON: {error}") from error
