"""Writes the stored inputs of all fixtures: ``python -m matlab_parity.make_inputs --data-dir DIR``.

Needed only to add a case.  The arrays that it stores are what the fixtures are made from; afterwards run the
collectors (``collect_all.m``) and ``python -m matlab_parity.manifest``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipq.conventions import Conventions
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.matlab_net import write_mat
from matlab_parity.codec_inputs import codec_net
from matlab_parity.layer_inputs import LAYER_FIELDS, LayerInput, conventions_struct, layer_inputs, settings_of
from matlab_parity.mat_files import Case, save_cases, to_matlab
from matlab_parity.paths import INPUTS
from matlab_parity.probes import search
from matlab_parity.search_inputs import search_cases
from matlab_parity.train_inputs import train_cases

PROBE_SEED = 20180618


def layer_case(layer: LayerInput) -> Case:
    """As the collectors read it: the blob in MATLAB's layout, Python's shape beside it."""
    shape = np.array([layer.W.shape], dtype=np.float64)
    return {"name": layer.name, "W": to_matlab(layer.W), "shape": shape, "p": layer.p, "b": layer.b}


def write_layer_inputs(folder: Path, lenet5: Path) -> None:
    cases = [{**layer_case(layer), "conv": conventions_struct(layer.conventions)} for layer in layer_inputs(lenet5)]
    save_cases(folder / "ws_learn_one_layer.mat", cases)


def write_probe_inputs(folder: Path) -> None:
    """Probes that tell all settings apart as far as quantized weights can, and the list of the settings."""
    every = settings_of(LAYER_FIELDS)
    found, _ = search(every, ("quantized",), np.random.default_rng(PROBE_SEED))
    rows = np.empty((1, len(every)), dtype=[(name, object) for name in conventions_struct(Conventions())])
    for column, conventions in enumerate(every):
        for name, option in conventions_struct(conventions).items():
            rows[name][0, column] = option
    save_cases(folder / "ws_learn_one_layer_conventions.mat", [layer_case(probe) for probe in found], conventions=rows)


def write_codec_inputs(folder: Path, lenet5: Path) -> None:
    """Codes to encode in MATLAB, and the same layers encoded by Python to decode there: as struct and as bytes."""
    net = codec_net(lenet5)
    layers = [
        {
            "name": layer.name,
            "shape": np.array([layer.shape], dtype=np.float64).reshape(1, -1),
            "dtype": layer.dtype,
            "b": layer.b,
            "codes": to_matlab(layer.codes),
            "levels": layer.levels[None, :],
        }
        for layer in net.layers
    ]
    readings = [Conventions(), Conventions(index_bits="deep_compression", count_codebook="no")]
    cases = [{**layer, "conv": conventions_struct(conventions)} for conventions in readings for layer in layers]
    save_cases(folder / "encode_sparse_quantized_net_v2.mat", cases)
    for conventions in readings:
        write_mat(net, folder / f"encoded_net_{conventions.index_bits}.mat", conventions)
    encoded = encode_sparse_quantized_net_v2(net)
    save_cases(
        folder / "encoded_sections.mat",
        [
            {
                **{key: case[key] for key in ("name", "shape", "dtype", "b")},
                "n_weights": float(layer.codes.size),
                "section": np.frombuffer(coded.section, np.uint8)[None, :],
            }
            for case, layer, coded in zip(layers, net.layers, encoded.layers, strict=True)
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="matlab_parity.make_inputs", description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="folder with caffe/caffe_lenet5_original.caffemodel"
    )
    parser.add_argument("--out", type=Path, default=INPUTS)
    options = parser.parse_args(arguments)
    lenet5 = options.data_dir / "caffe" / "caffe_lenet5_original.caffemodel"
    write_layer_inputs(options.out, lenet5)
    write_probe_inputs(options.out)
    write_codec_inputs(options.out, lenet5)
    save_cases(options.out / "ws_train.mat", train_cases())
    save_cases(options.out / "ws_search.mat", search_cases())


if __name__ == "__main__":
    main()
