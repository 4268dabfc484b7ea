"""Damages ``.clipq`` files by the hundred thousand and reads them: ``python scripts/fuzz.py --cases 100000``.

Files of many small networks, in every coder, are flipped, cut, spliced and rewritten; in part of them the checksums are
made right again, so that the damage reaches the decoders behind them.  Each must give either a valid network or a
ClipqFormatError that names section and offset, and where Numba is installed the same with its kernels as without; never
another exception or a warning, nor more time or memory than is bounded.  Prints what it saw, and exits with 1 and the
file (hexadecimal) where something else happened.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.atomic_file import write_text
from clipq.byte_reader import CRC_SIZE
from clipq.clipq_file import crc, open_container
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2, inspect
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.entropy.lane_passes import kernels_for, numpy_alone
from clipq.entropy.tensor_coder import MOST_OF_PLANES
from clipq.errors import ClipqFormatError
from clipq.provenance import provenance
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from scripts.argument_types import at_least

RESULTS = Path(__file__).resolve().parent.parent / "results" / "codec"
#: Address space that reading may take beyond what the process has when it starts.
MEMORY = 2 << 30
SECONDS_A_CASE = 20
Pieces = list[bytes]


def random_net(rng: np.random.Generator) -> QuantizedNet:
    """A small network with layers and tensors of several kinds."""
    layers = []
    shapes = [(6, 5), (20, 1, 3, 3), (40, 60), (3,), (0, 4), (), (10, 8, 1, 1), (64, 30)]
    for i in range(int(rng.integers(0, 4))):
        b, shape = int(rng.integers(2, 9)), shapes[rng.integers(len(shapes))]
        codes = rng.integers(1, min(2**b, 2 + rng.integers(1, 255)), shape) * (rng.random(shape) < rng.random())
        levels = np.sort(rng.normal(size=2**b - 1)).astype(np.float32)
        layers.append(QuantizedLayer(f"block{i}.weight", b, np.asarray(codes, np.uint8), levels))
    tensors = {
        "block0.bias": torch.from_numpy(rng.normal(size=int(rng.integers(0, 80))).astype(np.float32)),
        "norm.num_batches_tracked": torch.tensor(int(rng.integers(0, 10**6))),
        "norm.weight": torch.ones(int(rng.integers(1, 50)), dtype=torch.bfloat16),
        "mask": torch.from_numpy(rng.random(9) < 0.5),
    }
    chosen = dict(item for item in tensors.items() if rng.random() < 0.5)
    if rng.random() < 0.1:  # so many elements that their exponents are coded as those of large tensors
        chosen["embedding.weight"] = torch.from_numpy(rng.normal(size=(MOST_OF_PLANES + 1, 1))).bfloat16()
    aliases = {"tied.weight": layers[0].name} if layers and rng.random() < 0.3 else {}
    return QuantizedNet(tuple(layers), chosen, aliases)


def pieces(data: bytes) -> Pieces:
    """A whole file's directory and sections without their CRCs."""
    container = open_container(data)
    lengths = [container.directory_size - CRC_SIZE, *(entry.length for entry in container.directory.layers)]
    lengths += [container.directory.tensors_length] if container.directory.tensors else []
    out, at = [], 0
    for length in lengths:
        out.append(data[at : at + length])
        at += length + CRC_SIZE
    return out


def joined(parts: Pieces) -> bytes:
    """A file with right CRCs around these pieces."""
    return b"".join(part + crc(part) for part in parts)


def damage(part: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One of several kinds of damage to some bytes; ``other`` is where spliced bytes come from."""
    data, kind = bytearray(part), int(rng.integers(6))
    if not data:
        return bytes(other[: rng.integers(0, 4)])
    at = int(rng.integers(len(data)))
    if kind == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
    elif kind == 2:
        del data[at : at + int(rng.integers(1, 9))]
    elif kind == 3:
        data[at:at] = rng.bytes(int(rng.integers(1, 9)))
    elif kind == 4:
        start = int(rng.integers(len(other) + 1))
        data[at:] = other[start:]
    else:
        size = int(rng.integers(1, 9))
        data[at : at + size] = rng.bytes(size)
    return bytes(data)


def right_length(parts: Pieces, original: Pieces) -> Pieces:
    """With lengths changed: the directory rewritten to say so, where that is possible by replacing bytes."""
    directory = parts[0]
    if len(original[0]) - 7 == original[0][6] and 7 <= len(directory) < 7 + 128:
        directory = directory[:6] + bytes([len(directory) - 7]) + directory[7:]
    for before, after in zip(original[1:], parts[1:], strict=True):
        if len(before) == len(after) or len(before) > 127 or len(after) > 127:
            continue
        places = [i for i in range(7, len(directory)) if directory[i] == len(before)]
        if len(places) == 1:
            directory = directory[: places[0]] + bytes([len(after)]) + directory[places[0] + 1 :]
    return [directory, *parts[1:]]


def case(files: list[bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """A kind of damage and a damaged file."""
    data, other = files[rng.integers(len(files))], files[rng.integers(len(files))]
    kind = ("plain", "cut", "spliced", "section", "directory", "sections swapped")[rng.integers(6)]
    parts = pieces(data)
    if kind == "plain":
        return kind, damage(data, other, rng)
    if kind == "cut":
        return kind, data[: rng.integers(len(data))]
    if kind == "spliced":
        return kind, data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]
    changed = list(parts)
    if kind == "directory":
        changed[0] = damage(parts[0], pieces(other)[0], rng)
    elif kind == "section" and len(parts) > 1:
        at = int(rng.integers(1, len(parts)))
        for _ in range(int(rng.integers(1, 4))):
            changed[at] = damage(changed[at], other, rng)
    elif len(parts) > 1:
        theirs = pieces(other)
        changed[rng.integers(1, len(parts))] = theirs[rng.integers(len(theirs))]
    return f"{kind}, checksums right", joined(right_length(changed, parts))


def by_numpy(data: bytes) -> QuantizedNet:
    """As ``decode_sparse_quantized_net_v2``, without Numba's kernels."""
    with numpy_alone():
        return decode_sparse_quantized_net_v2(data)


def read(data: bytes) -> str:
    """Reads a file in every way; what came out: ``network``, or the error's name.

    Raises:
        AssertionError: the network is not one that can be written and read again, the error does not say where, or
            what came out depends on Numba's kernels.
    """
    outcome, net = _outcome(decode_sparse_quantized_net_v2, data)
    assert _same((outcome, net), _outcome(by_numpy, data)), "other results without Numba's kernels"
    _outcome(inspect, data)
    if isinstance(net, QuantizedNet):
        again = decode_sparse_quantized_net_v2(encode_sparse_quantized_net_v2(net).to_bytes())
        for x, y in zip(net.layers, again.layers, strict=True):
            assert np.array_equal(x.codes, y.codes), "a network that does not survive"
    return outcome


def _outcome(reader: Callable[[bytes], Any], data: bytes) -> tuple[str, Any]:
    """``network`` and what came out, or the error's name and what it says."""
    try:
        result = reader(data)
    except ClipqFormatError as error:
        assert hasattr(error, "section") and hasattr(error, "offset"), "an error without its place"
        return type(error).__name__, str(error)
    return "network", result


def _same(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    """Whether two outcomes are the same error, or networks with the same codes and levels."""
    if not isinstance(one[1], QuantizedNet) or not isinstance(other[1], QuantizedNet):
        return one == other
    of_each = [[(x.codes.tobytes(), x.levels.tobytes()) for x in net.layers] for _, net in (one, other)]
    return of_each[0] == of_each[1]


def hand_made() -> list[bytes]:
    """Files that announce what they do not have: right checksums around absurd numbers."""
    layer = b"\x01\x00\x00\x01w\x44\x02"
    absurd = [b"\xff" * 8 + b"\x7f", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x04"]
    heads = [layer + rows + columns + b"\x20\x00\x00" for rows in absurd for columns in (*absurd, b"\x00")]
    out = []
    for entries in (*heads, *absurd, b"\x00" + absurd[0], b"\x00\x00" + absurd[0]):
        head = b"CLIPQ\x01" + bytes([len(entries)]) + entries
        out.append(head + crc(head) + bytes(32) + crc(bytes(32)))
    return out


def _too_slow(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS_A_CASE} s of processor time")


def fuzz(cases: int, seed: int, files: list[bytes], watch: Callable[[int], None]) -> dict[str, Any]:
    """Reads ``cases`` damaged files.

    Raises:
        RuntimeError: something other than a network or a ClipqFormatError came out; with the file.
    """
    rng, outcomes, slowest = np.random.default_rng(seed), Counter[str](), 0.0
    made = hand_made()
    for i in range(cases):
        kind, data = ("hand-made", made[i]) if i < len(made) else case(files, rng)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS_A_CASE)
        try:
            outcome = read(data)
        except BaseException as error:
            raise RuntimeError(f"case {i} ({kind}): {error!r}\n{traceback.format_exc()}\n{data.hex()}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - started)
        outcomes[f"{kind}: {outcome}"] += 1
        watch(i + 1)
    return {"cases": cases, "slowest_seconds": slowest, "outcomes": dict(sorted(outcomes.items()))}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=at_least(1), default=100_000)
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--files", type=at_least(1), default=200, help="sound files that the damaged ones are made of")
    parser.add_argument("--save", action="store_true", help="write results/codec/fuzz.json")
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(arguments.seed)
    coders = ("fixed", "entropy", "best")
    files = [
        encode_sparse_quantized_net_v2(random_net(rng), coders[i % 3]).to_bytes()  # type: ignore[arg-type]
        for i in range(arguments.files)
    ]
    compiled = kernels_for(1 << 30) is not None
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    signal.signal(signal.SIGPROF, _too_slow)
    warnings.simplefilter("error")
    started = time.perf_counter()

    def watch(done: int) -> None:
        if done % 5000 == 0:
            print(f"{done:>8,} of {arguments.cases:,} cases, {time.perf_counter() - started:.0f} s", flush=True)

    report = {
        "provenance": provenance(arguments.seed), "files": arguments.files, "memory_limit": MEMORY,
        "compiled": compiled,
    }  # fmt: skip
    try:
        report |= fuzz(arguments.cases, arguments.seed, files, watch)
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return 1
    report["seconds"] = time.perf_counter() - started
    report["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(report["outcomes"], indent=1))
    print(f"slowest case {report['slowest_seconds']:.2f} s")
    if arguments.save:
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / "fuzz.json", json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
