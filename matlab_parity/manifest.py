"""The manifest: for every fixture its label, engine, and checksums of all that it was made from.

``original`` is what the release's own code gave, ``reconstructed`` what our ``.m`` files, written from the paper, gave.
A fixture carries the checksums of its reference, collector and inputs from the moment it was made, so writing the
manifest anew cannot hide that one of them has changed since.  ``python -m matlab_parity.manifest`` writes it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from matlab_parity.mat_files import TEXT, FixtureError, Var, check_case, load_mat
from matlab_parity.paths import FIXTURES, MANIFEST, MLCIRCUS, ORIGINAL, RECONSTRUCTED, ROOT

REQUIRED = tuple(
    f"reconstructed/{name}.mat"
    for name in (
        "ws_learn_one_layer", "ws_learn_one_layer_conventions", "ws_search", "ws_train",
        "encode_sparse_quantized_net_v2",
        "encoded_net_best", "encoded_net_deep_compression", "decoded_net_best", "decoded_net_deep_compression",
        "decoded_sections",
    )
) + tuple(f"mlcircus/mlcircus_{name}.mat" for name in ("clipq", "branin", "constrained"))  # fmt: skip
PROVENANCE_SCHEMA = {"engine": TEXT, "version": TEXT, "sources": Var(("struct",))}
#: The traces of the release's own optimiser carry no provenance of their own; their README gives it.
MLCIRCUS_ENGINE = ("GNU Octave", "7.3.0")
MLCIRCUS_REFERENCE = "mlcircus bayesopt.m with GPML 3.5 (not part of this project)"


@dataclass(frozen=True)
class Entry:
    """One fixture.  file: below ``fixtures``.  sources: file below ``matlab_parity`` -> SHA-256 when it was made."""

    file: str
    sha256: str
    label: str
    engine: str
    version: str
    reference: str
    sources: dict[str, str]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(path: Path) -> Entry:
    """A fixture's entry, from the file itself.

    Raises:
        FixtureError: not a fixture of a collector: it has no provenance.
    """
    label = "reconstructed" if path.parent == RECONSTRUCTED else "original"
    file, digest = path.relative_to(FIXTURES).as_posix(), sha256(path)
    if path.parent == MLCIRCUS:
        return Entry(file, digest, label, *MLCIRCUS_ENGINE, MLCIRCUS_REFERENCE, {})
    content = load_mat(path)
    if "provenance" not in content:
        raise FixtureError(f"{path}: variable provenance: missing")
    provenance = content["provenance"]
    check_case(provenance, PROVENANCE_SCHEMA, f"{path}: variable provenance")
    sources = provenance["sources"] if isinstance(provenance["sources"], list) else [provenance["sources"]]
    checksums = {source["file"]: source["sha256"] for source in sources}
    reference = (
        "the user's own copy" if path.parent == ORIGINAL else ", ".join(f for f in checksums if "reference" in f)
    )
    return Entry(file, digest, label, provenance["engine"], provenance["version"], reference, checksums)


def fixtures() -> list[Path]:
    """Every fixture there is."""
    return sorted(path for folder in (RECONSTRUCTED, MLCIRCUS, ORIGINAL) for path in folder.glob("*.mat"))


def write() -> None:
    """Describe every fixture anew."""
    entries = [asdict(describe(path)) for path in fixtures()]
    MANIFEST.write_text(json.dumps({"fixtures": entries}, indent=1) + "\n", encoding="utf-8")


def read() -> list[Entry]:
    """The manifest's entries.

    Raises:
        FixtureError: it is missing, or not a manifest.
    """
    try:
        return [Entry(**entry) for entry in json.loads(MANIFEST.read_text(encoding="utf-8"))["fixtures"]]
    except FileNotFoundError:
        raise FixtureError(f"{MANIFEST}: expected the manifest, there is none") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FixtureError(f"{MANIFEST}: expected the manifest, it cannot be read: {error}") from error


def problems(entries: list[Entry], root: Path = ROOT) -> Iterator[str]:
    """What is missing or stale, one line each; none where all is as it was when the fixtures were made."""
    listed = {entry.file for entry in entries}
    for file in sorted(set(REQUIRED) - listed):
        yield f"fixtures/{file}: missing from the manifest"
    unlisted = [path for path in fixtures() if path.relative_to(FIXTURES).as_posix() not in listed]
    for path in unlisted if root == ROOT else []:
        if path.parent == ORIGINAL:  # of the user's own; says by itself what it was made from
            yield from _problems_of(describe(path), root)
        else:
            yield f"fixtures/{path.relative_to(FIXTURES).as_posix()}: not in the manifest"
    for entry in entries:
        yield from _problems_of(entry, root)


def _problems_of(entry: Entry, root: Path) -> Iterator[str]:
    path = root / "fixtures" / entry.file
    if not path.is_file():
        yield f"fixtures/{entry.file}: missing"
        return
    if sha256(path) != entry.sha256:
        yield f"fixtures/{entry.file}: changed since the manifest was written"
    for file, digest in entry.sources.items():
        if not (root / file).is_file():
            yield f"fixtures/{entry.file}: stale: {file}, from which it was made, is missing"
        elif sha256(root / file) != digest:
            yield f"fixtures/{entry.file}: stale: {file} has changed since it was made"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    write()
