"""Fast ways to learn a layer's codes and levels, on the host and on accelerators: every bit is the plain way's."""
