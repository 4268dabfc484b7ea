"""State dicts in files of every kind: the way there and back, and types that a kind of file cannot hold."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.errors import DataError, ModelError, SettingError
from clipq.quantize_state import choose_settings, quantize_state
from clipq.quantized_net import LayerSetting
from clipq.state_file import read_state, write_state

THETA = LayerSetting(0.5, 4)


def example() -> dict[str, torch.Tensor]:
    state = {
        "a.weight": torch.arange(12, dtype=torch.float32).reshape(2, 2, 3) - 5,
        "file": torch.tensor([1, -2], dtype=torch.int64),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "transposed.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    }
    state["tied.weight"] = state["a.weight"]
    return state


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])
def test_there_and_back(suffix: str, tmp_path: Path):
    path, state = tmp_path / f"net{suffix}", example()
    assert write_state(state, path) == path.stat().st_size
    read = read_state(path)
    assert sorted(read) == sorted(state)
    for name, tensor in state.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name


def test_mat_has_names_and_values_of_the_tensors_shapes(tmp_path: Path):
    write_state(example(), tmp_path / "net.mat")
    rows = scipy.io.loadmat(tmp_path / "net.mat")["weights"]
    assert rows.shape == (1, 7)
    read = {str(row["name"].item()): row["value"] for row in rows[0]}
    assert read["a.weight"].dtype == np.float32 and np.array_equal(read["a.weight"], example()["a.weight"].numpy())
    assert read["file"].tolist() == [[1], [-2]] and read["scalar"].tolist() == [[2.5]]


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".npz", torch.bfloat16), (".mat", torch.bfloat16), (".mat", torch.float16), (".npz", torch.float8_e5m2)],
)
def test_types_that_a_file_lacks_are_named(suffix: str, dtype: torch.dtype, tmp_path: Path):
    path = tmp_path / f"net{suffix}"
    with pytest.raises(SettingError, match=r"tensor w: a \.\w+ file has no type \w+; write a \.safetensors or \.pt"):
        write_state({"w": torch.ones(2).to(dtype)}, path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_half_precision_types_of_the_others(suffix: str, tmp_path: Path):
    state = {"w": torch.ones(2, dtype=torch.bfloat16), "v": torch.ones(2, dtype=torch.float16)}
    write_state(state, tmp_path / f"net{suffix}")
    assert {n: t.dtype for n, t in read_state(tmp_path / f"net{suffix}").items()} == {
        "w": torch.bfloat16, "v": torch.float16,
    }  # fmt: skip


def test_npz_of_another_byte_order_and_of_other_things(tmp_path: Path):
    np.savez(tmp_path / "big.npz", w=np.arange(3, dtype=">f4"))
    assert torch.equal(read_state(tmp_path / "big.npz")["w"], torch.arange(3.0))
    np.savez(tmp_path / "text.npz", w=np.array(["a"]))
    np.savez(tmp_path / "object.npz", w=np.array([None]))
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("text", "object", "one"):
        with pytest.raises(DataError, match=f"{name}.npz"):
            read_state(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_a_named_error_or_tensors(save: Callable[..., None], tmp_path: Path):
    path = tmp_path / "w.npz"
    save(path, a=np.arange(20.0))
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            read_state(path)
        except DataError as error:
            assert str(path) in str(error)


def test_an_npz_whose_header_promises_more_than_it_has_takes_no_memory(tmp_path: Path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"w\.npz.*a\.npy: expected 4000000000000 bytes for shape .*, got 0"):
        read_state(tmp_path / "w.npz")


def test_the_same_state_gives_the_same_npz(tmp_path: Path):
    for name in ("a.npz", "b.npz"):
        write_state(example(), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_which_tensors_are_chosen():
    state = example()
    assert choose_settings(state, THETA, {}) == dict.fromkeys(["a.weight", "transposed.weight", "empty"], THETA)
    assert list(choose_settings(state, THETA, {}, ["*"], ["a", "empty"])) == ["transposed.weight"]
    attention = {"attn.in_proj_weight": torch.randn(6, 2), "attn.out_proj.weight": torch.randn(2, 2)}
    assert list(choose_settings(attention, THETA, {}, ["*"], ["attn"])) == ["attn.out_proj.weight"]
    other = LayerSetting(0.1, 2)
    assert choose_settings(state, None, {"tied": other}) == {"a.weight": other}
    assert choose_settings(state, THETA, {"a.weight": other}, ["tr*"]) == {
        "a.weight": other, "transposed.weight": THETA,
    }  # fmt: skip
    with pytest.raises(ModelError, match="flags"):
        choose_settings(state, None, {"flags": other})
    for names in (("a", "a.weight"), ("a", "tied")):
        with pytest.raises(ModelError, match=f"tensor a.weight: expected one setting, got two, for a and {names[1]}"):
            choose_settings(state, THETA, dict.fromkeys(names, other))


@pytest.mark.parametrize("include", ["*", "f*"])
def test_a_state_without_weights_is_shown(include: str):
    state = {f"n{i}": torch.ones(2, 3, dtype=torch.int32) for i in range(7)} | {"c": torch.ones(1, 1) + 1j}
    with pytest.raises(
        ModelError, match=r"expected a floating type with two or more .*got n0 \(int32 \[2, 3\]\).* 3 more$"
    ):
        choose_settings(state, THETA, {}, [include])
    with pytest.raises(ModelError, match=r", got n0 \(int32 \[2, 3\]\)$"):
        choose_settings({"n0": state["n0"]}, THETA, {}, [include])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=5), st.integers(0, 2**31))
def test_a_quantized_state_has_every_name_and_shape(shapes: list[tuple[int, int]], seed: int):
    generator = torch.Generator().manual_seed(seed)
    state = {f"{i}.weight": torch.randn(shape, generator=generator) for i, shape in enumerate(shapes)}
    state |= {f"{i}.bias": torch.randn(shape[1], generator=generator) for i, shape in enumerate(shapes)}
    net = quantize_state(state, choose_settings(state, THETA, {}))
    decoded = net.state_dict()
    assert {n: t.shape for n, t in decoded.items()} == {n: t.shape for n, t in state.items()}
    for name, tensor in state.items():
        kept = decoded[name] != 0
        assert name.endswith("weight") or torch.equal(decoded[name], tensor)
        assert torch.all((decoded[name].sign() == tensor.sign())[kept])
