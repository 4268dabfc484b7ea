"""A file that its encoder got wrong is not written."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipq.bits import Coder
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import WriteError
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.verified_file import differences, write_verified

CODES = np.array([[0, 2, 3, 0], [0, 0, 0, 3]], np.uint8)
LAYER = QuantizedLayer("fc.weight", 2, CODES, np.array([-1.5, -0.5, 1.0], np.float32))
NET = QuantizedNet((LAYER,), {"fc.bias": torch.tensor([0.5, float("nan")])}, {"tied": "fc.weight"})


def other(name: str = "fc.weight", **changes: Any) -> QuantizedNet:
    return replace(NET, layers=(replace(LAYER, name=name, **changes),), aliases={"tied": name})


@pytest.mark.parametrize(
    ("different", "names"),
    [
        (other(codes=CODES[::-1].copy()), ["fc.weight"]),
        (other(codes=CODES.reshape(4, 2)), ["fc.weight"]),
        (other(levels=np.array([-1.5, -0.25, 1.0], np.float32)), ["fc.weight"]),
        (other(dtype="float16"), ["fc.weight"]),
        (other(b=3, levels=np.array([-1.5, -0.5, 1, 2, 3, 4, 5], np.float32)), ["fc.weight"]),
        (other("fc2.weight"), ["fc.weight", "tied", "fc2.weight"]),
        (replace(NET, tensors={"fc.bias": torch.tensor([-0.0, float("nan")])}), ["fc.bias"]),
        (replace(NET, tensors={"fc.bias": torch.zeros(2, dtype=torch.int32)}), ["fc.bias"]),
        (replace(NET, tensors={}), ["fc.bias"]),
        (replace(NET, aliases={}), ["tied"]),
        (replace(NET, aliases={"tied": "fc.bias"}), ["tied"]),
    ],
)
def test_what_differs_is_named(different: QuantizedNet, names: list[str], tmp_path: Path) -> None:
    assert sorted(differences(NET, different)) == sorted(differences(different, NET)) == sorted(names)
    path = tmp_path / "net.clipq"
    path.write_bytes(b"as before")
    with pytest.raises(WriteError, match=rf"net\.clipq: not written.*\({', '.join(names)}\)"):
        write_verified(NET, encode_sparse_quantized_net_v2(different), path)
    assert path.read_bytes() == b"as before" and list(tmp_path.iterdir()) == [path]


def test_an_entry_without_a_name_is_compared_too(tmp_path: Path) -> None:
    unnamed, different = (QuantizedNet((), {"": tensor}) for tensor in (torch.ones(2), torch.zeros(2)))
    with pytest.raises(WriteError, match=r"not written.*\(''\)"):
        write_verified(unnamed, encode_sparse_quantized_net_v2(different), tmp_path / "net.clipq")
    assert not list(tmp_path.iterdir())


def test_a_level_that_no_weight_takes_does_not_count() -> None:
    assert not list(differences(NET, other(levels=np.array([7, -0.5, 1.0], np.float32))))


@pytest.mark.parametrize("coder", ["fixed", "entropy"])
def test_a_file_that_cannot_be_read_again_is_not_written(coder: Coder, tmp_path: Path) -> None:
    encoded = encode_sparse_quantized_net_v2(NET, coder)
    short = replace(encoded.layers[0], section=encoded.layers[0].section[:-1])
    with pytest.raises(WriteError, match=r"not written.*fc\.weight"):
        write_verified(NET, replace(encoded, layers=(short,)), tmp_path / "net.clipq")
    assert not list(tmp_path.iterdir())


@given(net=nets.nets(), coder=st.sampled_from(["fixed", "entropy", "best"]))
def test_every_network_is_written(net: QuantizedNet, coder: Coder) -> None:
    with tempfile.TemporaryDirectory() as folder:
        size = write_verified(net, encode_sparse_quantized_net_v2(net, coder), Path(folder, "net.clipq"))
        assert size == Path(folder, "net.clipq").stat().st_size
