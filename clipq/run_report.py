"""The parts of a run's report that are about the compressed network: sizes, layers, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from clipq.conventions import Conventions
from clipq.encode_sparse_quantized_net_v2 import EncodedNet
from clipq.figure_style import largest
from clipq.layers import CompressibleLayer
from clipq.quantized_net import LayerSetting, QuantizedLayer, QuantizedNet
from clipq.ws_learn_one_layer import ws_learn_one_layer
from clipq.ws_train import WsTrainResult

_HISTOGRAM_BINS = 120


def sizes(encoded: EncodedNet, dense: nn.Module, on_disk: int) -> dict[str, Any]:
    """Bytes of the file on disk and of its sections, beside those of the dense network's state dict."""
    dense_bytes = sum(t.numel() * t.element_size() for t in dense.state_dict().values())
    sections: dict[str, int] = {}
    for section, _, size in encoded.sizes():
        sections[section] = sections.get(section, 0) + size
    return {"file": on_disk, "dense": dense_bytes, "ratio": dense_bytes / on_disk, "sections": sections}


def layer_table(encoded: EncodedNet, net: QuantizedNet, settings: Mapping[str, LayerSetting]) -> list[dict[str, Any]]:
    """Of each layer what was chosen, and what it takes in the file."""
    kept = {layer.name: layer.n_kept for layer in net.layers}
    rows = []
    for layer in encoded.layers:
        n = int(np.prod(layer.shape))
        rows.append(
            {
                "name": layer.name, "shape": list(layer.shape), "weights": n,
                "p": settings[layer.name].p, "b": settings[layer.name].b,
                "kept": kept[layer.name], "coder": layer.coder,
                "index_bits": layer.index_bits, "fillers": layer.n_fillers,
                "bytes": layer.n_bytes, "parts": dict(layer.parts), "ratio": 4 * n / layer.n_bytes,
            }
        )  # fmt: skip
    return rows


def histograms(
    layers: Sequence[CompressibleLayer],
    trained: WsTrainResult,
    settings: Mapping[str, LayerSetting],
    conventions: Conventions,
) -> list[dict[str, Any]]:
    """Of the full-precision weights of those layers that the figures show, before and after fine-tuning, with clips and
    levels.

    Afterwards the levels are those of ``trained.net``, and counted are the weights that have them there.
    """
    stored = {layer.name: layer for layer in trained.net.layers}
    return [
        {
            "layer": layer.name,
            "before": _histogram(layer.weight.detach(), settings[layer.name], conventions),
            "after": _histogram(trained.full_precision[layer.name], settings[layer.name], conventions)
            | _levels(stored[layer.name]),
        }
        for layer in largest(layers, lambda layer: layer.weight.numel())
    ]


def _histogram(weights: torch.Tensor, setting: LayerSetting, conventions: Conventions) -> dict[str, Any]:
    learned = ws_learn_one_layer(weights, setting.p, setting.b, conventions)
    counts, edges = np.histogram(weights.float().cpu().numpy(), bins=_HISTOGRAM_BINS)
    return {
        "low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(),
        "c_neg": learned.c_neg, "c_pos": learned.c_pos,
        "levels": learned.levels.tolist(), "level_counts": learned.counts.tolist(),
    }  # fmt: skip


def _levels(layer: QuantizedLayer) -> dict[str, Any]:
    counts = np.bincount(layer.codes.reshape(-1), minlength=2**layer.b)
    return {"levels": layer.levels.tolist(), "level_counts": counts[1:].tolist()}
