"""Other coders on the layers of an ``.npz`` file; for ``scripts/benchmark_codec.py``, which runs it with any Python.

    python codec_rivals.py layers.npz

The file holds, for layer i, ``codes<i>`` (uint8, 0 pruned) and ``signed<i>`` (int16, the level's number from zero, with
its sign).  Prints a JSON list of rows, one for each coder of this interpreter: zlib and xz always, brotli, zstandard,
constriction and nncodec where they are installed.  Every coder's output is decoded and compared.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import lzma
import re
import time
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

REPEATS = 3
#: Seconds: what takes long is not repeated, what takes short more often.
LONG, SHORT = 3.0, 0.3
Layers = list[tuple[np.ndarray, np.ndarray]]
Row = dict[str, Any]


def symbols_as_bytes(codes: np.ndarray) -> bytes:
    """4-bit symbols two in a byte where they fit, otherwise one in a byte."""
    flat = codes.reshape(-1)
    if flat.size and flat.max() > 15:
        return flat.tobytes()
    even = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return (even[0::2] | even[1::2] << 4).tobytes()


class Measured(NamedTuple):
    """Seconds, the least of a few times; and bytes of memory taken at the peak of the first, None if not known."""

    seconds: float
    peak: int | None


def measured(work: Callable[[], Any]) -> tuple[Any, Measured]:
    """What ``work`` gives, and what it takes."""
    times: list[float] = []
    memory: int | None = None
    while (len(times) < REPEATS and sum(times) < LONG) or sum(times) < SHORT:
        before = _reset_peak() if not times else None
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
        if before is not None:
            memory = max(_peak() - before, 0)
    return result, Measured(min(times), memory)


def _reset_peak() -> int | None:
    """Sets the process's peak to what it holds now, and gives it; None where the system cannot.

    What was freed goes back to the system first, so that what is measured cannot hide in it.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int:
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def _row(coder: str, n_bytes: int, encode: Measured, decode: Measured, lossless: bool) -> Row:
    return {
        "coder": coder, "bytes": n_bytes, "encode": encode.seconds, "decode": decode.seconds, "lossless": lossless,
        "encode_memory": encode.peak, "decode_memory": decode.peak,
    }  # fmt: skip


def general_purpose(
    name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], layers: Layers
) -> Row:
    raw = [symbols_as_bytes(codes) for codes, _ in layers]
    packed, encode = measured(lambda: [compress(data) for data in raw])
    back, decode = measured(lambda: [decompress(data) for data in packed])
    return _row(f"4- or 8-bit symbols + {name}", sum(map(len, packed)), encode, decode, back == raw)


def with_constriction(layers: Layers) -> Row:
    """Gaps and codes with tables of their frequencies and ANS; tables are counted at 2 bytes an entry."""
    constriction = import_module("constriction")
    models = constriction.stream.model
    coder = constriction.stream.stack.AnsCoder
    streams = []
    for codes, _ in layers:
        flat = codes.reshape(-1)
        kept = np.flatnonzero(flat)
        gaps = np.diff(kept, prepend=-1) - 1
        streams += [np.minimum(gaps, 255).astype(np.int32), flat[kept].astype(np.int32)]
    tables = [np.bincount(s, minlength=2).astype(np.float64) + 1e-9 for s in streams]
    family = [models.Categorical(t / t.sum(), perfect=False) for t in tables]

    def encode() -> list[np.ndarray]:
        out = []
        for stream, model in zip(streams, family, strict=True):
            ans = coder()
            ans.encode_reverse(stream, model)
            out.append(ans.get_compressed())
        return out

    packed, encoded = measured(encode)
    back, decoded = measured(
        lambda: [coder(p).decode(model, s.size) for p, model, s in zip(packed, family, streams, strict=True)]
    )
    escapes = sum(int(np.count_nonzero(s == 255)) for s in streams[0::2])
    size = sum(4 * p.size for p in packed) + sum(2 * int(np.count_nonzero(t > 0.5)) for t in tables) + 4 * escapes
    same = all(np.array_equal(a, b) for a, b in zip(back, streams, strict=True))
    name = f"gaps and codes, static tables, ANS (constriction {version('constriction')})"
    return _row(name, size, encoded, decoded, same)


def with_nncodec(layers: Layers) -> Row:
    """DeepCABAC on the signed numbers of the levels, a step of one: nothing is lost."""
    nn = import_module("nncodec.nn")
    weights = {f"layer{i}.weight": signed.astype(np.float32) for i, (_, signed) in enumerate(layers)}
    options = {
        "qp": 0, "nonweight_qp": 0, "qp_per_tensor": dict.fromkeys(weights, 0), "use_dq": False, "opt_qp": False,
        "row_skipping": True, "param_opt": True, "verbose": False, "results": "/tmp",
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        stream, encode = measured(lambda: nn.encode(dict(weights), options))
        back, decode = measured(lambda: nn.decode(stream))
    same = all(np.array_equal(np.asarray(back[name]), value) for name, value in weights.items())
    return _row(f"DeepCABAC (NNCodec {version('nncodec')})", len(stream), encode, decode, same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=Path, help="the .npz file")
    with np.load(parser.parse_args().layers) as file:
        layers = [(file[f"codes{i}"], file[f"signed{i}"]) for i in range(len(file.files) // 2)]
    n = sum(codes.size for codes, _ in layers)
    rows = [
        general_purpose("zlib-9", lambda d: zlib.compress(d, 9), zlib.decompress, layers),
        general_purpose("xz-6", lambda d: lzma.compress(d, preset=6), lzma.decompress, layers),
    ]
    with contextlib.suppress(ImportError):
        brotli = import_module("brotli")
        quality = 11 if n < 20_000_000 else 9
        rows.append(
            general_purpose(
                f"brotli-{quality}", lambda d: brotli.compress(d, quality=quality), brotli.decompress, layers
            )
        )
    with contextlib.suppress(ImportError):
        zstd = import_module("zstandard")
        pack, unpack = zstd.ZstdCompressor(level=19).compress, zstd.ZstdDecompressor().decompress
        rows.append(general_purpose("zstd-19", pack, unpack, layers))
    for rival in (with_constriction, with_nncodec):
        with contextlib.suppress(ImportError):
            rows.append(rival(layers))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
