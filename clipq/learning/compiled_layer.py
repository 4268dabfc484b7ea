"""A layer of one chunk, learned in one compiled call, where the last step tells about where its clips are.

What ``ws_learn_one_layer`` does with the default readings, which takes a small layer less time than Python takes
between NumPy's calls.  Whatever surprises, such as NaN or a clip that has moved far, is left to the general way.
"""

from __future__ import annotations

from math import ceil, inf, isfinite

import numpy as np
import torch
from numba import njit

from clipq.learning.host_kernels import CompiledPart, assigned, find_candidates, spread
from clipq.learning.host_weights import FEW, Codes, Near
from clipq.learning.learned_layer import LearnedLayer
from clipq.learning.partition import Side, inner_edges, middles, side_ends
from clipq.quantized_net import WEIGHT_MAX, LayerSetting

_NEAR = 1 / 256, 64  # half-width, relative to a guessed clip, of the band in which it is looked for; at least 64/n

_UNKNOWN = np.empty(0, np.int64)

_ends, _inner_edges, _middles = njit(cache=True)(side_ends), njit(cache=True)(inner_edges), njit(cache=True)(middles)


def learn_layer(W: torch.Tensor, setting: LayerSetting, near: Near) -> LearnedLayer | None:
    """Of float32 or float64 weights; None where the general way is to be gone."""
    weights = W.numpy()
    if len(near.where) != 1 or not weights.size:
        return None
    known = _UNKNOWN if near.where[0] is None else near.where[0]
    good, quantized, where, codes, levels, counts, *sides = _learn(
        weights.reshape(-1), setting.p, setting.b, -near.c_neg, near.c_pos, known
    )
    if not good:
        return None
    neg, pos, shape = Side(*sides[:3]), Side(*sides[3:]), weights.shape
    found = Codes(weights.size, [(None if len(codes) == weights.size else where, codes)], CompiledPart)
    near = Near(-neg.c, pos.c, found.where())
    quantized = torch.from_numpy(quantized.reshape(shape))
    return LearnedLayer(quantized, lambda: found.plain().view(shape), levels, counts, neg, pos, near)


@njit(nogil=True, cache=True)
def _learn(x, p, b, c_neg, c_pos, known):
    """c_neg, c_pos, known: both clips' magnitudes and the candidates' positions, about.

    Returns whether all went well, and if so the quantized weights [n], the candidates' positions (empty where all are)
    and codes, levels and counts [2^b - 1], and c, e and keep_from of the negative side and of the positive one.
    """
    number = x.dtype.type
    near_neg, near_pos = _band(c_neg, len(x)), _band(c_pos, len(x))
    top, bottom = number(-near_neg[0]), number(near_pos[0])
    n_neg, n_pos, outside, where, values = find_candidates(x, known, top, bottom)
    if 2 * outside > len(x):
        where, values = known[:0], x
    band, above_neg, above_pos, e_neg, e_pos = _in_bands(values, near_neg, near_pos)
    c_neg, found_neg = _clip(-band[band < 0], above_neg, n_neg, p, e_neg)
    c_pos, found_pos = _clip(band[band > 0], above_pos, n_pos, p, e_pos)
    keep_neg = float(np.nextafter(number(c_neg), number(inf)))
    keep_pos = float(np.nextafter(number(c_pos), number(inf)))
    good = found_neg and found_pos and -top <= keep_neg and bottom <= keep_pos and max(e_neg, e_pos) <= WEIGHT_MAX
    good &= (e_neg >= -top or not n_neg) and (e_pos >= bottom or not n_pos)  # below that, not all are candidates
    if not good:
        values, where = x[:0], known[:0]
    ends_neg = _ends(Side(c_neg, e_neg, keep_neg), 2 ** (b - 1))
    ends_pos = _ends(Side(c_pos, e_pos, keep_pos), 2 ** (b - 1) - 1)
    thresholds = _thresholds(_inner_edges(ends_neg, ends_pos), x[:1])
    codes, sums, counts = assigned(values, thresholds, number(-keep_neg), number(keep_pos))
    good &= isfinite(sums[0])  # NaN is pruned
    levels = _levels(sums[1:], counts[1:], _middles(ends_neg, ends_pos))
    entries = np.zeros(len(levels) + 1, x.dtype)
    entries[1:] = levels
    quantized = entries[codes] if len(codes) == len(x) else spread(entries, where, codes, len(x))
    return good, quantized, where, codes, levels, counts[1:], c_neg, e_neg, keep_neg, c_pos, e_pos, keep_pos


@njit(nogil=True, cache=True)
def _band(c, n):
    """Magnitudes between which the clip probably lies."""
    width = max(_NEAR[0], _NEAR[1] / n)
    return (0.0, inf) if n <= FEW else (c * (1 - width), c * (1 + width))


@njit(nogil=True, cache=True)
def _in_bands(values, near_neg, near_pos):
    """The values in either sign's band, how many are beyond it, and each sign's largest magnitude, 0 for none."""
    number = values.dtype.type
    low_neg, low_pos = number(-near_neg[0]), number(near_pos[0])
    high_neg, high_pos = number(-near_neg[1]), number(near_pos[1])
    band = np.empty(len(values) + 1, values.dtype)
    above_neg = above_pos = n = 0
    lowest = highest = number(0)
    for w in values:
        band[n] = w
        beyond_neg, beyond_pos = w < high_neg, w > high_pos
        above_neg += beyond_neg
        above_pos += beyond_pos
        n += ((w <= low_neg) | (w >= low_pos)) & ~(beyond_neg | beyond_pos) & (w != 0)
        lowest = w if w < lowest else lowest
        highest = w if w > highest else highest
    return band[:n], above_neg, above_pos, float(-lowest), float(highest)


@njit(nogil=True, cache=True)
def _clip(band, above, n, p, e):
    """The clip, the largest magnitude pruned of the n of one sign (A02, A03), and whether it lies in the band."""
    k = min(ceil(p * n), n)
    if k == n or k == 0:
        return (e if k else 0.0), True
    at = len(band) - 1 - (n - k - above)
    if not 0 <= at < len(band):
        return 0.0, False
    return float(np.partition(band, at)[at]), True


@njit(nogil=True, cache=True)
def _thresholds(edges, like):
    """``partition.thresholds``: edges above zero belong to the weights above, the others do not."""
    found = np.empty(len(edges), like.dtype)
    for i, edge in enumerate(edges):
        least = edge if edge > 0 else np.nextafter(edge, inf)
        rounded = like.dtype.type(least)
        found[i] = np.nextafter(rounded, like.dtype.type(inf)) if rounded < least else rounded
    return found


@njit(nogil=True, cache=True)
def _levels(sums, counts, centres):
    """Means, or the middle of an interval without weights."""
    levels = np.empty(len(sums), np.float32)
    for i in range(len(sums)):
        levels[i] = sums[i] / counts[i] if counts[i] else centres[i]
    return levels
