"""A layer's levels in few bytes: those that a weight takes, as differences.  docs/format.md, "Codebook"."""

from __future__ import annotations

import numpy as np

from clipq.bit_stream import pack_bits, packed_size, unpack_bits
from clipq.byte_reader import ByteReader


def pack_codebook(levels: np.ndarray, used: np.ndarray, negative: int) -> bytes:
    """Of ``levels`` (float32 [k]) those that are ``used`` (bool [k]); the first ``negative`` of all are negative."""
    bits = levels.view(np.uint32)
    return b"".join(
        [
            pack_bits(used.astype(np.uint8), 1),
            _pack_side(bits[:negative][used[:negative]][::-1]),
            _pack_side(bits[negative:][used[negative:]]),
        ]
    )


def read_codebook(reader: ByteReader, size: int, negative: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels, float32 [size], and which are used, bool [size].

    A level that no weight takes is read as the used one before it, the first used one where there is none before it,
    and 0 where none is used.
    """
    used = _unpack(reader, 1, size, "levels in use").astype(np.bool_)
    below = _read_side(reader, int(np.count_nonzero(used[:negative])))
    above = _read_side(reader, int(np.count_nonzero(used[negative:])))
    bits = np.concatenate([below[::-1], above])
    if not bits.size:
        return np.zeros(size, np.float32), used
    return bits[np.maximum(np.cumsum(used) - 1, 0)].view(np.float32), used


def _pack_side(bits: np.ndarray) -> bytes:
    """The bits of the levels of one sign, uint32, that of the level next to zero first: it and the differences."""
    if not bits.size:
        return b""
    steps = np.diff(bits)  # modulo 2^32; never large where the levels are in order
    width = int(steps.max(initial=0)).bit_length()
    return int(bits[0]).to_bytes(4, "little") + bytes([width]) + pack_bits(steps, width)


def _read_side(reader: ByteReader, size: int) -> np.ndarray:
    if not size:
        return np.zeros(0, np.uint32)
    first, width = reader.u32("level next to zero"), reader.u8("width of the levels' differences")
    if width > 32:
        reader.invalid(f"width of the levels' differences: expected at most 32, got {width}")
    steps = _unpack(reader, width, size - 1, "differences of levels")
    return np.cumsum(np.concatenate([[first], steps]), dtype=np.uint64).astype(np.uint32)


def _unpack(reader: ByteReader, width: int, count: int, what: str) -> np.ndarray:
    """``bits(width)[count]`` at the reader's place."""
    data = reader.take(packed_size(count, width), what)
    try:
        return unpack_bits(data, width, count)
    except ValueError as fault:
        reader.invalid(f"{what}: {fault}")
