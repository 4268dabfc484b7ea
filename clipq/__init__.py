"""CLIP-Q: network compression learning by in-parallel pruning-quantization (Tung and Mori, CVPR 2018)."""

import os

# Threads that wait for each other by spinning make training tens of times slower where another process wants a core.
# Where none does, waking those that sleep takes up to half of a small network's step: OMP_WAIT_POLICY=active spares it.
# It has to be said before torch starts its threads; whoever has set it otherwise keeps that.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from clipq.api import Compressed, compress, load, load_into, save
from clipq.conventions import Conventions
from clipq.dead_units import fold_dead_units
from clipq.errors import ClipqError
from clipq.layers import DEFAULT_TYPES, compressible_layers
from clipq.quantized_net import LayerSetting, QuantizedLayer, QuantizedNet
from clipq.search_config import SearchConfig
from clipq.subset_error import SubsetError
from clipq.train_config import TrainConfig
from clipq.training import StepLoss, top1_error

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_TYPES", "ClipqError", "Compressed", "Conventions", "LayerSetting", "QuantizedLayer", "QuantizedNet",
    "SearchConfig", "StepLoss", "SubsetError", "TrainConfig", "compress", "compressible_layers", "fold_dead_units",
    "load", "load_into", "save", "top1_error",
]  # fmt: skip
