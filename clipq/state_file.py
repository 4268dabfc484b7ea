"""State dicts in files: read to be compressed, written once decoded.  The file's suffix says which kind it is."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from clipq.atomic_file import atomic_write
from clipq.errors import DataError, SettingError
from clipq.pretrained import read_weights

State = Mapping[str, torch.Tensor]

#: Kinds that ``read_state`` and ``write_state`` know.
READ_SUFFIXES = (".pt", ".pth", ".safetensors", ".npz", ".caffemodel")
WRITE_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".mat")

_NUMPY_LACKS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of weights, by name: CPU tensors; those that share memory in the file still do.

    Raises:
        DataError: the file is missing, damaged, or of a kind that is not known.
    """
    path = Path(path)
    if path.suffix not in READ_SUFFIXES:
        raise DataError(f"{path}: expected weights in a file ending in {', '.join(READ_SUFFIXES)}")
    return _read_npz(path) if path.suffix == ".npz" else read_weights(path)


def write_state(state: State, path: str | Path) -> int:
    """Writes CPU tensors by name, atomically; gives the file's size in bytes.

    ``.pt`` and ``.pth`` hold a state dict for ``torch.load``; ``.npz`` an array a tensor; ``.mat`` the variable
    ``weights``, a 1xT struct array with the fields ``name`` and ``value``, the latter of the tensor's shape (a vector
    is a column, a single number 1x1), in the format of MATLAB's ``save -v7``.

    Raises:
        SettingError: another suffix, or a tensor of a type that such a file cannot hold; names it.
        OSError: the file cannot be written.
    """
    path = Path(path)
    writers: dict[str, Callable[[State, BinaryIO], None]] = {
        ".safetensors": _write_safetensors, ".npz": _write_npz, ".pt": _write_torch, ".pth": _write_torch,
        ".mat": _write_mat,
    }  # fmt: skip
    if path.suffix not in writers:
        raise SettingError(f"{path}: expected a file ending in {', '.join(writers)}")
    with atomic_write(path) as file:
        writers[path.suffix](state, file)
    return path.stat().st_size


def _read_npz(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights")
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                entry.filename.removesuffix(".npy"): torch.from_numpy(_native(_read_npy(archive, entry)))
                for entry in archive.infolist()
            }
    except Exception as error:  # NumPy and zipfile raise nearly anything on damaged bytes: zlib.error, TokenError ..
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as named arrays of numbers: {reason}") from error


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """An entry's array, for which no memory is taken where the entry is too short for its shape (ValueError)."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        expected, got = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
        if expected > got and not dtype.hasobject:
            raise ValueError(f"{entry.filename}: expected {expected} bytes for shape {shape}, got {got}")
        file.seek(0)
        return np.lib.format.read_array(file)


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order and C order, writable."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _write_safetensors(state: State, file: BinaryIO) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save

    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():  # shared weights are refused, so each of their names gets a copy
        separate[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
        seen.add(tensor.data_ptr())
    try:
        file.write(save(separate))
    except (SafetensorError, KeyError, ValueError) as error:
        raise SettingError(f"a .safetensors file cannot hold these tensors: {error}") from error


def _write_torch(state: State, file: BinaryIO) -> None:
    torch.save(dict(state), file)


def _write_npz(state: State, file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, tensor in state.items():
            array = _array(name, tensor, ".npz", _NUMPY_LACKS)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _write_mat(state: State, file: BinaryIO) -> None:
    import scipy.io
    from scipy.io.matlab import MatWriteError

    rows = np.empty((1, len(state)), [("name", object), ("value", object)])
    for i, (name, tensor) in enumerate(state.items()):
        rows[0, i] = name, _array(name, tensor, ".mat", (*_NUMPY_LACKS, "float16"))
    buffer = io.BytesIO()
    try:
        scipy.io.savemat(buffer, {"weights": rows}, do_compression=True, oned_as="column")
    except MatWriteError as error:
        raise SettingError(f"a .mat file (save -v7) cannot hold these tensors: {error}") from error
    file.write(buffer.getvalue())


def _array(name: str, tensor: torch.Tensor, suffix: str, lacking: tuple[str, ...]) -> np.ndarray:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype in lacking:
        raise SettingError(f"tensor {name}: a {suffix} file has no type {dtype}; write a .safetensors or .pt file")
    return tensor.numpy()
