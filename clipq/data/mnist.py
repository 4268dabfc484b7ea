"""MNIST: found in a folder, in the cache, or downloaded there."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipq.data.dataset import TensorDataset, folders_to_search
from clipq.data.idx_folder import IDX_FILES, find_idx_files, load_idx_folder
from clipq.errors import DataError

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
#: md5 of the four original files; a download must match.
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
#: ``Dataset.sha256`` of MNIST itself: another data set in files of the same names goes by its folder's name.
SHA256 = "eec1e0d6868ae2c9e70bfefa952c46b7d1c0bec5609e9dcd97acb86de0f75ff0"
TIMEOUT = 30  # seconds without a byte from a mirror


def load_mnist(data_dir: str | Path | None = None, mirrors: Sequence[str] = MIRRORS) -> TensorDataset:
    """MNIST, or the data set in files of the same names that stands where MNIST is looked for.

    With ``data_dir``: from it, or from its ``mnist/``, and nowhere else.  Otherwise from ``$CLIPQ_DATA`` or its
    ``mnist/``, from the cache, or from a mirror into the cache.

    Raises:
        DataError: nowhere to be had (says which files to put where), or damaged.
    """
    folders = folders_to_search(data_dir, os.environ.get("CLIPQ_DATA"), ("mnist",))
    found = next((folder for folder in folders if find_idx_files(folder)), None)
    if found is None and data_dir:
        raise DataError(f"{data_dir}: {_what_to_put(str(data_dir))}, got none of them")
    if found is None:
        found = cache_folder() / "mnist"
        if len(find_idx_files(found)) < len(IDX_FILES):
            download(found, mirrors)
    dataset = load_idx_folder(found)
    return replace(dataset, name="mnist") if dataset.sha256 == SHA256 else dataset


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/clipq``, by default ``~/.cache/clipq``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipq"


def download(folder: Path, mirrors: Sequence[str] = MIRRORS) -> None:
    """Puts the four files into ``folder``, each one complete and of the right md5, or not at all.

    Raises:
        DataError: no mirror gave a file; says which files to put where.
    """
    for name, md5 in MD5.items():
        if (folder / name).exists():
            continue
        failures = []
        for mirror in mirrors:
            try:
                _fetch(mirror + name, folder / name, md5)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:
                failures.append(f"{mirror + name}: {error}")
        else:
            raise DataError(
                f"MNIST is not here and cannot be downloaded ({'; '.join(failures)}). {_what_to_put('a folder')}, and "
                f"name it with --data-dir or CLIPQ_DATA; or put them into {folder}"
            )


def _fetch(url: str, path: Path, md5: str) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        content = response.read()
    if (got := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise ValueError(f"expected md5 {md5}, got {got} ({len(content)} bytes)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        complete = Path(folder, path.name)
        complete.write_bytes(content)
        os.replace(complete, path)


def _what_to_put(where: str) -> str:
    return f"Expected in {where} (or its mnist/), plain or .gz: {', '.join(IDX_FILES.values())}"
