"""The file's coders beside others, on the same weights in one run: ``python scripts/benchmark_codec.py``.

Sets: Caffe's LeNets as ``--data-dir`` or CLIPQ_DATA has them, pruned and quantized in one go (p = 0.9, b = 4); Deep
Compression's SqueezeNet from there; independent weights, 5 million and AlexNet's 61 million (``--large``); and any
``.clipq`` files that are named.  Each coder's bytes are those of the layers, codebooks in, biases left out; H0 is the
zeroth-order entropy of the codes.  Speeds are MB of float32 weights a second, the best of three.  Other coders run in
the interpreter that ``--rivals`` names (by default this one), with what is installed there.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipq.atomic_file import write_text
from clipq.bits import Coder, layer_bits
from clipq.caffemodel import read_caffemodel
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.deep_compression import read_deep_compression
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.pretrained import caffe_state_dict
from clipq.provenance import provenance
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.relative_index import relative_index
from clipq.ws_learn_one_layer import ws_learn_one_layer

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "codec"
REPEATS = 3
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


def sets(data_dir: Path | None, large: bool, files: list[Path]) -> Iterator[tuple[str, Layers]]:
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
    yield "5 M independent Laplace", (independent("w", (2000, 2500), 0),)
    if large:
        yield "61 M independent Laplace", tuple(independent(f"w{i}", shape, i) for i, shape in enumerate(ALEXNET))


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


def ours(layers: Layers, coder: Coder) -> Row:
    """One of this package's coders: the whole file, without biases."""
    net = QuantizedNet(layers)

    def encode() -> bytes:
        return encode_sparse_quantized_net_v2(net, coder).to_bytes()

    def count() -> int:
        bits = [layer_bits(layer.codes, layer.b, coder=coder, levels=layer.levels) for layer in layers]
        return sum(bits) // 8

    data, encode_seconds = timed(encode)
    decoded, decode_seconds = timed(lambda: decode_sparse_quantized_net_v2(data))
    counted, count_seconds = timed(count)
    return {
        "coder": f"clipq {coder}", "bytes": len(data), "encode": encode_seconds, "decode": decode_seconds,
        "lossless": all(np.array_equal(x.codes, y.codes) for x, y in zip(layers, decoded.layers, strict=True)),
        "counted": counted, "count": count_seconds,
        "sections": sum(layer.n_bytes for layer in encode_sparse_quantized_net_v2(net, coder).layers),
        "peak_memory": {"encode": peak(encode), "decode": peak(lambda: decode_sparse_quantized_net_v2(data))},
    }  # fmt: skip


def relative_5_bits(layers: Layers) -> list[Row]:
    """Deep Compression's scheme: 5-bit relative index and b-bit codes; and the same two streams with Huffman's code."""
    plain = huffman = 0.0
    for layer in layers:
        index = relative_index(layer.codes, 5)
        plain += index.n_entries * (5 + layer.b) / 8
        huffman += huffman_bytes(index.gaps) + huffman_bytes(index.codes)
    codebooks = codebook_bytes(layers)
    return [
        {"coder": "relative index 5 bits + codes", "bytes": round(plain) + codebooks},
        {"coder": "the same with Huffman", "bytes": round(huffman) + codebooks},
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
            [python, str(HERE / "codec_rivals.py"), str(path)], capture_output=True, text=True, check=True
        )
    rows: list[Row] = json.loads(result.stdout.splitlines()[-1])
    for row in rows:
        row["bytes"] += codebook_bytes(layers)
    return rows


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the least of a few times."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return result, min(times)


def peak(work: Callable[[], Any]) -> int | None:
    """Bytes of memory that ``work`` takes at its peak beyond what there was; None where the system does not say."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmHWM")
        work()
        return max(_status("VmHWM") - before, 0)
    except OSError:
        return None


def _status(field: str) -> int:
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def measure(name: str, layers: Layers, python: str) -> Row:
    """All coders on one set."""
    n, h0 = sum(layer.codes.size for layer in layers), entropy_bytes(layers)
    rows = [ours(layers, "fixed"), ours(layers, "entropy"), *relative_5_bits(layers), *rivals(layers, python)]
    print(f"\n{name}: {n:,} weights, H0 {h0:,.0f} bytes, codebooks {codebook_bytes(layers):,}")
    for row in rows:
        row["times_h0"] = row["bytes"] / h0
        speeds = [4e-6 * n / row[what] for what in ("encode", "decode") if row.get(what)]
        print(
            f"  {row['coder']:<62} {row['bytes']:>10,} {row['times_h0']:6.3f}  "
            f"{' / '.join(f'{s:,.0f}' for s in speeds):>14}  {'' if row.get('lossless', True) else 'NOT LOSSLESS'}"
        )
        if row.get("peak_memory") and row["peak_memory"]["decode"] is not None:
            shares = ", ".join(f"{what} {size / (4 * n):.2f}" for what, size in row["peak_memory"].items())
            print(f"  {'':<62} counted {row['counted'] / row['sections'] - 1:+.2%}; memory / float32: {shares}")
    return {"set": name, "weights": n, "h0": h0, "codebooks": codebook_bytes(layers), "rows": rows}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help=".clipq files of trained networks")
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("CLIPQ_DATA"), help="folder of Caffe's networks"
    )
    parser.add_argument("--large", action="store_true", help="61 million weights too")
    parser.add_argument("--rivals", default=sys.executable, help="Python with brotli, zstandard, constriction, nncodec")
    parser.add_argument("--save", action="store_true", help="write results/codec/benchmark.json")
    arguments = parser.parse_args(argv)
    report: Row = {"provenance": provenance(0), "sets": []}
    for name, layers in sets(arguments.data_dir and Path(arguments.data_dir), arguments.large, arguments.files):
        report["sets"].append(measure(name, layers, arguments.rivals))
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / "benchmark.json", json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
