"""The file's coders beside others, on the same weights in one run: ``python scripts/benchmark.py codec``.

Sets: any ``.clipq`` files that are named, each under its file's name; Caffe's LeNets as ``--data-dir`` or CLIPQ_DATA
has them, pruned and quantized in one go (p = 0.9, b = 4); Deep Compression's SqueezeNet from there; 5 million weights,
once independent and once with rows and columns of different strength; AlexNet's 61 million independent ones.  Each
coder's bytes are those of the layers, codebooks in, biases left out (ours: with names, shapes and checksums); H0 is the
zeroth-order entropy of the codes.  Speeds are MB of float32 weights a second, the best of three.  Other coders run in
the interpreter that ``--rivals`` or CLIPQ_RIVALS names (by default this one), with what is installed there.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipq.atomic_file import write_text
from clipq.bit_stream import pack_bits, unpack_bits
from clipq.bits import Coder, layer_bits
from clipq.caffemodel import read_caffemodel
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.deep_compression import read_deep_compression
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.entropy.lane_passes import kernels_for, numpy_alone
from clipq.pretrained import caffe_state_dict
from clipq.provenance import provenance, without_folders
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.relative_index import RelativeIndex, expand, relative_index
from clipq.ws_learn_one_layer import ws_learn_one_layer
from scripts.codec_rivals import Measured, measured

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "codec"
Layers = tuple[QuantizedLayer, ...]
Row = dict[str, Any]

ALEXNET = [
    (96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3),
    (4096, 9216), (4096, 4096), (1000, 4096),
]  # fmt: skip


def one_shot(name: str, weight: np.ndarray) -> QuantizedLayer:
    """A trained layer, pruned and quantized in one go."""
    learned = ws_learn_one_layer(weight, 0.9, 4, name=name)
    return QuantizedLayer(name, 4, learned.codes, learned.levels)


def independent(name: str, shape: tuple[int, ...], seed: int) -> QuantizedLayer:
    """Independent Laplace weights, pruned and quantized."""
    return one_shot(name, np.random.default_rng(seed).laplace(size=shape).astype(np.float32))


def uneven(name: str, shape: tuple[int, int], seed: int) -> QuantizedLayer:
    """Laplace weights whose scale is a row's times a column's."""
    rng = np.random.default_rng(seed)
    scale = np.outer(rng.gamma(1.0, size=shape[0]), rng.gamma(1.0, size=shape[1]))
    return one_shot(name, (rng.laplace(size=shape) * scale).astype(np.float32))


def sets(data_dir: Path | None, files: list[Path]) -> Iterator[tuple[str, Layers]]:
    """The named sets of layers."""
    for path in files:
        yield path.stem, decode_sparse_quantized_net_v2(path).layers
    if data_dir is not None:
        for path in sorted((data_dir / "caffe").glob("*.caffemodel")):
            weights = caffe_state_dict(read_caffemodel(path))
            yield (
                f"{path.stem} (Caffe), one shot",
                tuple(one_shot(name, w.numpy()) for name, w in weights.items() if w.ndim > 1),
            )
        for path in (data_dir / "deep-compression").glob("*SqueezeNet*"):
            yield "SqueezeNet (Deep Compression)", read_deep_compression(path).layers
    yield "5 M Laplace, uneven rows and columns", (uneven("w", (2000, 2500), 0),)
    yield "5 M independent Laplace", (independent("w", (2000, 2500), 0),)
    yield (
        "61 M independent Laplace, AlexNet's shapes",
        tuple(independent(f"w{i}", shape, i) for i, shape in enumerate(ALEXNET)),
    )


def entropy_bytes(layers: Layers) -> float:
    """H0: the zeroth-order entropy of each layer's codes, in bytes."""
    total = 0.0
    for layer in layers:
        counts = np.bincount(layer.codes.reshape(-1))
        counts = counts[counts > 0]
        total -= float((counts * np.log2(counts / layer.codes.size)).sum()) / 8
    return total


def codebook_bytes(layers: Layers) -> int:
    """Four bytes for each level that a weight takes."""
    return sum(4 * np.unique(layer.codes[layer.codes > 0]).size for layer in layers)


def ours(layers: Layers) -> list[Row]:
    """This package's coders by NumPy alone and, where Numba is installed, also by its kernels."""
    with numpy_alone():
        rows = [_ours(layers, "fixed"), _ours(layers, "entropy")]
    if kernels_for(1 << 30):
        rows.append(_ours(layers, "entropy") | {"coder": "clipq entropy, Numba's kernels"})
    return rows


def _ours(layers: Layers, coder: Coder) -> Row:
    """The whole file, without biases."""
    net = QuantizedNet(layers)

    def encode() -> bytes:
        return encode_sparse_quantized_net_v2(net, coder).to_bytes()

    def count() -> int:
        bits = [layer_bits(layer.codes, layer.b, coder=coder, levels=layer.levels) for layer in layers]
        return sum(bits) // 8

    data, encoded = measured(encode)
    decoded, read = measured(lambda: decode_sparse_quantized_net_v2(data))
    counted, counting = measured(count)
    same = all(np.array_equal(x.codes, y.codes) for x, y in zip(layers, decoded.layers, strict=True))
    row = row_of(f"clipq {coder}", len(data), encoded, read, same)
    sections = sum(layer.n_bytes for layer in encode_sparse_quantized_net_v2(net, coder).layers)
    return row | {"counted": counted, "sections": sections, "count_seconds": counting.seconds}


def row_of(coder: str, n_bytes: int, encode: Measured, decode: Measured, lossless: bool) -> Row:
    """A coder's row of the table: seconds, and bytes of memory at the peak."""
    return {
        "coder": coder, "bytes": n_bytes, "encode": encode.seconds, "decode": decode.seconds, "lossless": lossless,
        "encode_memory": encode.peak, "decode_memory": decode.peak,
    }  # fmt: skip


def relative_5_bits(layers: Layers) -> list[Row]:
    """Deep Compression's scheme: 5-bit relative index and b-bit codes; and the size of the two with Huffman's code."""

    def encode() -> list[tuple[int, bytes, bytes]]:
        streams = [relative_index(layer.codes, 5) for layer in layers]
        return [
            (s.n_entries, pack_bits(s.gaps, 5), pack_bits(s.codes, layer.b))
            for s, layer in zip(streams, layers, strict=True)
        ]

    def decode() -> list[np.ndarray]:
        back = []
        for layer, (n, gaps, codes) in zip(layers, packed, strict=True):
            index = unpack_bits(gaps, 5, n).astype(np.uint32)
            back.append(expand(RelativeIndex(5, index, unpack_bits(codes, layer.b, n)), layer.codes.size))
        return back

    packed, encoded = measured(encode)
    back, decoded = measured(decode)
    same = all(np.array_equal(x.codes.reshape(-1), y) for x, y in zip(layers, back, strict=True))
    codebooks = codebook_bytes(layers)
    size = sum(len(gaps) + len(codes) for _, gaps, codes in packed) + codebooks
    streams = [relative_index(layer.codes, 5) for layer in layers]
    huffman = round(sum(huffman_bytes(s.gaps) + huffman_bytes(s.codes) for s in streams)) + codebooks
    return [
        row_of("relative index 5 bits + codes", size, encoded, decoded, same),
        {"coder": "the same with Huffman's code (counted)", "bytes": huffman},
    ]


def huffman_bytes(symbols: np.ndarray) -> float:
    """Bytes of Huffman's code for the symbols, and one for each entry of its table (a code length)."""
    counts = [int(c) for c in np.bincount(symbols.reshape(-1)) if c]
    heap, total = sorted(counts), 0
    if len(heap) == 1:
        return len(symbols) / 8 + 1
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total / 8 + len(counts)


def rivals(layers: Layers, python: str) -> list[Row]:
    """Other coders, in the interpreter ``python``; codebooks are added to what they take for the codes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.npz"
        arrays = {}
        for i, layer in enumerate(layers):
            negative = int(np.argmin(np.append(layer.levels < 0, False)))
            codes = layer.codes.astype(np.int16)
            arrays[f"codes{i}"] = layer.codes
            arrays[f"signed{i}"] = np.where(
                codes == 0, 0, np.where(codes <= negative, codes - negative - 1, codes - negative)
            )
        np.savez(path, **arrays)  # type: ignore[arg-type]
        result = subprocess.run(
            [python, str(HERE / "codec_rivals.py"), str(path)], stdout=subprocess.PIPE, text=True, check=True
        )
    rows: list[Row] = json.loads(result.stdout.splitlines()[-1])
    for row in rows:
        row["bytes"] += codebook_bytes(layers)
    return rows


def measure(name: str, layers: Layers, python: str) -> Row:
    """All coders on one set."""
    n, h0 = sum(layer.codes.size for layer in layers), entropy_bytes(layers)
    rows = [*ours(layers), *relative_5_bits(layers), *rivals(layers, python)]
    print(f"\n{name}: {n:,} weights, H0 {h0:,.0f} bytes, codebooks {codebook_bytes(layers):,}")
    for row in rows:
        row["times_h0"] = row["bytes"] / h0
        print(f"  {row['coder']:<62} {row['bytes']:>10,} {row['times_h0']:6.3f}  {_speeds(row, n)}")
        if "counted" in row:
            print(f"  {'':<62} counted {row['counted'] / row['sections'] - 1:+.2%} in {row['count_seconds']:.3f} s")
    return {"set": name, "weights": n, "h0": h0, "codebooks": codebook_bytes(layers), "rows": rows}


def _speeds(row: Row, n: int) -> str:
    """Speed and memory of a row, for reading; whether it was lossless."""
    if "encode" not in row:
        return ""
    speeds = " / ".join(f"{4e-6 * n / row[what]:,.0f}" for what in ("encode", "decode"))
    memory = [row[f"{what}_memory"] for what in ("encode", "decode")]
    shares = " / ".join("-" if m is None else f"{m / (4 * n):.2f}" for m in memory)
    return f"{speeds:>13} MB/s  memory {shares} float32  {'' if row['lossless'] else 'NOT LOSSLESS'}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmark.py codec", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help=".clipq files of trained networks")
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("CLIPQ_DATA"), help="folder of Caffe's networks"
    )
    parser.add_argument(
        "--rivals",
        default=os.environ.get("CLIPQ_RIVALS", sys.executable),
        help="Python with brotli, zstandard, constriction, nncodec",
    )
    parser.add_argument("--save", action="store_true", help="write results/codec/benchmark.json")
    arguments = parser.parse_args(argv)
    report: Row = {"provenance": without_folders(provenance(0)), "sets": []}
    for name, layers in sets(arguments.data_dir and Path(arguments.data_dir), arguments.files):
        report["sets"].append(measure(name, layers, arguments.rivals))
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / "benchmark.json", json.dumps(report, indent=1) + "\n")
    return 0
