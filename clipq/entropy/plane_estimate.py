"""About how many bytes a large layer takes under the model ``planes``, from a sample of its rows.

What these take is scaled to the whole layer plane by plane: by the information in the rows' densities for the mask, and
by that in the codes' shares for the others.
"""

from __future__ import annotations

import numpy as np

from clipq.entropy.plane_coder import coded
from clipq.entropy.plane_header import setting_size
from clipq.entropy.plane_lanes import LastSlab
from clipq.entropy.plane_order import planes
from clipq.entropy.plane_sample import Fitted, LayerSample


def estimate_planes(sample: LayerSample, fitted: Fitted) -> int:
    """About the bytes that ``PlanePlan`` makes of a layer with these settings, by a sample of it."""
    layer, kept = sample.layer, sample.layer.kept
    density = _information_of_density(kept, layer.codes.shape[1])
    bits, shares = np.zeros(len(fitted.settings)), np.zeros(layer.counts.size)
    for part in sample.parts:
        of_mask, of_kept = (
            float(of[part.first : part.stop].sum()) / max(float(of[part.rows].sum()), 1e-9) for of in (density, kept)
        )
        for view, ones in sample.walk(part, fitted):
            bits[view.number] += (of_kept if view.number else of_mask) * coded(view, ones)[1].sum()
        shares += of_kept * np.bincount(part.walked.reshape(-1), minlength=shares.size)
    plain = sample.meaning.information(layer.counts, layer.counts)
    of_sample = sample.meaning.information(shares, layer.counts)
    scale = np.append(1.0, plain[1:] / np.maximum(of_sample[1:], 1e-9))
    bits = np.where(sample.meaning.ones @ shares > 0, np.minimum(bits * scale, plain), plain)
    return _header_size(sample, fitted) + round((bits.sum() + _wasted(sample, bits)) / 8)


def _information_of_density(kept: np.ndarray, columns: int) -> np.ndarray:
    """For each row the information of which of its weights are kept, were it only for their number."""
    p = np.clip(kept / columns, 1e-9, 1 - 1e-9)
    information: np.ndarray = -columns * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return information


def _header_size(sample: LayerSample, fitted: Fitted) -> int:
    """About the bytes of what a stream with these settings says of itself."""
    layer = sample.layer
    grid = layer.grid(fitted.offsets)
    every = zip(fitted.settings, planes(layer.largest), strict=True)
    return 16 + sum(setting_size(setting, grid, plane) for setting, plane in every) // 8


def _wasted(sample: LayerSample, bits: np.ndarray) -> float:
    """About the bits of lanes that the decisions of the last slab, of these in all, do not take back."""
    every_row, (rows, columns) = sample.layer.kept, sample.layer.codes.shape
    height = sample.layer.grid(()).slab_rows
    in_slab = every_row[-(rows % height or height) :]
    kept = int(in_slab.sum())
    of_slab = LastSlab.alike(rows * columns, in_slab.size * columns, kept, bits * kept / int(every_row.sum()))
    return of_slab.wasted(0)
