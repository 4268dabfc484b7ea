"""The coder ``entropy``: models of a layer's decisions, and the lanes that code them (docs/format.md)."""
