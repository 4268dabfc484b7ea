"""Compares Python with the MATLAB side: the same as ``python -m matlab_parity.compare``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from matlab_parity.compare import main

if __name__ == "__main__":
    sys.exit(main())
