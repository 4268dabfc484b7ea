"""Decodes a .clipq file to plain weights: the same as ``clipq decode``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipq.cli import run_verb

if __name__ == "__main__":
    sys.exit(run_verb("decode"))
