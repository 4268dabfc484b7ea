"""Reading ``.mat`` files for parity: every fault names the file and the variable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matlab_parity import codec_parity, layer_parity, train_parity
from matlab_parity.mat_files import (
    NUMBER,
    TEXT,
    FixtureError,
    Var,
    from_matlab,
    load_cases,
    load_mat,
    save_cases,
    to_matlab,
)
from matlab_parity.paths import RECONSTRUCTED

CASE = {"name": "a", "W": np.arange(12.0).reshape(3, 4), "codes": np.arange(3, dtype=np.uint8)[None, :], "p": 0.5}
SCHEMA = {"name": TEXT, "W": Var(("double",), (3, 4)), "codes": Var(("uint8",), (1, -1)), "p": NUMBER}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_cases(tmp_path / "x.mat", [CASE, {**CASE, "name": "another"}])
    first, second = load_cases(tmp_path / "x.mat", SCHEMA)
    np.testing.assert_array_equal(first["W"], CASE["W"])
    assert (first["W"].dtype, first["codes"].dtype, second["name"]) == (np.float64, np.uint8, "another")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": None}, r"cases\(1\)\.W: missing"),
        ({"W": np.zeros((3, 4), np.float32)}, r"cases\(1\)\.W: expected double, got single"),
        ({"W": np.zeros((4, 3))}, r"cases\(1\)\.W: expected size 3 x 4, got 4 x 3"),
        ({"codes": np.zeros((3, 1), np.uint8)}, r"cases\(1\)\.codes: expected size 1 x any, got 3 x 1"),
        ({"codes": np.zeros((1, 3))}, r"cases\(1\)\.codes: expected uint8, got double"),
        ({"name": 3.0}, r"cases\(1\)\.name: expected char, got double"),
        ({"p": "half"}, r"cases\(1\)\.p: expected double or single or int8 or .*, got char"),
        ({"p": {"q": 1.0}}, r"cases\(1\)\.p: expected double or single or int8 or .*, got struct"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, change: dict, message: str) -> None:
    case = {key: value for key, value in {**CASE, **change}.items() if value is not None}
    save_cases(tmp_path / "wrong.mat", [case])
    with pytest.raises(FixtureError, match=r"wrong\.mat: variable " + message):
        load_cases(tmp_path / "wrong.mat", SCHEMA)


@pytest.mark.parametrize("content", [b"", b"no .mat file", b"\x00" * 300, b"\x89HDF\r\n\x1a\n" + b"\x00" * 600])
def test_what_is_no_mat_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.mat").write_bytes(content)
    with pytest.raises(FixtureError, match=r"no\.mat: expected a \.mat file"):
        load_mat(tmp_path / "no.mat")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"# Created by Octave 7.3.0, Thu Jan 01 00:00:00 2026 UTC <me@here>\n# name: x\n", "Octave's text format"),
        (b"Octave-1-L\0\1\0\0\0x" + bytes(200), "Octave's format -binary"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5, Octave's format -hdf5"),
        (b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM" + bytes(600), "MATLAB's format -v7.3"),
    ],
)
def test_a_format_that_is_not_read_is_named_and_which_is(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "other.mat").write_bytes(content)
    with pytest.raises(FixtureError, match=rf"other\.mat: expected .* save -v7, got {named}.*; save it with -v7"):
        load_mat(tmp_path / "other.mat")


def test_a_missing_file_and_a_missing_variable_are_named(tmp_path: Path) -> None:
    with pytest.raises(FixtureError, match=r"none\.mat: expected a \.mat file, there is none"):
        load_mat(tmp_path / "none.mat")
    scipy.io.savemat(tmp_path / "other.mat", {"x": 1.0})
    with pytest.raises(FixtureError, match=r"other\.mat: variable cases: missing; the file has x"):
        load_cases(tmp_path / "other.mat", SCHEMA)
    scipy.io.savemat(tmp_path / "other.mat", {"cases": 1.0})
    with pytest.raises(FixtureError, match=r"other\.mat: variable cases: expected a struct array, got double"):
        load_cases(tmp_path / "other.mat", SCHEMA)


def test_sparse_is_full_and_complex_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"W": scipy.sparse.csc_matrix(CASE["W"])})
    np.testing.assert_array_equal(load_mat(tmp_path / "x.mat")["W"], CASE["W"])
    save_cases(tmp_path / "x.mat", [CASE, {**CASE, "W": CASE["W"] + 1j}])
    with pytest.raises(FixtureError, match=r"x\.mat: variable cases\(2\)\.W: expected real numbers, got complex"):
        load_mat(tmp_path / "x.mat")


@pytest.mark.parametrize("at", [200, 1000, 20_000])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_fixture_is_refused_or_differs(tmp_path: Path, at: int, how: str) -> None:
    """Compressed blocks end in a checksum: damage is an error that names the file, never silence."""
    data = bytearray((RECONSTRUCTED / "ws_learn_one_layer.mat").read_bytes())
    if how == "cut":
        del data[at:]
    else:
        data[at] ^= 0xFF
    (tmp_path / "ws_learn_one_layer.mat").write_bytes(data)
    with pytest.raises(FixtureError, match=r"ws_learn_one_layer\.mat"):
        list(layer_parity.checks(tmp_path))


@pytest.mark.parametrize(
    ("module", "folders"),
    [(layer_parity, 1), (train_parity, 1), (codec_parity, 2)],
)
def test_missing_fixtures_are_errors(tmp_path: Path, module: object, folders: int) -> None:
    with pytest.raises(FixtureError, match=r"there is none"):
        list(module.checks(*[tmp_path] * folders))  # type: ignore[attr-defined]


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
                  elements=st.floats(-8, 8, width=32)))  # fmt: skip
def test_layout_round_trip(array: np.ndarray) -> None:
    """MATLAB's W(:) has Python's linear order, and trailing axes of length 1, which MATLAB drops, come back."""
    blob = to_matlab(array)
    np.testing.assert_array_equal(blob.ravel(order="F"), array.ravel())
    while blob.ndim > 2 and blob.shape[-1] == 1:
        blob = blob[..., 0]
    back = from_matlab(blob, array.shape, "W")
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


def test_a_wrong_number_of_elements_is_named() -> None:
    with pytest.raises(FixtureError, match=r"x\.mat: W: expected 2 x 3 elements"):
        from_matlab(np.zeros((3, 3)), (2, 3), "x.mat: W")


@pytest.mark.parametrize("size", [2.5, -3.0, np.nan, np.inf])
def test_a_shape_that_is_none_is_named(size: float) -> None:
    with pytest.raises(FixtureError, match=r"x\.mat: W: expected a shape of whole numbers from 0, got \[2.0, "):
        from_matlab(np.zeros((2, 2)), (2.0, size), "x.mat: W")
