"""The one accounting of bits: the search's s_i(theta), the report and the file count with these functions.

What counts as a layer's bits is its section of the ``.clipq`` file (docs/format.md), its CRC included: indices and
codes with their fillers, the codebook unless A09 says otherwise, and a few bytes of header.  The layer's name and
shape in the directory, which no setting (p, b) changes, are not among them.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch

from clipq.bit_stream import packed_size, varint_size
from clipq.byte_reader import CRC_SIZE, MAX_ELEMENTS_PER_BYTE
from clipq.conventions import Conventions
from clipq.entropy.entropy_coder import entropy_size
from clipq.errors import SettingError
from clipq.quantized_net import LayerSetting
from clipq.relative_index import MAX_INDEX_BITS, entry_counts, zero_runs

Coder = Literal["fixed", "entropy", "best"]


def fixed_parts(n: int, b: int, n_entries: int, index_bits: int) -> dict[str, int]:
    """Bytes of each part of a ``fixed`` section, CRC included: n weights stored as ``n_entries`` entries."""
    parts = {
        "header": 1 + varint_size(n_entries),
        "codebook": 4 * (2**b - 1),
        "index": packed_size(n_entries, index_bits),
        "codes": packed_size(n_entries, b),
    }
    parts["padding"] = padding_size(n, sum(parts.values()))
    parts["checksum"] = CRC_SIZE
    return parts


def padding_size(n: int, n_bytes: int) -> int:
    """Zero bytes that a section of n weights needs after its ``n_bytes`` to keep the bound on sizes."""
    return max(0, -(-n // MAX_ELEMENTS_PER_BYTE) - n_bytes)


def choose_index_bits(codes: np.ndarray, b: int, conventions: Conventions) -> tuple[int, dict[str, int]]:
    """The width of a layer's relative index (A08) and, with it, the bytes of each part of its ``fixed`` section.

    codes: uint8 of the weight's shape; more than two dimensions make a convolution.
    """
    counts = entry_counts(zero_runs(codes))
    if conventions.index_bits == "deep_compression":
        widths = [8 if codes.ndim > 2 else 5]
    else:
        widths = list(range(len(counts)))
    parts = [fixed_parts(codes.size, b, counts[min(w, len(counts) - 1)], w) for w in widths]
    sizes = [sum(p.values()) for p in parts]
    best = sizes.index(min(sizes))
    return widths[best], parts[best]


def least_fixed_bytes(codes: np.ndarray, b: int) -> int:
    """A ``fixed`` section of these codes (uint8) takes no fewer bytes, whatever the width of its relative index.

    An entry of w index bits stands for at most 2^w weights, and there is one for each kept weight.
    """
    kept = codes.reshape(-1) != 0
    n_kept = int(np.count_nonzero(kept))
    stored = kept.size - int(np.argmax(kept[::-1])) if n_kept else 0  # up to the last kept weight
    entries = [max(n_kept, -(-stored >> w)) for w in range(MAX_INDEX_BITS + 1)]
    return 4 * (2**b - 1) + min(packed_size(n, b + w) for w, n in enumerate(entries))


def layer_bits(
    codes: np.ndarray | torch.Tensor,
    b: int,
    conventions: Conventions | None = None,
    coder: Coder = "fixed",
    levels: np.ndarray | torch.Tensor | None = None,
) -> int:
    """s_i(theta): the bits that a layer with these codes takes in the file.

    Exact for ``fixed``; for the others the entropy coder's models are fitted and their information is counted, which is
    within 1 % of the bytes for layers of 2 kB and more.  Of more than 2^24 weights it is that of a sample, unless they
    take a byte for 256 of them or fewer bytes, and may be further off: 6 % have been seen where rows repeat in blocks.

    codes: uint8, of the weight's shape (A08 tells convolutions from it); 0 is a pruned weight.
    b: bits of a code, 2..8.  A09 decides whether the codebook counts.
    levels: float32 [2^b - 1], for ``entropy``; without them 2^(b-1) are taken to be negative, and 22 bits a level.

    Raises:
        SettingError: codes of another type, b out of its range, or an unknown coder.
    """
    conventions = conventions or Conventions()
    LayerSetting(0.0, b)
    if isinstance(codes, torch.Tensor):
        codes = codes.detach().cpu().numpy()
    if codes.dtype != np.uint8:
        raise SettingError(f"codes of a layer: expected uint8, got {codes.dtype}")
    if coder not in get_args(Coder):
        raise SettingError(f"coder: expected one of {get_args(Coder)}, got {coder!r}")
    counted = []
    if coder != "entropy":
        counted.append(choose_index_bits(codes, b, conventions)[1])
    if coder != "fixed":
        counted.append(_entropy_parts(codes, b, levels))
    parts = min(counted, key=lambda part: sum(part.values()))
    return 8 * (sum(parts.values()) - (0 if conventions.count_codebook == "yes" else parts["codebook"]))


def _entropy_parts(codes: np.ndarray, b: int, levels: np.ndarray | torch.Tensor | None) -> dict[str, int]:
    """About the bytes of each part of an ``entropy`` section."""
    if isinstance(levels, torch.Tensor):
        levels = levels.detach().cpu().numpy()
    stream, codebook = entropy_size(codes, b, levels)
    return {
        "codes": stream,
        "codebook": codebook,
        "padding": padding_size(codes.size, stream + codebook),
        "checksum": CRC_SIZE,
    }


def dense_bits(shape: tuple[int, ...]) -> int:
    """m_i: the bits of a layer's weights uncompressed, at 32 bits a weight as the paper counts."""
    return 32 * math.prod(shape)
