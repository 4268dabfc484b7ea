"""What holds for every test."""

import os

from hypothesis import settings

# The tests' networks are small: threads that spin while they wait for one another make a busy machine much slower.
# Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# How long an example takes says something of the machine, nothing of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
