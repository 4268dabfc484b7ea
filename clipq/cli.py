"""The command ``clipq``: train, encode, decode, info.  ``scripts/`` holds an entry point for each of the verbs.

Exit codes: 0; 1 where nobody reads the output any more; 2 for anything wrong with what was given (one line on stderr
says what); 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from clipq import __version__
from clipq.errors import ClipqError

#: verb -> what it does; ``clipq.commands.<verb>`` does it.
VERBS = {
    "train": "run an experiment, from the dense network to the decoded file's error",
    "encode": "weights, or a compressed network, to a .clipq file",
    "decode": "a .clipq file to plain weights: .safetensors, .npz, .pt or .mat",
    "info": "show what is in a .clipq file",
}


def main(argv: Sequence[str] | None = None) -> int:
    """``clipq <verb> ...``; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in VERBS:
        return run_verb(arguments[0], arguments[1:], f"clipq {arguments[0]}")
    parser = argparse.ArgumentParser(
        "clipq",
        description="CLIP-Q: network compression learning by in-parallel pruning-quantization.",
        epilog="verbs:\n" + "\n".join(f"  {verb:<9}{what}" for verb, what in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, help="what to do; `clipq <verb> --help` shows its options")
    parser.add_argument(
        "--version", action="version", version=f"clipq {__version__}", help="show the version, and exit"
    )
    try:
        parser.parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_verb(verb: str, argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """One verb with its arguments, by default those of the process; the exit code.

    program: its name in messages; the process's by default.
    """
    parser = verb_parser(verb, program)
    _prepare_streams()
    try:
        status = import_module(f"clipq.commands.{verb}").run(parser.parse_intermixed_args(argv))
        sys.stdout.flush()
        return status
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt as stop:
        print(f"\n{parser.prog}: interrupted; {str(stop) or 'no file was left half written'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ClipqError, OSError) as error:
        print(f"{parser.prog}: {_one_line(error)}", file=sys.stderr)
        return 2


def _prepare_streams() -> None:
    """Characters that an output's encoding lacks are shown as escapes; one that the caller has closed takes all and
    shows nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open to the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def verb_parser(verb: str, program: str | None = None) -> argparse.ArgumentParser:
    """The parser of a verb's arguments."""
    command = import_module(f"clipq.commands.{verb}")
    parser = argparse.ArgumentParser(
        program,
        description=command.__doc__,
        epilog=getattr(command, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return parser


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
