"""Read and write the ``.mat`` files (level 5, v7) that carry inputs and outputs between MATLAB and Python.

A file holds one struct array, one element a case.  A weight blob has reversed axes on the MATLAB side (matcaffe's
width x height x channels x num), so that ``W(:)`` has the linear order of Python's C-contiguous array; trailing axes
of length 1 do not survive in MATLAB, therefore a case that holds blobs also holds ``shape``, Python's shape.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
from numpy.exceptions import ComplexWarning
from scipy.io.matlab import MatReadError, mat_struct

from clipq.atomic_file import write_bytes
from clipq.errors import ClipqError
from clipq.mat_elements import read_variables
from clipq.mat_format import other_format_of

#: A case: variable name -> NumPy array, str, or (for a struct) a nested case.
Case = dict[str, Any]


class FixtureError(ClipqError):
    """A ``.mat`` file that is missing, damaged, or not of the expected content; names the file and the variable."""


@dataclass(frozen=True)
class Var:
    """What a variable must be: its MATLAB ``classes``, and ``size``, or None for any; -1 in it is any length."""

    classes: tuple[str, ...]
    size: tuple[int, ...] | None = None
    optional: bool = False


FLOAT = ("double", "single")
NUMERIC = (*FLOAT, *(f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)))
NUMBER = Var(NUMERIC, (1, 1))
TEXT = Var(("char",))
STRUCT = Var(("struct",), (1, 1))
ROW = Var(("double",), (1, -1))
#: A sparse array's full one has at most this many elements for each of its bytes.
MAX_FULL_PER_BYTE = 1 << 16
_CLASS_OF = {"float64": "double", "float32": "single", "bool": "logical"}


def load_mat(path: Path) -> Case:
    """Every variable of the file, structs as nested dicts, struct arrays as lists of them, sparse arrays as full ones.

    Raises:
        FixtureError: no such file, not a ``.mat`` file of level 5 that can be read, or complex numbers in it.
    """
    _check_format(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ComplexWarning)
            raw = _read(path, mat_dtype=True)
        variables = {name: _plain(value) for name, value in raw.items() if not name.startswith("__")}
    except ComplexWarning as error:
        uncast = _read(path)
        found = [_complex_in(_plain(value), name) for name, value in uncast.items() if not name.startswith("__")]
        where = next(filter(None, found), "of a class that is not looked into")
        raise FixtureError(f"{path}: variable {where}: expected real numbers, got complex ones") from error
    except (ValueError, TypeError, OSError, MatReadError, EOFError, KeyError, IndexError, MemoryError) as error:
        raise FixtureError(f"{path}: expected a .mat file, it cannot be read: {error}") from error
    except Exception as error:  # zlib.error and SciPy's bare exceptions on damaged bytes
        raise FixtureError(f"{path}: expected a .mat file, it is damaged: {error}") from error
    if not variables:
        raise FixtureError(f"{path}: expected a .mat file with variables, there are none")
    return variables


def load_cases(path: Path, schema: Mapping[str, Var], variable: str = "cases") -> list[Case]:
    """The struct array ``variable`` of the file, every element checked against ``schema``.

    Raises:
        FixtureError: the file cannot be read, the variable or a field is missing, or has a wrong class or size.
    """
    content = load_mat(path)
    if variable not in content:
        raise FixtureError(f"{path}: variable {variable}: missing; the file has {', '.join(content) or 'none'}")
    value = content[variable]
    cases = value if isinstance(value, list) else [value]
    if not cases or not all(isinstance(case, dict) for case in cases):
        raise FixtureError(f"{path}: variable {variable}: expected a struct array, got {matlab_class(value)}")
    for number, case in enumerate(cases, start=1):
        check_case(case, schema, f"{path}: variable {variable}({number})")
    return cases


def check_case(case: Case, schema: Mapping[str, Var], where: str) -> None:
    """Raise FixtureError, beginning with ``where``, unless the case has every variable of the schema as it says."""
    for name, var in schema.items():
        if name not in case:
            if var.optional:
                continue
            raise FixtureError(f"{where}.{name}: missing")
        got = matlab_class(case[name])
        if got not in var.classes:
            raise FixtureError(f"{where}.{name}: expected {' or '.join(var.classes)}, got {got}")
        size = matlab_size(case[name])
        if var.size is not None and not _fits(size, var.size):
            expected = " x ".join("any" if n < 0 else str(n) for n in var.size)
            raise FixtureError(f"{where}.{name}: expected size {expected}, got {' x '.join(map(str, size))}")


def save_cases(path: Path, cases: Sequence[Case], variable: str = "cases", **further: Any) -> None:
    """Write ``cases`` (all with the same fields) as the struct array ``variable``, compressed, atomically.

    Raises:
        WriteError: it cannot be written.
    """
    names = list(cases[0])
    array = np.empty((1, len(cases)), dtype=[(name, object) for name in names])
    for column, case in enumerate(cases):
        for name in names:
            array[name][0, column] = _matlab_value(case[name])
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {variable: array, **further}, do_compression=True, oned_as="row", long_field_names=True)
    write_bytes(path, buffer.getvalue())


def to_matlab(array: np.ndarray) -> np.ndarray:
    """Python's C-ordered array as MATLAB holds it: axes reversed; a vector as a column."""
    return array.reshape(-1, 1) if array.ndim < 2 else np.ascontiguousarray(array.T)


def from_matlab(array: np.ndarray, shape: Iterable[float], where: str) -> np.ndarray:
    """The inverse of ``to_matlab``: C-contiguous, of Python's ``shape``.

    Raises:
        FixtureError: the shape is none, or the array does not have as many elements as it asks for.
    """
    sizes = np.ravel(np.asarray(shape))
    if not np.all((sizes >= 0) & (sizes == np.floor(sizes)) & (sizes < 2**32)):
        raise FixtureError(f"{where}: expected a shape of whole numbers from 0, got {sizes.tolist()}")
    dims = tuple(int(n) for n in sizes)
    if array.size != int(np.prod(dims, dtype=np.int64)):
        raise FixtureError(f"{where}: expected {' x '.join(map(str, dims))} elements, got size {array.shape}")
    return array.ravel(order="F").reshape(dims)


def scalar(value: np.ndarray) -> float:
    """The number in a MATLAB scalar."""
    return float(np.asarray(value).reshape(()))


def whole(value: np.ndarray, where: str) -> int:
    """The whole number in a MATLAB scalar.

    Raises:
        FixtureError: it has a fraction, or is NaN or Inf.
    """
    number = scalar(value)
    if not number.is_integer():
        raise FixtureError(f"{where}: expected a whole number, got {number}")
    return int(number)


def matlab_class(value: Any) -> str:
    """MATLAB's ``class(value)``."""
    if isinstance(value, str):
        return "char"
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return "struct"
    if isinstance(value, list):
        return "cell"
    return _CLASS_OF.get(str(value.dtype), str(value.dtype))


def matlab_size(value: Any) -> tuple[int, ...]:
    """MATLAB's ``size(value)``."""
    if isinstance(value, np.ndarray):
        return value.shape
    return (1, len(value)) if isinstance(value, (str, list)) else (1, 1)


def _check_format(path: Path) -> None:
    """Raise FixtureError where there is no file, or one of a format that is not read."""
    if not path.is_file():
        raise FixtureError(f"{path}: expected a .mat file, there is none")
    try:
        other = other_format_of(path)
    except OSError as error:
        raise FixtureError(f"{path}: expected a .mat file, it cannot be read: {error}") from error
    if other:
        raise FixtureError(f"{path}: expected a .mat file in the format of save -v7, got {other}; save it with -v7")


def _read(path: Path, **options: bool) -> dict[str, Any]:
    with path.open("rb") as file:
        return read_variables(file, struct_as_record=False, squeeze_me=False, **options)


def _fits(size: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(size) == len(expected) and all(e in (-1, n) for n, e in zip(size, expected, strict=True))


def _plain(value: Any) -> Any:
    if isinstance(value, mat_struct):
        return {name: _plain(getattr(value, name)) for name in value._fieldnames}
    if isinstance(value, np.ndarray) and value.dtype == object:
        items = [_plain(item) for item in value.ravel(order="F")]
        one_struct = len(items) == 1 and isinstance(items[0], dict)
        return items[0] if one_struct else items
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        return "".join(value.ravel().tolist())
    return _full(value) if scipy.sparse.issparse(value) else value


def _full(sparse: scipy.sparse.csc_matrix) -> np.ndarray:
    n_bytes = sparse.data.nbytes + sparse.indices.nbytes + sparse.indptr.nbytes
    if math.prod(sparse.shape) > MAX_FULL_PER_BYTE * n_bytes:
        raise ValueError(f"expected a sparse array that can be made full, got {sparse.shape} with {sparse.nnz} values")
    return sparse.toarray()


def _complex_in(value: Any, name: str) -> str | None:
    """Where in the variable ``name`` the first array of complex numbers is."""
    if isinstance(value, dict):
        parts = [(item, f"{name}.{key}") for key, item in value.items()]
    elif isinstance(value, list):
        parts = [(item, f"{name}({number})") for number, item in enumerate(value, start=1)]
    else:
        return name if np.iscomplexobj(value) else None
    return next(filter(None, (_complex_in(*part) for part in parts)), None)


def _matlab_value(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return np.array([[float(value)]])
    if isinstance(value, dict):
        return {name: _matlab_value(item) for name, item in value.items()}
    return value
