"""Ratios measured side by side in one run: ``python scripts/benchmark.py speed`` or ``codec``.

Machines differ and are shared, so nothing here is a time alone: every figure stands beside what it is compared with,
measured in turn with it, and the table names the hardware.  ``speed --help`` and ``codec --help`` list their options.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from clipq.errors import ClipqError
from scripts import benchmark_codec, benchmark_speed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "codec"], help="which table")
    argv = sys.argv[1:] if argv is None else argv
    what = parser.parse_args(argv[:1]).what
    try:
        return {"speed": benchmark_speed, "codec": benchmark_codec}[what].main(argv[1:])
    except (ClipqError, OSError) as error:
        print(f"benchmark.py {what}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
