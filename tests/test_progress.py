"""The bars of a long run."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from clipq.progress import ProgressBars, SearchBar
from clipq.search import Evaluation


@pytest.mark.parametrize("work", ["training", "search"])
def test_what_ends_the_work_is_told_below_its_bar(work: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bar that is left open is drawn once more when Python ends."""
    bar = ProgressBars("CLIP-Q") if work == "training" else SearchBar(9)
    with pytest.raises(KeyboardInterrupt), closing(bar):
        if isinstance(bar, SearchBar):
            bar(Evaluation("fc.weight", 0, 0.5, 4, 0.1, 80, 0.2, -0.1, 0.01))
            raise KeyboardInterrupt
        for _ in bar.steps([1, 2, 3], 3, 0, 1, 0):
            raise KeyboardInterrupt
    print("interrupted", file=sys.stderr)
    del bar
    assert capsys.readouterr().err.endswith("\ninterrupted\n")
