"""Encodes weights, or a network that is compressed already, to a .clipq file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar, get_args

from clipq.bits import Coder
from clipq.commands import naming, output_file
from clipq.commands.info import info_text
from clipq.conventions import Conventions
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2, inspect
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import ModelError, SettingError, WeightError
from clipq.matlab_net import write_mat
from clipq.quantize_state import choose_settings, quantize_state
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.state_file import READ_SUFFIXES, read_state
from clipq.verified_file import write_verified

Value = TypeVar("Value")

COMPRESSED = (".clipq", ".mat")
#: The readings that an encoding depends on.
READINGS = [f for f in fields(Conventions) if f.metadata["stage"] == "layer" or f.name == "index_bits"]
EPILOG = """\
examples:
  clipq encode net.pt net.clipq --p 0.9 --b 4               every tensor of two or more dimensions
  clipq encode net.npz net.clipq --p 0.9 --b 4 --exclude conv1 --layer fc8=0.5,6
  clipq encode net.clipq smaller.clipq --coder best         the same network with another coder
  clipq encode net.mat net.clipq                            what MATLAB wrote; net.clipq net.mat is the way back

Weights are pruned and quantized as they are, once: for a low error use `clipq train`, which fine-tunes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        help=f"weights ({', '.join(READ_SUFFIXES)}) or a compressed network ({', '.join(COMPRESSED)})",
    )
    parser.add_argument(
        "output",
        type=output_file,
        help="the file to write, whole or not at all: .clipq, or .mat for the same as a struct",
    )
    parser.add_argument("--p", type=float, metavar="P", help="pruning rate of the weights, in [0, 1]; with --b")
    parser.add_argument("--b", type=int, metavar="B", help="bits of a code, 2..8; with --p")
    parser.add_argument(
        "--layer", action="append", default=[], metavar="NAME=P,B",
        help="p and b of one tensor, by its name with or without .weight; repeatable",
    )  # fmt: skip
    for option, default, what in (("--include", ["*"], "only tensors"), ("--exclude", [], "no tensors")):
        parser.add_argument(
            option, action="append", metavar="PATTERN",
            help=f"compress {what} whose name, with or without .weight, matches this (*, ?); repeatable"
            + (" (default: all of floating type with two or more dimensions)" if default else ""),
        )  # fmt: skip
    parser.add_argument(
        "--coder", choices=get_args(Coder),
        help="of each layer: fixed is the size that the paper counts, best the smallest (default: fixed)",
    )  # fmt: skip
    names = ", ".join(f"{f.name} ({f.metadata['id']})" for f in READINGS)
    parser.add_argument(
        "--convention", action="append", default=[], metavar="NAME=VALUE",
        help=f"a reading of the paper other than the default (clipq/conventions.py): {names}; repeatable",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    if args.output.suffix not in COMPRESSED:
        raise SettingError(f"{args.output}: expected a file ending in {' or '.join(COMPRESSED)}")
    if args.output.suffix == ".mat" and args.coder:
        raise SettingError(f"{args.output}: a .mat file has no coder; expected no --coder")
    readings = _each_once("--convention", map(_reading, args.convention))
    conventions = Conventions(**readings)  # type: ignore[arg-type]
    net = _recoded(args, readings) if args.file.suffix in COMPRESSED else _quantized(args, conventions)
    if args.output.suffix == ".mat":
        size = write_mat(net, args.output, conventions)
        print(f"{args.output}: {len(net.layers)} layers, {size:,} bytes")
    else:
        write_verified(net, encode_sparse_quantized_net_v2(net, args.coder or "fixed", conventions), args.output)
        print(info_text(inspect(args.output), str(args.output)))
    return 0


def _recoded(args: argparse.Namespace, readings: dict[str, str]) -> QuantizedNet:
    options = {
        "--p": args.p,
        "--b": args.b,
        "--layer": args.layer,
        "--include": args.include,
        "--exclude": args.exclude,
    }
    given = [name for name, value in options.items() if value not in (None, [])]
    given += [f"--convention {name}" for name in readings if name != "index_bits"]
    if given:
        raise SettingError(
            f"{args.file}: a {args.file.suffix} file is taken for quantized weights; "
            f"expected dense ones, as .pt or .npz, for {', '.join(given)}"
        )
    with naming(args.file):
        return decode_sparse_quantized_net_v2(args.file)


def _quantized(args: argparse.Namespace, conventions: Conventions) -> QuantizedNet:
    if (args.p is None) != (args.b is None) or (args.p is None and not args.layer):
        raise SettingError("expected --p and --b together, or --layer for each tensor to compress")
    setting = None if args.p is None else LayerSetting(args.p, args.b)
    if setting is None and (args.include or args.exclude):
        raise SettingError("--include, --exclude: choose what --p and --b are for; expected none without these")
    given = _each_once("--layer", map(_layer, args.layer))
    state = read_state(args.file)
    try:
        settings = choose_settings(state, setting, given, args.include or ("*",), args.exclude or ())
        return quantize_state(state, settings, conventions)
    except (ModelError, WeightError) as error:
        raise type(error)(f"{args.file}: {error}") from error


def _each_once(option: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Name -> value of an option that is given once a name."""
    values: dict[str, Value] = {}
    for name, value in pairs:
        if name in values:
            raise SettingError(f"{option} {name}: expected one value, got two: {values[name]} and {value}")
        values[name] = value
    return values


def _layer(text: str) -> tuple[str, LayerSetting]:
    name, _, theta = text.rpartition("=")
    p, _, b = theta.partition(",")
    try:
        return name, LayerSetting(float(p), int(b))
    except SettingError as error:
        raise SettingError(f"--layer {text}: {error}") from error
    except ValueError as error:
        raise SettingError(f"--layer {text}: expected NAME=P,B such as conv1=0.5,4") from error


def _reading(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    known = [f.name for f in READINGS]
    if name not in known:
        raise SettingError(f"--convention {text}: expected NAME=VALUE with a name of {', '.join(known)}")
    return name, value
