"""CLIP-Q: network compression learning by in-parallel pruning-quantization (Tung and Mori, CVPR 2018)."""

__version__ = "0.1.0"
