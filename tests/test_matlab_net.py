import io
import itertools
import shutil
import subprocess
from pathlib import Path

import nets
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings

from clipq.conventions import Conventions
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.errors import SettingError
from clipq.matlab_net import MatlabStructError, read_mat, write_mat
from clipq.quantized_net import QuantizedLayer, QuantizedNet


def _net() -> QuantizedNet:
    codes = np.array([[[0, 0, 3], [0, 0, 0]], [[0, 0, 0], [1, 0, 2]]], np.uint8)
    layer = QuantizedLayer("conv.weight", 2, codes, np.array([-1.5, -0.5, 1.0], np.float32))
    tensors = {"conv.bias": torch.tensor([0.5, -2.0]), "half": torch.tensor([1.5], dtype=torch.bfloat16)}
    return QuantizedNet((layer,), tensors, {"tied": "conv.weight"})


def _saved(net: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"net": net})
    return buffer.getvalue()


def _fields(**changes: object) -> dict[str, object]:
    """The struct as a MATLAB user would write it by hand, everything a double or a row vector."""
    layer = {
        "name": "w", "shape": [2.0, 3.0], "dtype": "float32", "b": 2.0, "index_bits": 2.0, "n_weights": 6.0,
        "gaps": [1.0, 2.0], "codes": [2.0, 3.0], "levels": [-1.0, 0.5, 1.0],
    } | changes  # fmt: skip
    return {"format": "clipq", "version": 1.0, "layers": layer, "tensors": np.empty((1, 0), [("name", object)]),
            "aliases": np.empty((0, 0), [("name", object)])}  # fmt: skip


def test_the_struct_has_the_documented_fields(tmp_path: Path) -> None:
    size = write_mat(_net(), tmp_path / "net.mat")
    assert size == (tmp_path / "net.mat").stat().st_size
    net = scipy.io.loadmat(tmp_path / "net.mat", simplify_cells=True)["net"]
    assert (net["format"], net["version"]) == ("clipq", 1)
    layer = net["layers"]
    assert (layer["name"], layer["b"], layer["index_bits"], layer["n_weights"]) == ("conv.weight", 2, 2, 12)
    assert layer["shape"].tolist() == [2, 2, 3]
    assert layer["gaps"].tolist() == [2, 3, 2, 1]
    assert layer["codes"].tolist() == [3, 0, 1, 2]
    assert layer["levels"].tolist() == [-1.5, -0.5, 1.0]
    assert [(t["name"], t["dtype"]) for t in net["tensors"]] == [("conv.bias", "float32"), ("half", "bfloat16")]
    assert net["tensors"][1]["value"] == 0x3FC0  # the bits of 1.5


@settings(max_examples=50)
@given(net=nets.nets())
def test_any_network_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, net: QuantizedNet) -> None:
    path = tmp_path_factory.mktemp("mat") / "net.mat"
    write_mat(net, path)
    nets.assert_same_net(decode_sparse_quantized_net_v2(path), net)


def test_what_a_matlab_user_writes_by_hand() -> None:
    layer = read_mat(_saved(_fields())).layers[0]
    assert layer.codes.tolist() == [[0, 2, 0], [0, 3, 0]]
    assert layer.weights().tolist() == [[0, 0.5, 0], [0, 1.0, 0]]


def test_the_index_width_is_convention_a08(tmp_path: Path) -> None:
    write_mat(_net(), tmp_path / "net.mat", Conventions(index_bits="deep_compression"))
    assert scipy.io.loadmat(tmp_path / "net.mat", simplify_cells=True)["net"]["layers"]["index_bits"] == 8
    nets.assert_same_net(decode_sparse_quantized_net_v2(tmp_path / "net.mat"), _net())


@pytest.mark.skipif(shutil.which("octave-cli") is None, reason="needs GNU Octave (octave-cli)")
def test_octave_reads_the_weights_and_writes_the_struct_back(tmp_path: Path) -> None:
    write_mat(_net(), tmp_path / "net.mat")
    program = (
        "load net.mat; x = net.layers(1); w = zeros(x.n_weights, 1, 'single'); table = [0; x.levels];"
        "w(cumsum(double(x.gaps) + 1)) = table(double(x.codes) + 1);"
        "w = permute(reshape(w, fliplr(x.shape)), numel(x.shape):-1:1); save('-v7', 'w.mat', 'w');"
        "save('-v7', 'back.mat', 'net');"
    )
    subprocess.run(["octave-cli", "--quiet", "--eval", program], cwd=tmp_path, check=False, timeout=60)
    weights = scipy.io.loadmat(tmp_path / "w.mat")["w"]
    assert np.array_equal(weights, _net().layers[0].weights().numpy())
    nets.assert_same_net(decode_sparse_quantized_net_v2(tmp_path / "back.mat"), _net())


@pytest.mark.skipif(shutil.which("octave-cli") is None, reason="needs GNU Octave (octave-cli)")
def test_the_documented_lines_give_weights_of_any_rank(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    lines = text.split("```matlab\n")[1].split("```")[0]
    shapes = [(), (5,), (2, 3), (2, 3, 4, 5), (0, 3), (1, 1, 3, 1)]
    levels = np.array([-1.0, 0.5, 1.0], np.float32)
    codes = [np.resize(np.arange(3, -1, -1, dtype=np.uint8), shape) for shape in shapes]
    layers = [QuantizedLayer(f"w{i}", 2, c, levels) for i, c in enumerate(codes)]
    write_mat(QuantizedNet(tuple(layers)), tmp_path / "net.mat")
    program = (
        f"load net.mat; for layer = net.layers\n{lines}\neval([layer.name ' = W;']); end; save('-v7', 'w.mat', 'w*');"
    )
    subprocess.run(["octave-cli", "--quiet", "--eval", program], cwd=tmp_path, check=False, timeout=60)
    found = scipy.io.loadmat(tmp_path / "w.mat")
    for layer in layers:
        assert np.array_equal(found[layer.name].reshape(layer.shape), layer.weights().numpy()), layer.name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gaps": [1.0]}, "as many gaps as codes, got 1 and 2"),
        ({"gaps": [1.0, 4.0]}, r"layers\(1\).gaps: expected values from 0 to below 4"),
        ({"gaps": [1.0, -1.0]}, "gaps: expected values"),
        ({"gaps": [1.0, 1.5]}, "gaps: expected values of uint32"),
        ({"gaps": "ab"}, "gaps: expected numbers"),
        ({"codes": [1.0, 4.0]}, "codes: expected values from 0 to below 4"),
        ({"codes": [0.0, 1.0]}, "fillers to have gap 3"),
        ({"n_weights": 4.0, "shape": [4.0]}, "within the layer's 4 weights"),
        ({"shape": [2.0, 2.0]}, r"expected 6 elements, got \(2, 2\)"),
        ({"shape": [-2.0, -3.0]}, "shape: expected values from 0"),
        ({"n_weights": -6.0}, "n_weights: expected values from 0"),
        ({"index_bits": -1.0}, "index_bits: expected values from 0"),
        ({"n_weights": 1e30, "shape": [1e30]}, "n_weights"),
        ({"b": 9.0}, "from 2 to 8"),
        ({"b": 4294967295.0}, "layer w: bits b: expected an integer from 2 to 8, got 4294967295"),
        ({"n_weights": 2.0**32}, "n_weights: expected values from 0 to below 83886081"),
        ({"levels": [1.0]}, "levels: expected float32 of shape"),
        ({"levels": [0.1, 0.2, 0.3]}, "levels: expected values of float32"),
        ({"dtype": "int8"}, "dtype: expected one of"),
        ({"name": 3.0}, "name: expected text"),
    ],
)
def test_structs_that_contradict_themselves(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MatlabStructError, match=message):
        read_mat(_saved(_fields(**changes)))


def _with_tensor(value: np.ndarray, dtype: str, shape: list[float]) -> bytes:
    row = np.empty((1, 1), [(name, object) for name in ("name", "shape", "dtype", "value")])
    row[0, 0] = ("t", np.array([shape]), dtype, value[:, None])
    return _saved(_fields() | {"tensors": row})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [2**53 + 1, 2**62 + 1, 2**63 - 1, -(2**62) - 1])
def test_integers_that_a_float_would_round_are_refused(value: int, dtype: str) -> None:
    with pytest.raises(MatlabStructError, match=rf"value: expected values of {dtype}, got others \(int64\)"):
        read_mat(_with_tensor(np.array([value]), dtype, [1.0]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
@pytest.mark.parametrize("value", [2**24, 2**62, -(2**62), -(2**63)])
def test_integers_that_the_type_holds_are_kept(value: int, dtype: str) -> None:
    tensor = read_mat(_with_tensor(np.array([value]), dtype, [1.0])).tensors["t"]
    assert int(tensor.real if tensor.is_complex() else tensor) == value


@pytest.mark.parametrize("value", [2.0**63, 2.0**64, np.inf, np.nan, 0.5])
def test_floats_that_no_integer_holds_are_refused(value: float) -> None:
    with pytest.raises(MatlabStructError, match="value: expected values of int64"):
        read_mat(_with_tensor(np.array([value]), "int64", [1.0]))


def test_a_shape_of_no_elements_is_bounded_as_well() -> None:
    assert read_mat(_with_tensor(np.zeros(0, np.float32), "float32", [0.0, 4e3])).tensors["t"].shape == (0, 4000)
    with pytest.raises(MatlabStructError, match=r"shape: expected at most 4294967296 elements, got \(0, 4000000000"):
        read_mat(_with_tensor(np.zeros(0, np.float32), "float32", [0.0, 4e9, 4e9]))


@pytest.mark.parametrize(
    ("field", "row"),
    [
        ("tensors", {"name": "x", "shape": [1.0], "dtype": "float32", "value": [0.5]}),
        ("aliases", {"name": "x", "target": "w"}),
    ],
)
def test_two_of_one_name_are_refused(field: str, row: dict[str, object]) -> None:
    rows = np.empty((1, 2), [(name, object) for name in row])
    rows[0, :] = [tuple(row.values())] * 2
    with pytest.raises(MatlabStructError, match=rf"net\.{field}: expected every name once, got 'x' twice"):
        read_mat(_saved(_fields() | {field: rows}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "save -v7"),
        (b"# Created by Octave 7.3.0", "save -v7, got Octave's text format"),
        (b"Octave-1-L\0", "save -v7, got Octave's format -binary"),
        (b"\x89HDF\r\n\x1a\n", "save -v7, got HDF5"),
        (b"MATLAB 5.0 MAT-file" + bytes(200), "damaged|variable net"),
        (_saved(_fields() | {"format": "other"}), "^net: expected format 'clipq', version 1$"),
        (_saved(_fields() | {"version": 2.0}), "^net: expected format 'clipq', version 1$"),
        (_saved({"format": "clipq", "version": 1.0}), "expected a field layers"),
        (_saved(np.ones(3)), "expected a struct"),  # type: ignore[arg-type]
    ],
    ids=itertools.count(),  # what scipy saves has the time in it
)
def test_other_files(data: bytes, message: str) -> None:
    with pytest.raises(MatlabStructError, match=message):
        decode_sparse_quantized_net_v2(data)


def test_a_damaged_file_is_one_named_error(tmp_path: Path) -> None:
    write_mat(_net(), tmp_path / "net.mat")
    data = (tmp_path / "net.mat").read_bytes()
    for i in range(130, len(data), 3):
        damaged = data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :]
        try:
            decode_sparse_quantized_net_v2(damaged)
        except MatlabStructError:
            continue


@pytest.mark.parametrize(
    ("tensors", "message"),
    [({"s": torch.ones(2, 2).to_sparse()}, "tensor s"), ({"a\0": torch.ones(2)}, "expected one without NUL")],
)
def test_what_the_file_cannot_hold_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        write_mat(QuantizedNet((), tensors), tmp_path / "net.mat")
    assert not (tmp_path / "net.mat").exists()
