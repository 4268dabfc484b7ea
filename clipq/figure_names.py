"""The names of layers where a figure has room for a short one only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

#: Characters of a label.
ROOM = 28


def layer_labels(shown: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Name -> label, without ``.weight``, of the names that are shown; different names have different labels.

    A longer one than ROOM has its parts cut from the start on, the last one only if need be, to as many letters as
    there is room for, and so many that no other part in the same place begins like that; the number at a part's end
    stays: ``bert.encoder.layer11.intermediate.dense`` becomes ``bert.enco.layer11.inte.dense``.  What is too long
    with one letter a part, too, loses its start, whether or not that tells it apart.

    names: all those of the network.
    """
    stems: dict[tuple[str, ...], set[str]] = {}
    for path in map(_parts, names):
        for i, part in enumerate(path):
            stems.setdefault(tuple(path[:i]), set()).add(_stem(part))
    return {name: _label(_parts(name), stems) for name in shown}


def shortened(labels: Mapping[str, str]) -> str:
    """The words of a caption, where any label is not the whole name."""
    whole = all(label == ".".join(_parts(name)) for name, label in labels.items())
    return "" if whole else " Long names are cut to what tells them apart."


def _parts(name: str) -> list[str]:
    return name.removesuffix(".weight").split(".")


def _stem(part: str) -> str:
    """Without the number at its end."""
    return part.rstrip("0123456789")


def _label(path: Sequence[str], stems: Mapping[tuple[str, ...], set[str]]) -> str:
    label = ".".join(path)
    for n_parts in (len(path) - 1, len(path)):
        for letters in range(max(map(len, path)), 0, -1):
            if len(label) <= ROOM:
                return label
            label = _cut(path, stems, n_parts, letters)
    return label if len(label) <= ROOM else f"…{label[1 - ROOM :]}"


def _cut(path: Sequence[str], stems: Mapping[tuple[str, ...], set[str]], n_parts: int, letters: int) -> str:
    """The first parts, as far as need be."""
    parts = list(path)
    for i, part in enumerate(path[:n_parts]):
        if len(".".join(parts)) <= ROOM:
            break
        stem = _stem(part)
        parts[i] = _beginning(stem, stems[tuple(path[:i])] - {stem}, letters) + part[len(stem) :]
    return ".".join(parts)


def _beginning(stem: str, others: set[str], letters: int) -> str:
    """The shortest one of so many letters or more that no other stem has.

    No digit ends it, so that it stays apart from the number behind it.
    """
    beginnings = (stem[:n] for n in range(letters, len(stem)) if not stem[n - 1].isdigit())
    return next((b for b in beginnings if not any(other.startswith(b) for other in others)), stem)
