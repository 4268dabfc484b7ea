"""CLIP-Q: network compression learning by in-parallel pruning-quantization (Tung and Mori, CVPR 2018)."""

import os

# Threads that wait for each other spin for a moment, then sleep.  Where they spin for long, training is up to ten times
# slower while another process wants a core; where they sleep at once, waking them takes half of a small network's step.
# It has to be said before torch starts its threads; whoever has set it otherwise keeps that.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="2000")

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
