"""Weights into networks, from each kind of file, and every way in which they may not fit."""

from __future__ import annotations

from pathlib import Path

import caffe_bytes as pb
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clipq.errors import DataError
from clipq.pretrained import load_weights, read_weights


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, (1, 3))
        self.bn = nn.BatchNorm2d(2, affine=False)
        self.ip = nn.Linear(4, 1)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return {name: torch.rand_like(t) if t.is_floating_point() else t + 3 for name, t in Net().state_dict().items()}


def caffe_net(conv_shape: bytes = pb.shape([2, 1, 1, 3]), extra: bytes = b"") -> bytes:
    return (
        pb.layer("conv", "Convolution", conv_shape + pb.floats([1, 2, 3, 4, 5, 6]), pb.shape([2]) + pb.floats([7, 8]))
        + pb.layer(
            "bn",
            "BatchNorm",
            pb.shape([2]) + pb.floats([2, 4]),
            pb.shape([2]) + pb.floats([6, 8]),
            pb.shape([1]) + pb.floats([2]),
        )
        + pb.v1_layer(
            "ip",
            14,
            pb.legacy_shape(1, 1, 1, 4) + pb.floats([1, 0, 0, 1]),
            pb.legacy_shape(1, 1, 1, 1) + pb.floats([5]),
        )
        + extra
    )


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_pytorch_state_dicts(tmp_path: Path, suffix: str, key: str | None, prefix: str):
    named = {prefix + name: tensor for name, tensor in state().items()}
    path = tmp_path / f"net{suffix}"
    torch.save({"epoch": 3, key: named} if key else named, path)
    model = Net()
    load_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state().items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors(tmp_path: Path, prefix: str):
    path = tmp_path / "net.safetensors"
    save_file({prefix + name: tensor for name, tensor in state().items()}, path)
    model = Net()
    load_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state().items())


def test_caffemodel_with_batch_norm_and_legacy_shapes(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe_net())
    model = Net()
    load_weights(model, path)
    assert model.conv.weight.flatten().tolist() == [1, 2, 3, 4, 5, 6] and model.conv.bias.tolist() == [7, 8]
    assert model.bn.running_mean.tolist() == [1, 2] and model.bn.running_var.tolist() == [3, 4]
    assert model.ip.weight.tolist() == [[1, 0, 0, 1]] and model.ip.bias.tolist() == [5]


def test_batch_norm_that_summed_nothing(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(pb.layer("bn", "BatchNorm", *[pb.floats([0])] * 3))
    assert read_weights(path)["bn.running_mean"].tolist() == [0]


def test_every_misfit_is_named_and_the_model_left_as_it_was(tmp_path: Path):
    path = tmp_path / "net.pt"
    wrong = state()
    del wrong["conv.bias"], wrong["bn.num_batches_tracked"]
    wrong |= {"ip.weight": torch.zeros(1, 5), "fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}
    torch.save(wrong, path)
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert "does not fit Net: missing: conv.bias; unexpected: fc.weight, fc.bias; " in message
    assert "misshapen: ip.weight (expected [1, 4], got [1, 5])" in message
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_shape_that_differs_by_more_than_leading_ones(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe_net(conv_shape=pb.legacy_shape(3, 1, 1, 2)))
    with pytest.raises(DataError, match=r"conv.weight \(expected \[2, 1, 1, 3\], got \[3, 1, 1, 2\]\)"):
        load_weights(Net(), path)


def test_entries_are_ignored_only_on_request(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(
        caffe_net(extra=pb.layer("aux/fc", "InnerProduct", pb.floats([1]), pb.floats([1]), pb.floats([1])))
    )
    with pytest.raises(DataError, match=r"unexpected: aux/fc.weight, aux/fc.bias, aux/fc.blob2"):
        load_weights(Net(), path)

    class Tolerant(Net):
        ignored_weights = ("aux/*",)

    load_weights(Tolerant(), path)


def test_ignoring_does_not_excuse_what_the_model_has(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe_net())

    class Indifferent(Net):
        ignored_weights = ("*",)

    model = Indifferent()
    load_weights(model, path)
    assert model.conv.bias.tolist() == [7, 8]


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("a file must not run code",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "expected a state dict, got list"),
        ({}, "expected a state dict, got an empty one"),
        ({"conv.weight": 3.0}, r"got other values under: conv.weight \(float\)"),
        ({"conv.weight": Payload()}, "cannot be read as a state dict"),
        ({1: torch.ones(2), ("a",): torch.ones(2)}, r"tensors by their names, got the keys 1, \('a',\)"),
        ({"s": torch.eye(2).to_sparse()}, r"dense tensors, got other values under: s \(sparse_coo\)"),
        ({"m": torch.ones(2, device="meta")}, r"got other values under: m \(a meta tensor without values\)"),
        (nn.Linear(2, 1), r"net\.pt: .* holds a whole module; save model.state_dict\(\) instead$"),
        ({"model": Net()}, r"holds an object of \w+\.Net; save model.state_dict\(\) instead$"),
    ],
)
def test_files_of_pytorch_that_are_not_state_dicts(
    tmp_path: Path, content: object, expected: str, capsys: pytest.CaptureFixture[str]
):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(DataError, match=expected):
        load_weights(Net(), tmp_path / "net.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_not_weights(tmp_path: Path):
    torch.save({"n": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, tmp_path / "net.pt")
    with pytest.raises(DataError, match=r"dense tensors, got other values under: n \(a nested tensor\)"):
        load_weights(Net(), tmp_path / "net.pt")


def test_complex_weights_do_not_lose_their_imaginary_part(tmp_path: Path):
    torch.save(state() | {"ip.bias": torch.tensor([1 + 1j])}, tmp_path / "net.pt")
    with pytest.raises(DataError, match=r"of another type: ip.bias \(expected float32, got complex64\)"):
        load_weights(Net(), tmp_path / "net.pt")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_give_tensors_or_a_named_error(tmp_path: Path):
    path = tmp_path / "net.pt"
    torch.save({"w": torch.ones(2)}, path)
    data, rng = path.read_bytes(), np.random.default_rng(0)
    pickled = data.index(b"\x80\x02"), data.index(b"PK\x07\x08")
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.integers(*pickled)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except DataError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("data", [b"\x80\x02.", b"\x80\x02(", b"garbage", b"PK\x03\x04" + bytes(50)])
def test_an_error_has_a_reason_and_none_of_torchs_advice(tmp_path: Path, data: bytes):
    (tmp_path / "net.pt").write_bytes(data)
    with pytest.raises(DataError, match=r"net\.pt: cannot be read as a state dict of tensors: \w+") as caught:
        read_weights(tmp_path / "net.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.caffemodel"])
def test_damaged_and_missing_files(tmp_path: Path, name: str):
    path = tmp_path / name
    with pytest.raises(DataError, match="no such file"):
        load_weights(Net(), path)
    for data in (b"", b"neither of them", bytes(range(256))):
        path.write_bytes(data)
        with pytest.raises(DataError, match=name):
            load_weights(Net(), path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="got an empty file"):
        load_weights(Net(), path)


def test_a_layer_twice_and_an_unknown_kind_of_file(tmp_path: Path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(pb.layer("a", "A", pb.floats([1])) * 2)
    with pytest.raises(DataError, match=r"net\.caffemodel: layer a: expected one layer"):
        load_weights(Net(), path)
    path.write_bytes(pb.layer("bn", "BatchNorm", pb.floats([1])))
    with pytest.raises(DataError, match=r"net\.caffemodel: layer bn: BatchNorm: expected blobs"):
        load_weights(Net(), path)
    with pytest.raises(DataError, match=r"net.h5: expected weights in a file ending in \.caffemodel, \.pt"):
        load_weights(Net(), tmp_path / "net.h5")
