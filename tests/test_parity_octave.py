"""GNU Octave runs the reference again: the committed fixtures are what the collectors make, and captures work.

Needs ``octave-cli``; where it is not there, these tests say so and are skipped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from matlab_parity import layer_parity
from matlab_parity.captures import captures
from matlab_parity.collect import EngineError, collect, octave_is_there, run_octave
from matlab_parity.contents import differences
from matlab_parity.infer import infer
from matlab_parity.infer_report import write_probes
from matlab_parity.layer_inputs import LAYER_FIELDS, LayerInput, conventions_struct, settings_of
from matlab_parity.make_inputs import layer_case
from matlab_parity.mat_files import FixtureError, load_mat, save_cases
from matlab_parity.paths import COLLECTORS, INPUTS, RECONSTRUCTED, REFERENCE, ROOT

pytestmark = pytest.mark.skipif(not octave_is_there(), reason="octave-cli (GNU Octave 6 or later) is not on the PATH")

EVERY = settings_of(LAYER_FIELDS)

#: A copy of the release with hidden readings and arguments of its own, and the configuration that calls it.
STRANGER = """
function [levels_out, blob] = stranger_layer(bits, blob, rate)
  if isempty(blob), error('no weights'); end
  conv = ws_conventions('clip_scope', 'all_weights', 'clip_value', 'midpoint', 'edge', 'inner');
  [blob, info] = ws_learn_one_layer(blob, rate, bits, conv);
  levels_out = info.levels;
end
"""
CONFIGURATION = """
function cfg = stranger_config()
  cfg.folder = '{folder}';
  cfg.layer = @layer;
  cfg.encode = @(x) coded(x);
  cfg.encode_for_decode = @(x) encode_sparse_quantized_net_v2(x);
  cfg.decode = @(net) decoded(net);
end
function out = layer(W, p, b)
  [levels, Wq] = stranger_layer(b, W, p);
  out = struct('quantized', Wq, 'levels', levels);
end
function out = coded(x)
  [net, info] = encode_sparse_quantized_net_v2(x, ws_conventions('index_bits', 'deep_compression'));
  out = struct('gaps', net.layers.gaps, 'bits', info.bits);
end
function W = decoded(net)
  layers = decode_sparse_quantized_net_v2(net);
  W = layers.W{damage};
end
"""


def stranger(folder: Path, damage: str = "") -> str:
    """Write the stranger and its configuration; the statement that captures it into ``folder``/out."""
    (folder / "copy").mkdir()
    (folder / "out").mkdir()
    (folder / "copy" / "stranger_layer.m").write_text(STRANGER, encoding="utf-8")
    for file in REFERENCE.glob("*.m"):
        (folder / "copy" / file.name).write_bytes(file.read_bytes())
    text = CONFIGURATION.format(folder=folder / "copy", damage=damage)
    (folder / "stranger_config.m").write_text(text, encoding="utf-8")
    return f"addpath('{folder}'); capture_original(@stranger_config, '{folder / 'out'}'"


def test_the_fixtures_made_again_hold_what_the_committed_ones_hold(tmp_path: Path) -> None:
    collect(tmp_path)
    made, committed = ({path.name for path in folder.glob("*.mat")} for folder in (tmp_path, RECONSTRUCTED))
    assert made == committed
    assert [line for name in sorted(made) for line in differences(tmp_path / name, RECONSTRUCTED / name)] == []


def test_the_contents_of_other_fixtures_differ() -> None:
    streams, other = (RECONSTRUCTED / f"encoded_net_{name}.mat" for name in ("best", "deep_compression"))
    assert differences(streams, streams) == []
    assert any("gaps" in line for line in differences(streams, other))


def random_layer(rng: np.random.Generator, number: int) -> LayerInput:
    """Any size, shape, precision, setting and reading; many with ties, zeros or one sign only."""
    shape = tuple(rng.integers(1, 6, rng.integers(1, 5)).tolist())
    W = rng.standard_t(3, shape) if rng.random() < 0.4 else rng.integers(-6, 7, shape) / 4.0
    if rng.random() < 0.15:
        W = np.abs(W)
    p = float(rng.choice((0.0, 1.0, rng.random(), rng.integers(0, W.size + 1) / W.size)))
    return LayerInput(
        f"random {number}", W.astype(rng.choice([np.float32, np.float64])), p, int(rng.integers(2, 9)),
        EVERY[rng.integers(len(EVERY))],
    )  # fmt: skip


def test_random_problems_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    cases = [random_layer(rng, number) for number in range(250)]
    stored = [{**layer_case(c), "conv": conventions_struct(c.conventions)} for c in cases]
    save_cases(tmp_path / "ws_learn_one_layer.mat", stored)
    shutil.copy(INPUTS / "ws_learn_one_layer_conventions.mat", tmp_path)
    (tmp_path / "out").mkdir()
    run_octave(COLLECTORS, f"addpath('{REFERENCE}'); collect_ws_learn_one_layer('{tmp_path}', '{tmp_path / 'out'}')")
    found = list(layer_parity.checks(tmp_path / "out"))
    assert len({check.case for check in found if check.case.startswith("random")}) == len(cases)
    assert [f"{c.case}, {c.quantity}: {c.deviation} > {c.limit} at {c.where}" for c in found if not c.passed] == []


def test_an_error_in_a_script_is_reported() -> None:
    with pytest.raises(EngineError, match="no field nonsense"):
        run_octave(REFERENCE, "ws_conventions('nonsense', 1)")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("ws_learn_one_layer([1 NaN], 0.5, 2)", "1 NaN or Inf"),
        ("ws_learn_one_layer([1 2], 1.5, 2)", "from 0 to 1"),
        ("ws_learn_one_layer([1 2], 0.5, 9)", "from 2 to 8"),
        ("ws_learn_one_layer(int8([1 2]), 0.5, 2)", "int8"),
        ("ws_learn_one_layer([1 2], 0.5, 2, ws_conventions('edge', 'left'))", "no option left"),
        ("ws_learn_one_layer([1 2], 0.5, 2, ws_conventions('clip_value', 'quantile'))", "needs clip_count round"),
    ],
)
def test_the_reference_refuses_what_python_refuses(call: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        run_octave(REFERENCE, call)


def test_a_stranger_is_captured_and_its_reading_found(tmp_path: Path) -> None:
    run_octave(ROOT / "capture", stranger(tmp_path) + ")")
    layer = infer(tmp_path / "out" / "ws_learn_one_layer.mat")
    (reading,) = layer.survivors
    assert (reading.clip_scope, reading.clip_value, reading.edge) == ("all_weights", "midpoint", "inner")
    assert (reading.clip_count, reading.clip_ties, reading.partition) == ("ceil", "prune", "per_sign")
    assert "no weight" not in layer.observations, "the case on which the stranger stops is left out"
    assert len(layer.observations) > 50
    codec = infer(tmp_path / "out" / "encode_sparse_quantized_net_v2.mat")
    assert {(c.index_bits, c.count_codebook) for c in codec.survivors} == {("deep_compression", "yes")}
    assert [capture.passed for capture in captures(tmp_path / "out")] == [True, True, True]


def test_what_a_copy_calls_like_an_input_replaces_none(tmp_path: Path) -> None:
    """Neither a layer's blob, settings or name, nor what was given to the encoder."""
    own = "'W', 7, 'p', 7, 'b', 7, 'name', 'own', 'shape', 7, 'levels', -[7 7 7], 'quantized', Wq"
    coded = "'gaps', net.layers.gaps, 'codes', 7, 'levels', 7, 'b', 7, 'dtype', 'own'"
    statement = stranger(tmp_path)
    config = tmp_path / "stranger_config.m"
    text = config.read_text(encoding="utf-8")
    text = text.replace("'quantized', Wq, 'levels', levels", own).replace("'gaps', net.layers.gaps", coded)
    config.write_text(text, encoding="utf-8")
    run_octave(ROOT / "capture", statement + ")")
    for name, given in {
        "ws_learn_one_layer": ("name", "W", "shape", "p", "b"),
        "encode_sparse_quantized_net_v2": ("shape", "dtype", "b", "codes", "levels"),
    }.items():
        stored = {case["name"]: case for case in load_mat(INPUTS / f"{name}.mat")["cases"]}
        captured = [c for c in load_mat(tmp_path / "out" / f"{name}.mat")["cases"] if c["name"] in stored]
        assert captured
        for case in captured:
            for field in given:
                expected = np.ravel(stored[case["name"]][field], order="F")
                np.testing.assert_array_equal(np.ravel(case[field], order="F"), expected)
    layers = load_mat(tmp_path / "out" / "ws_learn_one_layer.mat")["cases"]
    assert all(case["levels"].ravel().tolist() == [-7.0] * 3 for case in layers)


def test_a_capture_that_decodes_otherwise_fails(tmp_path: Path) -> None:
    run_octave(ROOT / "capture", stranger(tmp_path, damage=" * 1.5") + ")")
    by_file = {capture.text.split(":")[0]: capture for capture in captures(tmp_path / "out")}
    assert not by_file["decode_sparse_quantized_net_v2.mat"].passed
    assert by_file["ws_learn_one_layer.mat"].passed


def test_further_inputs_are_captured_too(tmp_path: Path) -> None:
    further = LayerInput("further", np.array([0.25, -0.5, 3.0]), 0.3, 3)
    write_probes(tmp_path / "further.mat", [further])
    run_octave(ROOT / "capture", stranger(tmp_path) + f", '{tmp_path / 'further.mat'}')")
    assert "further" in infer(tmp_path / "out" / "ws_learn_one_layer.mat").observations


def test_octave_reads_what_save_cases_writes(tmp_path: Path) -> None:
    cases = [{"name": "a", "W": np.arange(6.0).reshape(2, 3), "n": 2.5, "s": {"t": "text"}},
             {"name": "bc", "W": np.zeros((0, 3)), "n": 1, "s": {"t": ""}}]  # fmt: skip
    save_cases(tmp_path / "in.mat", cases)
    run_octave(tmp_path, "load('in.mat'); save('out.mat', 'cases', '-v7')")
    first, second = load_mat(tmp_path / "out.mat")["cases"]
    np.testing.assert_array_equal(first["W"], cases[0]["W"])
    assert (first["name"], first["n"].item(), first["s"]["t"]) == ("a", 2.5, "text")
    assert (second["name"], second["W"].shape) == ("bc", (0, 3))


@pytest.mark.parametrize(("option", "named"), [("", "text"), ("-hdf5", "HDF5"), ("-binary", "-binary")])
def test_octaves_other_formats_are_named(tmp_path: Path, option: str, named: str) -> None:
    run_octave(tmp_path, f"x = 1; save {option} x.mat x")
    with pytest.raises(FixtureError, match=rf"x\.mat: expected .*, got .*{named}.*; save it with -v7"):
        load_mat(tmp_path / "x.mat")
