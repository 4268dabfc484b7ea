from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from hypothesis import given
from sharded import Sharded

from clipq.conventions import Conventions
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2, inspect
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import SettingError
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.verified_file import write_verified

#: The worked example of docs/format.md, put together by hand there; the CRCs are those of an independent tool.
EXAMPLE = bytes.fromhex(
    "43 4C 49 50 51 01 19 01 00 07 02 66 63 02 02 02 06 10 01 03 00 04 62 69 61 73 00 01 02 08 00 00 2B FE 18 BC 02 04"
    "00 00 C0 BF 00 00 00 BF 00 00 80 3F 6E 93 08 F6 9B FB 00 00 00 3F 00 00 00 C0 8E 32 37 DD"
)


def _example_net() -> QuantizedNet:
    codes = np.array([[0, 0, 3, 0, 0, 0], [0, 0, 0, 1, 0, 2]], np.uint8)
    layer = QuantizedLayer("fc.weight", 2, codes, np.array([-1.5, -0.5, 1.0], np.float32))
    return QuantizedNet((layer,), {"fc.bias": torch.tensor([0.5, -2.0])})


def _layer(codes: np.ndarray, b: int = 4, name: str = "w", dtype: str = "float32") -> QuantizedLayer:
    return QuantizedLayer(name, b, codes.astype(np.uint8), np.linspace(-1, 1, 2**b - 1, dtype=np.float32), dtype)


def test_exact_bytes_of_the_worked_example() -> None:
    assert encode_sparse_quantized_net_v2(_example_net()).to_bytes() == EXAMPLE
    nets.assert_same_net(decode_sparse_quantized_net_v2(EXAMPLE), _example_net())


def test_the_document_shows_the_same_bytes() -> None:
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    rows = [
        line for line in text.split("## Worked example")[1].split("\n## ")[0].splitlines() if line.startswith("| `")
    ]
    shown = "".join("".join(row.split("|")[1].split("`")[1::2]) for row in rows)
    assert bytes.fromhex(shown) == EXAMPLE


@given(nets.nets())
def test_any_network_comes_back_exactly(net: QuantizedNet) -> None:
    encoded = encode_sparse_quantized_net_v2(net)
    data = encoded.to_bytes()
    nets.assert_same_net(decode_sparse_quantized_net_v2(data), net)
    assert sum(size for _, _, size in encoded.sizes()) == len(data)


@pytest.mark.parametrize("index_bits", Conventions.options("index_bits"))
@pytest.mark.parametrize("b", [2, 3, 5, 8])
def test_every_width_of_codes_and_both_conventions_for_the_index(b: int, index_bits: str) -> None:
    rng = np.random.default_rng(b)
    codes = rng.integers(1, 2**b, (40, 3, 5, 7)) * (rng.random((40, 3, 5, 7)) < 0.02)
    net = QuantizedNet((_layer(codes, b), _layer(codes.reshape(40, -1), b, "fc")))
    encoded = encode_sparse_quantized_net_v2(net, conventions=Conventions(index_bits=index_bits))  # type: ignore[arg-type]
    if index_bits == "deep_compression":
        assert [layer.index_bits for layer in encoded.layers] == [8, 5]
    nets.assert_same_net(decode_sparse_quantized_net_v2(encoded.to_bytes()), net)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((300, 300), int),
        np.full((30, 30), 15),
        np.array(7),
        np.array([0]),
        np.zeros((0, 4), int),
        np.zeros((3, 0, 2), int),
        np.eye(200, dtype=int),
        np.ones((1, 1, 2, 1, 2, 1, 2, 1, 2), int),
    ],
    ids=["all zero", "all kept", "scalar", "one pruned", "empty", "empty inside", "diagonal", "nine dimensions"],
)
def test_layers_at_the_edge(codes: np.ndarray) -> None:
    net = QuantizedNet((_layer(codes),))
    nets.assert_same_net(decode_sparse_quantized_net_v2(encode_sparse_quantized_net_v2(net).to_bytes()), net)


def test_a_large_empty_layer_keeps_the_bound_on_sizes() -> None:
    net = QuantizedNet((_layer(np.zeros((1000, 1000)), b=2),))
    data = encode_sparse_quantized_net_v2(net).to_bytes()
    assert len(data) >= 1_000_000 / 4096
    nets.assert_same_net(decode_sparse_quantized_net_v2(data), net)


def test_a_transposed_tensor_is_stored_in_c_order() -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    net = QuantizedNet((), {"t": tensor})
    decoded = decode_sparse_quantized_net_v2(encode_sparse_quantized_net_v2(net).to_bytes())
    assert torch.equal(decoded.tensors["t"], tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.from_numpy(np.random.default_rng(0).normal(size=0)),
        torch.tensor(2.0).expand(1),
        torch.tensor([1.0, 2.0]).expand(3, 2),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.arange(10.0)[::3],
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=["empty", "expanded from a scalar", "expanded", "conjugate", "strided", "parameter"],
)
@pytest.mark.parametrize("coder", ["fixed", "entropy"])
def test_tensors_that_are_views(tensor: torch.Tensor, coder: str) -> None:
    net = QuantizedNet((), {"t": tensor})
    decoded = decode_sparse_quantized_net_v2(encode_sparse_quantized_net_v2(net, coder).to_bytes())  # type: ignore[arg-type]
    assert torch.equal(decoded.tensors["t"], tensor.detach())
    assert decoded.tensors["t"].dtype == tensor.dtype


def test_levels_that_no_weight_takes_come_back_too() -> None:
    levels = np.array([np.nan, -0.0, np.inf], np.float32)
    net = QuantizedNet((QuantizedLayer("w", 2, np.zeros(4, np.uint8), levels),))
    decoded = decode_sparse_quantized_net_v2(encode_sparse_quantized_net_v2(net).to_bytes())
    assert decoded.layers[0].levels.tobytes() == levels.tobytes()


def test_the_file_on_disk_and_what_is_in_it(tmp_path: Path) -> None:
    net = QuantizedNet(_example_net().layers, _example_net().tensors, {"tied.weight": "fc.weight"})
    encoded = encode_sparse_quantized_net_v2(net)
    path = tmp_path / "net.clipq"
    assert write_verified(net, encoded, path) == path.stat().st_size
    nets.assert_same_net(decode_sparse_quantized_net_v2(path), net)
    nets.assert_same_net(decode_sparse_quantized_net_v2(str(path)), net)
    info = inspect(path)
    layer = info.layers[0]
    assert (layer.name, layer.shape, layer.b, layer.coder) == ("fc.weight", (2, 6), 2, "fixed")
    assert (layer.n_kept, layer.n_fillers, layer.index_bits, layer.n_bytes) == (3, 1, 2, 20)
    assert (info.tensors[0].name, info.tensors[0].n_bytes, info.tensors_bytes) == ("fc.bias", 8, 12)
    assert info.aliases == {"tied.weight": "fc.weight"}
    assert info.n_bytes == path.stat().st_size
    assert info.n_bytes == info.directory_bytes + sum(x.n_bytes for x in info.layers) + info.tensors_bytes


def test_decoded_tensors_can_be_written_to() -> None:
    decoded = decode_sparse_quantized_net_v2(EXAMPLE)
    decoded.tensors["fc.bias"].add_(1)
    assert decoded.tensors["fc.bias"].tolist() == [1.5, -1.0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"q": torch.empty(2, dtype=torch.qint8)}, "tensor q: .*got qint8"),
        ({"s": torch.ones(2, 2).to_sparse()}, "tensor s: expected a dense tensor"),
        ({"m": torch.ones(2, device="meta")}, "tensor m: expected a dense tensor with values"),
        ({"n" * 1025: torch.ones(2)}, "at most 1024 bytes"),
        ({"\ud800": torch.ones(2)}, "that UTF-8 can hold"),
        ({5: torch.ones(2)}, "name 5: expected a text"),
        ({"a": [1.0]}, "tensor a: expected a tensor, got list"),
        ({"s": Sharded(torch.ones(2))}, "tensor s: .* all of its elements, got one of the class Sharded"),
    ],
)
def test_what_the_file_cannot_hold_is_refused_by_name(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        encode_sparse_quantized_net_v2(QuantizedNet((), tensors)).to_bytes()


def test_an_unknown_coder_is_refused() -> None:
    with pytest.raises(SettingError, match="coder"):
        encode_sparse_quantized_net_v2(_example_net(), coder="huffman")  # type: ignore[arg-type]
