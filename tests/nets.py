"""Networks of every kind that the file must hold: hypothesis strategies and a check of equality to the bit."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clipq.quantized_net import WEIGHT_DTYPES, QuantizedLayer, QuantizedNet
from clipq.tensor_bytes import TYPE_NAMES, tensor_from_bytes, tensor_to_bytes

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


@st.composite
def layers(draw: st.DrawFn, name: str) -> QuantizedLayer:
    b = draw(st.integers(2, 8))
    shape = draw(shapes)
    code = st.integers(0, 2**b - 1)
    codes = draw(hnp.arrays(np.uint8, shape, elements=draw(st.sampled_from([code, st.just(0), st.just(1)]))))
    kept = draw(hnp.arrays(np.bool_, shape))
    levels = draw(hnp.arrays(np.float32, 2**b - 1, elements=st.floats(width=32, allow_nan=False), fill=st.just(0.5)))
    return QuantizedLayer(
        name, b, np.asarray(codes * kept), np.sort(levels), draw(st.sampled_from(sorted(WEIGHT_DTYPES)))
    )


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype, shape = draw(st.sampled_from(TYPE_NAMES)), draw(shapes)
    size = int(np.prod(shape)) * getattr(torch, dtype).itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    return tensor_from_bytes(bytes(x & 1 for x in data) if dtype == "bool" else data, dtype, shape)


@st.composite
def nets(draw: st.DrawFn) -> QuantizedNet:
    unique = draw(st.lists(names, unique=True, max_size=8))
    kinds = [draw(st.sampled_from(["layer", "tensor", "alias"])) for _ in unique]
    of = {kind: [n for n, k in zip(unique, kinds, strict=True) if k == kind] for kind in ("layer", "tensor", "alias")}
    stored = of["layer"] + of["tensor"]
    return QuantizedNet(
        tuple(draw(layers(name)) for name in of["layer"]),
        {name: draw(tensors()) for name in of["tensor"]},
        {alias: draw(st.sampled_from(stored)) for alias in of["alias"]} if stored else {},
    )


def assert_same_net(a: QuantizedNet, b: QuantizedNet) -> None:
    """Both networks agree to the bit: weights, codes, levels, tensors, types, shapes, names and their order."""
    assert [x.name for x in a.layers] == [x.name for x in b.layers]
    for x, y in zip(a.layers, b.layers, strict=True):
        assert (x.b, x.dtype, x.shape, x.codes.dtype) == (y.b, y.dtype, y.shape, y.codes.dtype)
        assert np.array_equal(x.codes, y.codes)
        assert x.levels.tobytes() == y.levels.tobytes()
    assert list(a.tensors) == list(b.tensors)
    assert dict(a.aliases) == dict(b.aliases)
    left, right = a.state_dict(), b.state_dict()
    for name in left:
        assert (left[name].dtype, left[name].shape) == (right[name].dtype, right[name].shape), name
        assert tensor_to_bytes(left[name]) == tensor_to_bytes(right[name]), name
