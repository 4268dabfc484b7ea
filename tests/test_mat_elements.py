"""Files of level 5 are walked before SciPy's reader, which damaged ones could end the process or fill the memory of."""

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipq.bayesian.bayesopt_trace import load_trace
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.errors import CheckpointError
from clipq.mat_elements import MatElementError, check_elements, read_variables
from clipq.matlab_net import MatlabStructError
from matlab_parity.mat_files import FixtureError, load_mat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
STRUCT, CHAR, SPARSE, DOUBLE = 2, 4, 5, 6


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def integers(*values: int) -> bytes:
    return element(5, struct.pack(f"<{len(values)}i", *values))


def array(kind: int, dims: tuple[int, ...], *contents: bytes, name: bytes = b"net") -> bytes:
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, flags + integers(*dims) + element(1, name) + b"".join(contents))


def names(*fields: bytes, length: int = 8) -> bytes:
    size = struct.pack("<HHi", 5, 4, length)
    return size + element(1, b"".join(field.ljust(length, b"\0") for field in fields))


def compressed(data: bytes) -> bytes:
    deflated = zlib.compress(data)
    return struct.pack("<II", 15, len(deflated)) + deflated


def cells(depth: int) -> bytes:
    inner = array(DOUBLE, (1, 1), element(9, struct.pack("<d", 1.0)))
    for _ in range(depth):
        inner = array(1, (1, 1), inner)
    return inner


def sparse(rows: list[int], starts: list[int], values: list[float]) -> bytes:
    return array(
        SPARSE, (3, 2), integers(*rows), integers(*starts), element(9, struct.pack(f"<{len(values)}d", *values))
    )


@pytest.mark.parametrize(
    "variable",
    [
        array(CHAR, (), element(16, b"\1")),  # once ended the process
        array(STRUCT, (1, 400_000_000), names(b"a")),  # once took gigabytes
    ],
    ids=itertools.count(),
)
def test_what_ended_the_process_or_filled_the_memory_is_an_error_of_each_reader(
    tmp_path: Path, variable: bytes
) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(HEADER + variable)
    with pytest.raises(MatlabStructError, match=r"the \.mat file is damaged: byte \d+: expected"):
        decode_sparse_quantized_net_v2(path)
    with pytest.raises(FixtureError, match=r"x\.mat: expected a \.mat file, .*: byte"):
        load_mat(path)
    with pytest.raises(CheckpointError, match=r"x\.mat: expected a trace in a .mat file, .*: byte"):
        load_trace(path, 2)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (b"\1\2\3", "byte 128: expected 8 bytes, 3 are left"),
        (element(9, b""), r"expected an array \(type 14\), got type 9"),
        (element(14, b""), "expected 16 bytes, 0 are left"),
        (element(14, element(5, bytes(8))), "expected an array's flags"),
        (array(18, (1, 1)), "expected an array of a class that is known, got class 18"),
        (array(DOUBLE, (1,)), "expected 2 to 32 dimensions"),
        (array(DOUBLE, (1,) * 33), "expected 2 to 32 dimensions"),
        (array(DOUBLE, (1, -1)), "expected the sizes of an array"),
        (array(DOUBLE, (0, 2**30, 2**30)), "expected the sizes of an array"),
        (array(DOUBLE, (1, 1), name=b"x").replace(element(1, b"x"), element(2, b"x")), r"expected a name \(type 1\)"),
        (array(DOUBLE, (1, 1), element(200, bytes(8))), "expected numbers, got type 200"),
        (array(DOUBLE, (1, 2), element(9, bytes(8))), "expected 2 numbers of type 9, got 8 bytes"),
        (array(DOUBLE, (1, 1), element(9, bytes(8), 2**31)), "expected 2147483648 bytes of type 9, 8 are left"),
        (array(DOUBLE, (1, 1), struct.pack("<HHI", 2, 5, 0)), "a small element of at most 4 bytes, got 5"),
        (array(CHAR, (1, 10**9), element(16, b"")), "characters, got 0 bytes"),
        (array(CHAR, (1, 2), element(99, b"ab")), "expected characters, got type 99"),
        (array(STRUCT, (1, 1), names(b"a", length=0)), "expected the length of fields' names"),
        (array(STRUCT, (1, 1), names(b"abcdefgh")), "expected names of fields that end within 8 bytes"),
        (array(STRUCT, (1, 1), names(*[b"a"] * 5000)), "expected at most 4096 names of fields, got 5000"),
        (array(STRUCT, (1, 10**9), names()), "expected at most 1024 structs without fields"),
        (sparse([0, 3], [0, 1, 2], [1, 2]), "expected 2 row indices below 3"),
        (sparse([0, -1], [0, 1, 2], [1, 2]), "expected 2 row indices below 3"),
        (sparse([0, 1], [0, 3, 2], [1, 2]), "columns in order"),
        (sparse([0, 1], [0, 2], [1, 2]), "expected a sparse array's 2 columns"),
        (sparse([0, 1], [0, 1, 2], [1]), "expected 2 numbers of type 9, got 8 bytes"),
        (cells(101), "expected at most 100 arrays within each other"),
        (compressed(array(DOUBLE, (1, 2), element(9, bytes(8)))), "element at byte 128, byte 72: expected 2"),
        (compressed(element(14, b"", 2**31)[:8]), "compressed element at byte 128, .*: expected 16 bytes"),
        (element(15, b"no zlib"), "compressed element at byte 128: Error -3"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_the_walk_says_what_it_expected_where(variable: bytes, message: str) -> None:
    with pytest.raises(MatElementError, match=message):
        read_variables(io.BytesIO(HEADER + variable))


@pytest.mark.parametrize("header", [b"", HEADER[:100], bytes(4) + HEADER[4:], HEADER[:124] + b"\0\2IM"])
def test_a_file_of_another_level_is_refused(header: bytes) -> None:
    with pytest.raises(MatElementError, match=r"byte 0: expected the header of a \.mat file of level 5"):
        read_variables(io.BytesIO(header))


def test_a_sparse_array_that_is_too_large_to_be_full_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"W": scipy.sparse.csc_matrix((2**31 - 1, 1))})
    with pytest.raises(FixtureError, match=r"x\.mat: .*expected a sparse array that can be made full"):
        load_mat(tmp_path / "x.mat")


def test_complex_numbers_that_no_variable_shows_are_refused_too(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"complex": 1j})
    (tmp_path / "x.mat").write_bytes((tmp_path / "x.mat").read_bytes().replace(b"complex", b"__compl"))
    with pytest.raises(FixtureError, match=r"x\.mat: .*expected real numbers"):
        load_mat(tmp_path / "x.mat")


def _every_class() -> dict[str, object]:
    numbers = np.arange(12).reshape(3, 4)
    structs = np.empty((2, 2), [("a", object), ("b", object)])
    structs[:] = [[(1.0, "x")] * 2] * 2
    kinds = ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c8", "c16", "?")
    return {
        **{f"number{i}": numbers.astype(kind) for i, kind in enumerate(kinds)},
        **{f"small{i}": numbers[:1, :1].astype(kind) for i, kind in enumerate(kinds)},
        "empty": np.zeros((0, 3)), "none": np.zeros((0, 0)), "four": np.zeros((2, 1, 0, 5)),
        "zeros": np.zeros((99, 99)), "text": "text", "greek": "αβγ", "rows": np.array(["ab", "cde"]), "no_text": "",
        "cell": np.array([1.0, "a", np.zeros(3)], object), "no_cell": np.empty((0, 2), object),
        "struct": {"a": {"b": {"c": [1, "x", {"d": 2}]}}}, "structs": structs, "no_structs": structs[:0],
        "sparse": scipy.sparse.csc_matrix(numbers * 1.0), "sparse_flags": scipy.sparse.csc_matrix(numbers > 5),
        "sparse_complex": scipy.sparse.csc_matrix(numbers * 1j), "no_sparse": scipy.sparse.csc_matrix((1000, 20)),
        "many_fields": {f"f{i}": float(i) for i in range(300)},
    }  # fmt: skip


@pytest.mark.parametrize("do_compression", [False, True])
@pytest.mark.parametrize("long_field_names", [False, True])
def test_every_class_of_array_is_read_as_scipy_reads_it(do_compression: bool, long_field_names: bool) -> None:
    file = io.BytesIO()
    variables = _every_class()
    scipy.io.savemat(file, variables, do_compression=do_compression, long_field_names=long_field_names)
    assert read_variables(file).keys() >= variables.keys()


def test_files_in_the_order_of_large_machines_are_read() -> None:
    flags, dims, name = struct.pack(">IIII", 6, 8, DOUBLE, 0), struct.pack(">IIii", 5, 8, 1, 2), b"\0\1\0\1x\0\0\0"
    contents = flags + dims + name + struct.pack(">IIdd", 9, 16, 1.5, -2.0)
    file = io.BytesIO(HEADER[:124] + b"\1\0MI" + struct.pack(">II", 14, len(contents)) + contents)
    assert read_variables(file)["x"].tolist() == [[1.5, -2.0]]


def test_octaves_text_that_says_it_is_four_bytes_longer_is_read() -> None:
    text = array(CHAR, (2, 2), struct.pack("<HH", 16, 4) + b"acbd", name=b"c")
    longer = text[:4] + struct.pack("<I", len(text) - 8 + 4) + text[8:]
    for data in (longer, array(1, (1, 1), longer, name=b"c")):
        assert read_variables(io.BytesIO(HEADER + data))["c"].size
    assert read_variables(io.BytesIO(HEADER + compressed(longer)))["c"].tolist() == ["ab", "cd"]


def test_a_stream_that_inflates_a_thousand_times_is_read() -> None:
    file = io.BytesIO()
    scipy.io.savemat(file, {"x": np.zeros((3000, 3000))}, do_compression=True)
    assert file.tell() < 100_000
    assert not read_variables(file)["x"].any()


def _elements(file: bytes) -> bytes:
    """The elements of a file after its header, inflated."""
    at, out = len(HEADER), b""
    while at < len(file):
        kind, size = struct.unpack("<II", file[at : at + 8])
        data = file[at : at + 8 + size]
        out += zlib.decompress(data[8:]) if kind == 15 else data
        at += 8 + size
    return out


def _saved(variables: dict[str, object]) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=True)
    return _elements(file.getvalue())


LAYER = {"name": "w", "shape": [2.0, 3.0], "dtype": "float32", "b": 2.0, "index_bits": 2.0, "n_weights": 6.0,
         "gaps": [1.0, 2.0], "codes": [2.0, 3.0], "levels": [-1.0, 0.5, 1.0]}  # fmt: skip
NO_ROWS = np.empty((1, 0), [("name", object)])
NET = {"format": "clipq", "version": 1.0, "layers": LAYER, "tensors": NO_ROWS, "aliases": NO_ROWS}
TRACE = {"samples": np.ones((3, 2)), "values": np.ones((3, 1)), "times": np.ones((1, 3))}
CONTENTS = [_saved({"net": NET}), _saved({"botrace": TRACE}), *(_saved({n: v}) for n, v in _every_class().items())]


@settings(max_examples=500)
@given(
    st.sampled_from(CONTENTS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
    st.booleans(),
)
@example(CONTENTS[0], [(0.0, 14)], True)
def test_damaged_elements_are_a_named_error_of_each_reader_or_variables(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, changes: list[tuple[float, int]], deflated: bool
) -> None:
    damaged = bytearray(content)
    for at, value in changes:
        damaged[int(at * len(damaged))] = value
    data = HEADER + (compressed(bytes(damaged)) if deflated else bytes(damaged))
    path = tmp_path_factory.getbasetemp() / "damaged.mat"
    path.write_bytes(data)
    readers: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: decode_sparse_quantized_net_v2(data), MatlabStructError),
        (lambda: load_mat(path), FixtureError),
        (lambda: load_trace(path, 2), CheckpointError),
        (lambda: check_elements(io.BytesIO(data)), MatElementError),
    ]
    for read, error in readers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read()
            except error:
                continue
