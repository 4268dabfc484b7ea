"""What holds for every test."""

import os

# The tests' networks are small: threads that spin while they wait for one another make a busy machine much slower.
# Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
