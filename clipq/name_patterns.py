"""Shell patterns on the names of weights: which layers are meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase


class Patterns:
    """Shell patterns and exact names, which stand for the weights and for the modules of these names.

    Exact names are looked up, so that there may be thousands of them for thousands of layers.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._place = {pattern: i for i, pattern in enumerate(dict.fromkeys(patterns))}
        self._shell = [pattern for pattern in self._place if any(sign in pattern for sign in "*?[")]

    def first(self, weight: str) -> str | None:
        """The first of them that stands for this weight, None without one."""
        own = _own(weight)
        shell = (pattern for pattern in self._shell if any(fnmatchcase(name, pattern) for name in own))
        found = [name for name in own if name in self._place] + list(filter(None, [next(shell, None)]))
        return min(found, key=self._place.__getitem__, default=None)

    def match(self, weight: str) -> bool:
        return self.first(weight) is not None

    def unmatched(self, weights: Iterable[str]) -> Iterator[str]:
        """Those that stand for none of these weights."""
        names = {name for weight in weights for name in _own(weight)}
        shell = set(self._shell)
        for pattern in self._place:
            if pattern not in names and not (pattern in shell and any(fnmatchcase(n, pattern) for n in names)):
                yield pattern


def _own(weight: str) -> tuple[str, str]:
    """Of a weight: its name, and that of the module that has it."""
    return weight, weight.rpartition(".")[0]
