"""Decodes a compressed network to plain weights that any program can load."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipq.commands import naming, output_file
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.state_file import WRITE_SUFFIXES, write_state

EPILOG = """\
The decoded weights are those that the compressed network has, bit for bit; every other tensor is as it was.
  .safetensors, .pt, .pth   a state dict for load_state_dict; all types
  .npz                      an array a tensor; not for bfloat16 and float8 types
  .mat                      the 1xT struct array `weights` with the fields `name` and `value` (for MATLAB's load); not
                            for float16, bfloat16 and float8 types
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the .clipq file, or the .mat struct of one")
    parser.add_argument(
        "output",
        type=output_file,
        help=f"the file to write, whole or not at all, ending in {', '.join(WRITE_SUFFIXES)}",
    )


def run(args: argparse.Namespace) -> int:
    with naming(args.file):
        net = decode_sparse_quantized_net_v2(args.file)
    state = net.state_dict()
    size = write_state(state, args.output)
    print(f"{args.output}: {len(state)} tensors, {size:,} bytes")
    return 0
