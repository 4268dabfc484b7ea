"""Files written by hand, byte by byte, in every form that Caffe knows; and damaged ones."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import caffe_bytes as pb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipq.caffemodel import read_caffemodel, read_mean
from clipq.errors import DataError

WEIGHT = [0.5, -1.25, 3.0, 1e-8, -0.0, 7.5]
NET = pb.text(1, "net") + pb.layer("ip1", "InnerProduct", pb.shape([2, 3]) + pb.floats(WEIGHT), pb.shape([2]) + pb.floats([1, 2]))  # fmt: skip  # noqa: E501


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    return path


def only_blob(path: Path) -> np.ndarray:
    (layer,) = read_caffemodel(path)
    (blob,) = layer.blobs
    return blob


def test_the_new_layer_format(tmp_path: Path):
    (layer,) = read_caffemodel(written(tmp_path, NET))
    assert (layer.name, layer.type) == ("ip1", "InnerProduct")
    weight, bias = layer.blobs
    assert weight.dtype == np.float32 and weight.shape == (2, 3) and bias.tolist() == [1, 2]
    assert weight.tobytes() == struct.pack("<6f", *WEIGHT)


def test_the_v1_layer_format_with_legacy_shapes(tmp_path: Path):
    data = pb.v1_layer("conv1", 4, pb.legacy_shape(2, 1, 1, 3) + pb.floats(WEIGHT)) + pb.v1_layer(
        "odd", 99, pb.legacy_shape(1, 1, 1, 2) + pb.floats([1, 2])
    )
    conv, odd = read_caffemodel(written(tmp_path, data))
    assert (conv.name, conv.type, conv.blobs[0].shape) == ("conv1", "Convolution", (2, 1, 1, 3))
    assert (odd.name, odd.type, odd.blobs[0].shape) == ("odd", "V1:99", (1, 1, 1, 2))


@pytest.mark.parametrize("shape_packed", [True, False])
@pytest.mark.parametrize("n", [1, 6, 63, 64, 65, 1000])
def test_unpacked_floats(tmp_path: Path, n: int, shape_packed: bool):
    values = np.linspace(-1, 1, n, dtype=np.float32)
    blob = pb.floats(values, packed=False) + pb.shape([n], shape_packed)
    assert only_blob(written(tmp_path, pb.layer("a", "A", blob))).tobytes() == values.tobytes()


def test_floats_in_several_pieces(tmp_path: Path):
    pieces = [
        pb.floats(WEIGHT[:2]), pb.floats(WEIGHT[2:4], packed=False), pb.shape([6]),
        pb.floats(WEIGHT[4:5], packed=False), pb.floats(WEIGHT[5:]),
    ]  # fmt: skip
    blob = only_blob(written(tmp_path, pb.layer("a", "A", b"".join(pieces))))
    assert blob.tobytes() == struct.pack("<6f", *WEIGHT)


@pytest.mark.parametrize("packed", [True, False])
def test_doubles_keep_their_precision(tmp_path: Path, packed: bool):
    values = [1 / 3, -1e-300]
    blob = only_blob(written(tmp_path, pb.layer("a", "A", pb.shape([2]) + pb.doubles(values, packed))))
    assert blob.dtype == np.float64 and blob.tolist() == values


def test_a_shape_of_no_values_is_bounded_as_caffe_bounds_it(tmp_path: Path):
    """Caffe counts in int."""
    largest = 2**31 - 1
    assert only_blob(written(tmp_path, pb.layer("a", "A", pb.shape([0, largest])))).shape == (0, largest)
    with pytest.raises(DataError, match=r"layer a: blob 0: expected a blob of at most 2\^31 - 1 values, got shape"):
        read_caffemodel(written(tmp_path, pb.layer("a", "A", pb.shape([largest + 1, 0]))))


def test_of_two_forms_of_values_and_of_shapes_caffes_is_taken(tmp_path: Path):
    """Doubles where there are any; num, channels, height and width where one is set."""
    blob = pb.shape([2]) + pb.floats([1, 2]) + pb.doubles([7, 8]) + pb.legacy_shape(1, 1, 2, 1)
    assert only_blob(written(tmp_path, pb.layer("a", "A", blob))).tolist() == [[[[7], [8]]]]
    blob = pb.shape([2]) + pb.floats([1, 2]) + pb.doubles([])
    assert only_blob(written(tmp_path, pb.layer("a", "A", blob))).tolist() == [1, 2]


def test_unknown_fields_of_every_wire_type_are_skipped(tmp_path: Path):
    noise = pb.integer(900, 2**63) + pb.varint(901 * 8 + 1) + bytes(8) + pb.message(902, b"xyz") + pb.varint(903 * 8 + 5) + bytes(4)  # fmt: skip  # noqa: E501
    blob = noise + pb.shape([6]) + noise + pb.floats([9] * 6, field=6) + pb.floats(WEIGHT) + noise
    data = noise + pb.message(100, noise + pb.text(1, "a") + noise + pb.message(7, blob) + noise) + noise
    assert only_blob(written(tmp_path, data)).tobytes() == struct.pack("<6f", *WEIGHT)


def test_layers_without_blobs_are_left_out_and_the_order_is_kept(tmp_path: Path):
    blob = pb.shape([1]) + pb.floats([1])
    data = pb.layer("b", "X", blob) + pb.layer("relu", "ReLU") + pb.v1_layer("a", 14, blob)
    assert [layer.name for layer in read_caffemodel(written(tmp_path, data))] == ["b", "a"]


def test_scalar_and_empty_blobs(tmp_path: Path):
    data = pb.layer("a", "A", pb.floats([2]) + pb.shape([]), pb.shape([0, 3]), pb.floats([1, 2, 3]))
    scalar, empty, shapeless = read_caffemodel(written(tmp_path, data))[0].blobs
    assert scalar.shape == () and scalar == 2 and empty.shape == (0, 3) and shapeless.shape == (3,)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "got none"),
        (pb.layer("relu", "ReLU"), "got none"),
        (NET[:-1], r"byte 5: field 100: 1 bytes are missing"),
        (NET + b"\x80", r"byte \d+: expected a varint, got the end"),
        (NET + b"\xff" * 11, "at most 10 bytes"),
        (NET + b"\x0b", r"byte \d+: field 1: expected wire type 0, 1, 2 or 5, got 3"),
        (NET + b"\x02\x00", "field number from 1, got 0"),
        (pb.layer("a", "A", pb.shape([7]) + pb.floats(WEIGHT)), r"byte \d+: layer a: blob 0: expected \[7\].*got 6"),
        (pb.layer("a", "A", pb.shape([-6]) + pb.floats(WEIGHT)), r"\[-6\] values"),
        (pb.layer("a", "A", pb.shape([-2, -3]) + pb.floats(WEIGHT)), r"\[-2, -3\] values"),
        (pb.layer("a", "A", pb.shape([2**40, 2**40])), "values, got 0"),
        (pb.layer("a", "A", pb.shape([2**62, 0])), r"byte \d+: layer a: blob 0: expected a blob of at most 2\^31 - 1"),
        (pb.layer("a", "A", pb.shape([2**40, 2**40, 0])), "expected a blob of at most"),
        (pb.layer("a", "A", pb.message(1, b"") + pb.floats([1])), "layer a: blob 0: size: expected an integer"),
        (pb.layer("a", "A", pb.shape([1] * 33) + pb.floats([1])), "at most 32 dimensions, got 33"),
        (pb.layer("a", "A", pb.message(5, b"abc")), "whole float32s, got 3 bytes"),
        (pb.layer("a", "A", pb.integer(5, 1)), "data: expected wire type 2 or 5, got 0"),
        (pb.message(100, pb.integer(7, 1)), "blob: expected wire type 2, got 0"),
        (pb.message(100, pb.message(1, b"\xff\xfe")), "expected UTF-8"),
        (pb.message(2, pb.message(1, b"")), "V0 layer"),
        (pb.integer(100, 5), "layer: expected wire type 2, got 0"),
        (pb.layer("a", "A", pb.shape([2]) + pb.integer(10, 2) + pb.message(12, bytes(4))),
         "layer a: blob 0: expected data or double_data, got raw_data of NVIDIA's Caffe"),
        (b'name: "LeNet"\nlayer {\n  name: "conv1"\n}\n', "binary protobuf, got text, such as a .prototxt"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), "binary protobuf, got an HDF5 file"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_place(tmp_path: Path, data: bytes, expected: str):
    path = written(tmp_path, data)
    with pytest.raises(DataError, match=expected) as caught:
        read_caffemodel(path)
    assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.caffemodel: cannot be read: No such file"):
        read_caffemodel(tmp_path / "none.caffemodel")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_give_weights_or_a_named_error(tmp_path: Path, data: st.DataObject):
    damaged = bytearray(NET + pb.v1_layer("c", 4, pb.legacy_shape(1, 1, 2, 3) + pb.floats(WEIGHT, packed=False)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path, bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    try:
        layers = read_caffemodel(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert sum(blob.size for layer in layers for blob in layer.blobs) <= 14


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_weights_or_a_named_error(tmp_path: Path, data: bytes):
    try:
        read_caffemodel(written(tmp_path, data))
    except DataError as error:
        assert re.search(r"damaged at byte \d+|got none|got text|got an HDF5 file|got raw_data", str(error))


@pytest.mark.parametrize("sizes", [pb.shape([3, 1, 2]), pb.shape([1, 3, 1, 2]), pb.legacy_shape(1, 3, 1, 2)])
def test_mean_image(tmp_path: Path, sizes: bytes):
    path = written(tmp_path, sizes + pb.floats(WEIGHT))
    mean = read_mean(path)
    assert mean.shape == (3, 1, 2) and mean.ravel().tolist() == np.float32(WEIGHT).tolist()


def test_mean_of_another_shape(tmp_path: Path):
    with pytest.raises(DataError, match=r"one image .*got shape \[2, 3, 1, 1\]"):
        read_mean(written(tmp_path, pb.legacy_shape(2, 3, 1, 1) + pb.floats(WEIGHT)))


@pytest.mark.skipif(not os.environ.get("CLIPQ_DATA"), reason="CLIPQ_DATA names no folder with caffe/")
def test_a_file_that_caffe_wrote():
    layers = read_caffemodel(Path(os.environ["CLIPQ_DATA"], "caffe", "caffe_lenet5_original.caffemodel"))
    assert [(layer.name, layer.type, [blob.shape for blob in layer.blobs]) for layer in layers] == [
        ("conv1", "Convolution", [(20, 1, 5, 5), (20,)]),
        ("conv2", "Convolution", [(50, 20, 5, 5), (50,)]),
        ("ip1", "InnerProduct", [(500, 800), (500,)]),
        ("ip2", "InnerProduct", [(10, 500), (10,)]),
    ]
