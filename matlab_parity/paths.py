"""Where the parts of ``matlab_parity`` lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
REFERENCE = ROOT / "reference"
COLLECTORS = ROOT / "collectors"
FIXTURES = ROOT / "fixtures"
INPUTS = FIXTURES / "inputs"
RECONSTRUCTED = FIXTURES / "reconstructed"
ORIGINAL = FIXTURES / "original"
MLCIRCUS = FIXTURES / "mlcircus"
MANIFEST = FIXTURES / "manifest.json"
