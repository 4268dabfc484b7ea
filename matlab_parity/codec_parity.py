"""Holds Python's codec against the MATLAB one, in both directions.

Octave or MATLAB encodes: Python must make the same streams, and decode theirs.  Python encodes: what they decoded must
be the codes and weights that went in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipq.bit_stream import pack_bits
from clipq.bits import layer_bits
from clipq.conventions import Conventions
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import ClipqFormatError, SettingError
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from matlab_parity.layer_parity import conventions_of
from matlab_parity.mat_files import (  # fmt: skip
    FLOAT,
    NUMBER,
    ROW,
    STRUCT,
    TEXT,
    Case,
    FixtureError,
    Var,
    from_matlab,
    load_cases,
    load_mat,
    whole,
)
from matlab_parity.tolerances import Check, check

ENCODE, DECODE = "encode_sparse_quantized_net_v2", "decode_sparse_quantized_net_v2"
BYTES = Var(("uint8",), (1, -1))
LAYER_SCHEMA = {
    "name": TEXT, "shape": ROW, "dtype": TEXT, "b": NUMBER, "codes": Var(("uint8",)),
    "levels": Var(("single",), (1, -1)),
}  # fmt: skip
ENCODED_SCHEMA = {
    **LAYER_SCHEMA, "conv": STRUCT, "index_bits": NUMBER, "gaps": Var(("uint32",)), "entry_codes": Var(("uint8",)),
    "codebook": Var(("single",), (-1, 1)), "n_fillers": NUMBER, "packed_gaps": BYTES, "packed_codes": BYTES,
    "section": BYTES, "bits": NUMBER,
}  # fmt: skip
DECODED_SCHEMA = {"name": TEXT, "shape": ROW, "b": NUMBER, "codes": Var(("uint8",)), "W": Var(FLOAT)}
SECTION_SCHEMA = {"name": TEXT, "shape": ROW, "dtype": TEXT, "b": NUMBER, "n_weights": NUMBER, "section": BYTES}


def checks(inputs: Path, folder: Path) -> Iterator[Check]:
    """Every comparison of the codec's fixtures in ``folder``, made from ``inputs``.

    Raises:
        FixtureError: a fixture is missing, or not as it should be.
    """
    path = folder / "encode_sparse_quantized_net_v2.mat"
    cases = load_cases(path, ENCODED_SCHEMA)
    for number, case in enumerate(cases, start=1):
        yield from compare_encoded(case, f"{path}: variable cases({number})")
    net = input_net(inputs)
    for conventions in (Conventions(index_bits="best"), Conventions(index_bits="deep_compression")):
        reading = conventions.index_bits
        struct = decode_file(folder / f"encoded_net_{reading}.mat")
        yield from compare_decoded_net(struct, net, f"MATLAB's streams ({reading}), read by Python")
        yield from _same_streams(inputs / f"encoded_net_{reading}.mat", net, conventions)
        yield from _read_by_matlab(folder / f"decoded_net_{reading}.mat", net, f"Python's streams ({reading})")
    yield from _same_sections(inputs / "encoded_sections.mat", net)
    yield from _read_by_matlab(folder / "decoded_sections.mat", net, "Python's bytes")


def layer_of(case: Case, where: str) -> QuantizedLayer:
    """The layer that a stored case describes.

    Raises:
        FixtureError: it describes none.
    """
    codes = from_matlab(case["codes"], case["shape"], f"{where}.codes")
    b = whole(case["b"], f"{where}.b")
    try:
        return QuantizedLayer(case["name"], b, codes, case["levels"].ravel(), case["dtype"])
    except SettingError as error:
        raise FixtureError(f"{where}: {error}") from error


def input_net(inputs: Path) -> QuantizedNet:
    """The network of all layers of the codec's inputs."""
    path = inputs / "encode_sparse_quantized_net_v2.mat"
    layers: dict[str, QuantizedLayer] = {}
    for number, case in enumerate(load_cases(path, {**LAYER_SCHEMA, "conv": STRUCT}), start=1):
        layers.setdefault(case["name"], layer_of(case, f"{path}: variable cases({number})"))
    return QuantizedNet(tuple(layers.values()))


def compare_encoded(case: Case, where: str) -> list[Check]:
    """One layer that MATLAB encoded, against Python's streams, bytes and count of bits."""
    layer, conventions = layer_of(case, where), conventions_of(case["conv"], f"{where}.conv")
    encoded = encode_sparse_quantized_net_v2(QuantizedNet((layer,)), "fixed", conventions).layers[0]
    streams = encoded.streams
    assert streams is not None  # coder fixed
    pairs = {
        "index_bits": (np.array(streams.index_bits), case["index_bits"].reshape(())),
        "gaps": (streams.gaps, case["gaps"].ravel()),
        "entry_codes": (streams.codes, case["entry_codes"].ravel()),
        "codebook": (encoded.levels, case["codebook"].ravel()),
        "n_fillers": (np.array(streams.n_fillers), case["n_fillers"].reshape(())),
        "packed_gaps": (_bytes(pack_bits(streams.gaps, streams.index_bits)), case["packed_gaps"].ravel()),
        "packed_codes": (_bytes(pack_bits(streams.codes, layer.b)), case["packed_codes"].ravel()),
        "section": (_bytes(encoded.section), case["section"].ravel()),
        "bits": (np.array(layer_bits(layer.codes, layer.b, conventions)), case["bits"].reshape(())),
    }
    name = f"{case['name']} ({conventions.index_bits})"
    return [check(ENCODE, name, quantity, a, e) for quantity, (a, e) in pairs.items()]


def decode_file(path: Path) -> QuantizedNet:
    """Python's reading of a struct that MATLAB wrote.

    Raises:
        FixtureError: no such file, or not an encoded network; names the file and the field.
    """
    if not path.is_file():
        raise FixtureError(f"{path}: expected a .mat file, there is none")
    try:
        return decode_sparse_quantized_net_v2(path)
    except ClipqFormatError as error:
        raise FixtureError(f"{path}: {error}") from error


def compare_decoded_net(decoded: QuantizedNet, expected: QuantizedNet, label: str) -> Iterator[Check]:
    names, expected_names = np.array([x.name for x in decoded.layers]), np.array([x.name for x in expected.layers])
    yield check(DECODE, label, "name", names, expected_names)
    for a, e in zip(decoded.layers, expected.layers, strict=False):
        yield check(DECODE, f"{a.name}: {label}", "decoded", a.codes, e.codes)
        yield check(DECODE, f"{a.name}: {label}", "codebook", a.levels, e.levels)


def compare_decoded(case: Case, layer: QuantizedLayer, label: str, where: str) -> list[Check]:
    """One layer that Python encoded and MATLAB decoded, against the layer that went in."""
    name = f"{case['name']}: {label}, read by MATLAB"
    codes = from_matlab(case["codes"], case["shape"], f"{where}.codes")
    W = from_matlab(case["W"], case["shape"], f"{where}.W")
    table = np.concatenate([np.zeros(1, np.float32), layer.levels])  # the levels themselves, not cast to half types
    return [
        check(DECODE, name, "decoded", layer.codes, codes),
        check(DECODE, name, "weights", table[layer.codes], W),
    ]


def _read_by_matlab(path: Path, net: QuantizedNet, label: str) -> Iterator[Check]:
    cases = load_cases(path, DECODED_SCHEMA)
    if [case["name"] for case in cases] != [layer.name for layer in net.layers]:
        raise FixtureError(
            f"{path}: variable cases: expected the {len(net.layers)} layers of the inputs, in their order"
        )
    for number, (case, layer) in enumerate(zip(cases, net.layers, strict=True), start=1):
        yield from compare_decoded(case, layer, label, f"{path}: variable cases({number})")


def _same_streams(path: Path, net: QuantizedNet, conventions: Conventions) -> Iterator[Check]:
    """The struct that MATLAB decoded is what Python writes today, not that of an older encoder."""
    encoded = encode_sparse_quantized_net_v2(net, "fixed", conventions)
    for coded, case in zip(encoded.layers, load_mat(path)["net"]["layers"], strict=True):
        label = f"{coded.name}: Python's streams ({conventions.index_bits}), today and stored"
        assert coded.streams is not None  # coder fixed
        yield check(ENCODE, label, "gaps", coded.streams.gaps, case["gaps"].ravel())
        yield check(ENCODE, label, "entry_codes", coded.streams.codes, case["codes"].ravel())


def _same_sections(path: Path, net: QuantizedNet) -> Iterator[Check]:
    """The bytes that MATLAB decoded are what Python writes today."""
    encoded = encode_sparse_quantized_net_v2(net, "fixed")
    for coded, case in zip(encoded.layers, load_cases(path, SECTION_SCHEMA), strict=True):
        label = f"{coded.name}: Python's bytes, today and stored"
        yield check(ENCODE, label, "section", _bytes(coded.section), case["section"].ravel())


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
