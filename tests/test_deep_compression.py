import os
import struct
from pathlib import Path

import numpy as np
import pytest

from clipq.byte_reader import InvalidValueError, TrailingBytesError, TruncatedError
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.deep_compression import SQUEEZENET, StoredLayer, read_deep_compression
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2

LAYERS = (StoredLayer("conv", (2, 1, 3, 4), 8), StoredLayer("fc", (1, 20), 4))


def _file() -> bytes:
    """conv: 0.5 at 1 and -2.0 at 18 (over a filler at 17); fc: 1.5 at 0, a zero level at 3, 0.25 at 10."""
    conv_book = [0.0] * 256
    conv_book[7], conv_book[200] = 0.5, -2.0
    fc_book = [0.0, 1.5, 0.25] + [0.0] * 13
    conv = struct.pack("<256f2f", *conv_book, 1.0, -1.0) + bytes([7, 0, 200]) + bytes([0xF1, 0x00])
    fc = struct.pack("<16f1f", *fc_book, 3.0) + bytes([0x31, 0x02]) + bytes([0x20, 0x06])
    return struct.pack("<2I", 3, 3) + conv + fc


def test_a_file_by_hand() -> None:
    net = read_deep_compression(_file(), LAYERS)
    conv, fc = (layer.weights().reshape(-1).tolist() for layer in net.layers)
    assert {i: w for i, w in enumerate(conv) if w} == {1: 0.5, 18: -2.0}
    assert {i: w for i, w in enumerate(fc) if w} == {0: 1.5, 10: 0.25}
    assert [layer.name for layer in net.layers] == ["conv.weight", "fc.weight"]
    assert net.tensors["conv.bias"].tolist() == [1.0, -1.0]
    assert net.tensors["fc.bias"].tolist() == [3.0]
    for layer in net.layers:
        assert np.all(np.diff(layer.levels) >= 0)


def test_damage_is_named() -> None:
    data = _file()
    with pytest.raises(TruncatedError, match=r"layer fc, byte \d+: gaps"):
        read_deep_compression(data[:-1], LAYERS)
    with pytest.raises(TrailingBytesError, match="1 bytes after the last layer"):
        read_deep_compression(data + b"\0", LAYERS)
    with pytest.raises(InvalidValueError, match=r"layer fc, byte \d+: gaps: expected positions below 20, got 21"):
        read_deep_compression(data[:-2] + b"\xf2\x02", LAYERS)
    with pytest.raises(TruncatedError, match="entries of fc"):
        read_deep_compression(data[:6], LAYERS)


@pytest.mark.parametrize(
    ("at", "byte", "expected"),
    [
        (11, 0x3F, "codebook: expected 0 as its first number, got 0.5"),
        (8 + 4 * 258 + 3, 0xE1, "gaps: expected 15 at entry 1, whose code is 0, got 14"),
        (8 + 4 * 258 + 2, 0x00, "gaps: expected 15 at entry 2, whose code is 0, got 0"),
    ],
)
def test_signs_of_other_layers_than_the_files(at: int, byte: int, expected: str) -> None:
    data = bytearray(_file())
    data[at] = byte
    with pytest.raises(InvalidValueError, match=f"layer conv, .*{expected}"):
        read_deep_compression(bytes(data), LAYERS)


def test_a_last_entry_without_a_weight() -> None:
    data = bytearray(_file())
    data[8 + 4 * 258 + 2], data[8 + 4 * 258 + 4] = 0x00, 0x0F
    with pytest.raises(InvalidValueError, match=r"layer conv, .*codes: expected a weight as the last entry"):
        read_deep_compression(bytes(data), LAYERS)


def test_the_released_squeezenet() -> None:
    folder = os.environ.get("CLIPQ_DATA")
    if not folder:
        pytest.skip("CLIPQ_DATA is not set: needs deep-compression/ with the released SqueezeNet")
    (path,) = (Path(folder) / "deep-compression").glob("*SqueezeNet*")
    net = read_deep_compression(path)
    assert len(net.layers) == len(SQUEEZENET) == 26
    assert sum(layer.codes.size for layer in net.layers) == 1_244_448
    assert 415_000 < sum(layer.n_kept for layer in net.layers) <= 415_921
    data = encode_sparse_quantized_net_v2(net, "fixed").to_bytes()
    assert len(data) < path.stat().st_size
    decoded = decode_sparse_quantized_net_v2(data)
    for before, after in zip(net.layers, decoded.layers, strict=True):
        assert np.array_equal(before.weights().numpy(), after.weights().numpy())
