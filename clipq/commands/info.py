"""Shows what is in a .clipq file: layers, other tensors, and where the bytes are."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

from clipq.commands import naming
from clipq.decode_sparse_quantized_net_v2 import LayerInfo, NetInfo, inspect
from clipq.errors import SettingError
from clipq.mat_format import is_matlab
from clipq.quantized_net import WEIGHT_DTYPES
from clipq.text_table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the .clipq file")
    parser.add_argument("--json", action="store_true", help="as JSON, with every figure")


def run(args: argparse.Namespace) -> int:
    data = args.file.read_bytes()
    if is_matlab(data):
        raise SettingError(f"{args.file}: expected a .clipq file, got a .mat file; `clipq encode` makes one of it")
    with naming(args.file):
        info = inspect(data)
    if args.json:
        print(json.dumps({**asdict(info), "dense_bytes": dense_bytes(info)}, indent=1))
    else:
        print(info_text(info, str(args.file)))
    return 0


def info_text(info: NetInfo, title: str) -> str:
    """The file's layers and tensors as tables; the bytes of the first sum to the file's."""
    dense = dense_bytes(info)
    head = f"{title}: {dense:,} -> {info.n_bytes:,} bytes, {dense / info.n_bytes:.1f} times smaller"
    parts = [head, _layers_table(info).plain()]
    if info.tensors:
        rows = [(t.name, _shape(t.shape), t.dtype, f"{t.n_bytes:,}") for t in info.tensors]
        parts.append(Table(("tensor", "shape", "type", "bytes"), rows, n_text=3).plain())
    if info.aliases:
        parts.append(Table(("shared", "the same as"), list(info.aliases.items()), n_text=2).plain())
    return "\n\n".join(parts)


def dense_bytes(info: NetInfo) -> int:
    """Bytes of all entries as they are once decoded; those of several names counted once."""
    return sum(_dense(layer) for layer in info.layers) + sum(t.n_bytes for t in info.tensors)


def _layers_table(info: NetInfo) -> Table:
    header = ("layer", "shape", "type", "coder", "b", "index bits", "kept %", "fillers", "bytes", "ratio")
    rows: list[tuple[str, ...]] = [
        (
            x.name, _shape(x.shape), x.dtype, x.coder, str(x.b), "-" if x.index_bits is None else str(x.index_bits),
            _percent(x.n_kept, math.prod(x.shape)), f"{x.n_fillers:,}", f"{x.n_bytes:,}",
            f"{_dense(x) / x.n_bytes:.1f}x",
        )
        for x in info.layers
    ]  # fmt: skip
    blank = [""] * 3
    if info.tensors:
        rows.append(("other tensors", "", "", info.tensors_coder, "", *blank, f"{info.tensors_bytes:,}", ""))
    rows.append(("directory", "", "", "", "", *blank, f"{info.directory_bytes:,}", ""))
    kept, n = sum(x.n_kept for x in info.layers), sum(math.prod(x.shape) for x in info.layers)
    ratio = f"{dense_bytes(info) / info.n_bytes:.1f}x"
    rows.append(("file", "", "", "", "", "", _percent(kept, n), "", f"{info.n_bytes:,}", ratio))
    return Table(header, rows, n_text=4, n_totals=1)


def _dense(layer: LayerInfo) -> int:
    return math.prod(layer.shape) * WEIGHT_DTYPES[layer.dtype].itemsize


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
