"""Python against the MATLAB side: the same comparisons as ``python -m matlab_parity.compare``, and their controls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from clipq.train_config import TrainConfig
from clipq.training import StepLoss, fit
from matlab_parity import codec_parity, layer_parity, manifest, mlcircus_parity, search_parity, train_parity
from matlab_parity.compare import Report, as_json, compare, lines, main
from matlab_parity.layer_inputs import FIGURE_2, LAYER_FIELDS, one_at_a_time, settings_of
from matlab_parity.mat_files import Case, FixtureError, load_cases, load_mat
from matlab_parity.paths import INPUTS, MLCIRCUS, RECONSTRUCTED
from matlab_parity.tolerances import EXACT, TOLERANCES, Check, check

LAYER_FIXTURE = RECONSTRUCTED / "ws_learn_one_layer.mat"


@pytest.fixture(scope="module")
def report() -> Report:
    return compare()


@pytest.fixture(scope="module")
def layer_cases() -> list[Case]:
    return load_cases(LAYER_FIXTURE, layer_parity.CASE_SCHEMA)


def checks_of(report: Report, function: str) -> list[Check]:
    return [c for c in report.checks if c.function == function]


def test_python_agrees_with_every_fixture(report: Report) -> None:
    failed = [f"{c.function}, {c.case}, {c.quantity}: {c.deviation} > {c.limit} at {c.where}" for c in report.checks
              if not c.passed]  # fmt: skip
    assert failed == []
    assert report.problems == []
    assert report.passed


@pytest.mark.parametrize(
    ("function", "least"),
    [
        ("ws_learn_one_layer", 60),
        (codec_parity.ENCODE, 30),
        (codec_parity.DECODE, 30),
        ("ws_train", 4),
        ("ws_search", 12),
        ("bayesopt", 40),
    ],
)
def test_enough_cases_are_compared(report: Report, function: str, least: int) -> None:
    assert len({c.case for c in checks_of(report, function)}) >= least


def test_training_is_compared_over_many_iterations(report: Report) -> None:
    cases = load_cases(RECONSTRUCTED / "ws_train.mat", train_parity.CASE_SCHEMA)
    assert all(case["trace"]["W1"].shape[1] >= 50 for case in cases)
    codes = [case["trace"]["codes1"] for case in cases]
    assert all((c[:, 1:] != c[:, :-1]).any(axis=0).sum() > 10 for c in codes), "the codes must move while training"
    assert all((((c[:, :-1] == 0) & (c[:, 1:] > 0)).any()) for c in codes), "some pruned weight must come back"


def test_figure_2_of_the_paper(layer_cases: list[Case]) -> None:
    figure = [case for case in layer_cases if case["name"].startswith("figure2")]
    assert len(figure) == 1 + len(list(one_at_a_time()))
    for case in figure:
        np.testing.assert_array_equal(case["levels"].ravel(), np.array([-1.3, -0.5, 0.9], np.float32))
        np.testing.assert_array_equal(case["W"].T, FIGURE_2)
        pruned = case["W"].ravel()[case["codes"].ravel() == 0]
        assert sorted(pruned) == [-0.1, -0.1, 0.1, 0.2]


def test_every_option_is_in_the_fixtures(layer_cases: list[Case]) -> None:
    for label, conventions in one_at_a_time():
        assert any(layer_parity.conventions_of(case["conv"], label) == conventions for case in layer_cases), label
    grid = load_mat(RECONSTRUCTED / "ws_learn_one_layer_conventions.mat")["conventions"]
    assert [layer_parity.conventions_of(row, "") for row in grid] == settings_of(LAYER_FIELDS)


def test_options_change_what_the_reference_does(layer_cases: list[Case]) -> None:
    """A reference that ignored an option would agree with nothing: some input shows each of them."""
    grid = load_cases(RECONSTRUCTED / "ws_learn_one_layer_conventions.mat", layer_parity.GRID_SCHEMA)
    outputs = [
        np.concatenate([np.r_[c["codes"][:, i], c["levels"][:, i], c["c_neg"][0, i], c["c_pos"][0, i]] for c in grid])
        for i in range(960)
    ]
    assert len({output.tobytes() for output in outputs}) == 960


def test_readings_of_the_search_choose_otherwise() -> None:
    cases = {c["name"]: c for c in load_cases(RECONSTRUCTED / "ws_search.mat", search_parity.CASE_SCHEMA)}
    forward = cases["forward, quantized, yes"]
    for other in ("backward, quantized, yes", "largest_first, quantized, yes", "forward, quantized, no"):
        assert (cases[other]["theta"] != forward["theta"]).any(), other
    alone = cases["forward, full_precision, yes"]
    assert (alone["trace"]["eps"] != forward["trace"]["eps"]).any()


@pytest.mark.parametrize(
    ("errors", "keep", "kept"),
    [([0.3, 0.1, 0.2], "best", 1), ([0.1, 0.1, 0.2], "best", 1), (None, "best", 2), ([0.3, 0.1, 0.2], "last", 2)],
)
def test_the_epoch_that_is_kept(errors: list[float] | None, keep: Literal["best", "last"], kept: int) -> None:
    """D10: the epoch of the lowest validation error, of equals the later; the last one without validation, or if
    asked."""
    model, after = nn.Linear(2, 2), []

    def measure(epoch_ends: bool) -> dict[str, float]:
        if epoch_ends:
            after.append(model.weight.detach().clone())
        return {}

    fit(
        model,
        lambda _: [torch.ones(4, 2)],
        TrainConfig(epochs=3, lr=0.01, momentum=0.0, schedule="constant", keep=keep),
        objective=lambda network, x: StepLoss(network(x).square().sum(), 0.0, len(x)),
        validate=(lambda _: errors[len(after) - 1]) if errors else None,
        measure=measure,
    )
    assert [torch.equal(model.weight, weight) for weight in after] == [epoch == kept for epoch in range(3)]


# Controls: what is just beyond a limit fails


@pytest.mark.parametrize("quantity", sorted(TOLERANCES))
def test_just_beyond_its_limit_a_quantity_fails(quantity: str) -> None:
    tolerance, rng = TOLERANCES[quantity], np.random.default_rng(0)
    if tolerance is EXACT:
        reference = rng.integers(0, 9, (5, 4))
        beyond = reference.copy()
        beyond[3, 2] += 1
        assert check("f", "c", quantity, reference, reference).passed
        assert not check("f", "c", quantity, beyond, reference).passed
        assert check("f", "c", quantity, beyond, reference).where == "(3, 2)"
        return
    reference, scale = rng.normal(size=(5, 4)), 2.0
    limit = tolerance.limit(reference, scale)[3, 2]
    for factor, passes in ((0.9, True), (1.1, False)):
        for sign in (-1, 1):
            moved = reference.copy()
            moved[3, 2] += sign * factor * limit
            assert abs(moved[3, 2] - reference[3, 2]) > 0
            compared = check("f", "c", quantity, moved, reference, scale)
            assert compared.passed == passes, (factor, sign)
            assert compared.where == "(3, 2)"


@pytest.mark.parametrize("quantity", ["codes", "levels", "loss"])
def test_sizes_and_nan_fail(quantity: str) -> None:
    reference = np.arange(6.0).reshape(2, 3)
    assert not check("f", "c", quantity, reference.T, reference).passed
    assert not check("f", "c", quantity, reference[:0], reference).passed
    broken = reference.copy()
    broken[0, 0] = np.nan
    assert not check("f", "c", quantity, broken, reference).passed
    assert not check("f", "c", quantity, reference, broken).passed


@pytest.mark.parametrize(
    "quantity", ["codes", "counts", "c_neg", "c_pos", "intervals", "edges_neg", "edges_pos", "levels", "quantized"]
)
def test_a_reference_that_differs_is_noticed(layer_cases: list[Case], quantity: str) -> None:
    """The stored output of a case, perturbed beyond its limit, fails in that quantity and in no other."""
    case = next(c for c in layer_cases if c["name"] == "b=4")
    value = case[quantity].astype(np.float64)
    scale = float(np.abs(case["W"]).max())
    step = max(1.0 if TOLERANCES[quantity] is EXACT else 3 * TOLERANCES[quantity].limit(value, scale).max(), 0.0)
    perturbed = value.copy()
    perturbed.flat[perturbed.size // 2] += step
    kind = np.float64 if TOLERANCES[quantity] is not EXACT else case[quantity].dtype
    results = layer_parity.compare_case({**case, quantity: perturbed.astype(kind)}, "perturbed")
    assert {c.quantity for c in results if not c.passed} - {"class"} == {quantity}


def test_a_training_that_differs_is_noticed() -> None:
    case = load_cases(RECONSTRUCTED / "ws_train.mat", train_parity.CASE_SCHEMA)[0]
    trace = dict(case["trace"])
    trace["W1"] = trace["W1"].copy()
    trace["W1"][3, 40] += 1e-9
    failed = [c for c in train_parity.compare_case({**case, "trace": trace}, "perturbed") if not c.passed]
    assert [(c.quantity, c.where) for c in failed] == [("W1", "(3, 40)")]


def test_streams_that_differ_are_noticed() -> None:
    cases = load_cases(RECONSTRUCTED / "encode_sparse_quantized_net_v2.mat", codec_parity.ENCODED_SCHEMA)
    case = next(c for c in cases if c["name"] == "b=4")
    for quantity in ("gaps", "entry_codes", "packed_gaps", "section", "bits", "index_bits", "n_fillers"):
        changed = case[quantity].copy()
        changed.flat[0] += 1
        results = codec_parity.compare_encoded({**case, quantity: changed}, "perturbed")
        assert [c.quantity for c in results if not c.passed] == [quantity]


def test_a_trace_of_the_optimiser_that_differs_is_noticed() -> None:
    trace = load_mat(MLCIRCUS / "mlcircus_clipq.mat")
    for name in ("MU", "EI", "pick"):
        changed = {**trace, name: trace[name] * (1 + 1e-5)}
        assert any(c.quantity == name and not c.passed for c in mlcircus_parity.compare_step(changed, 12, "perturbed"))


# The command


def test_the_report_counts_engines_first(report: Report) -> None:
    text = lines(report)
    assert text[0] == "Engines that made the fixtures"
    assert text[1].startswith("  MATLAB: ")
    assert "all within their limits" in text[-1]


def test_json_has_every_check(report: Report) -> None:
    value = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert value["passed"] is True
    assert len(value["checks"]) == len(report.checks)
    assert {"function", "case", "quantity", "deviation", "limit", "mechanism", "where", "passed"} <= set(
        value["checks"][0]
    )


def test_a_missing_fixture_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    only_missing = (lambda: layer_parity.checks(tmp_path),)
    monkeypatch.setattr("matlab_parity.compare.SUITES", only_missing)
    assert main([]) == 1
    output = capsys.readouterr().out
    assert f"{tmp_path / 'ws_learn_one_layer.mat'}: expected a .mat file, there is none" in output
    assert "NOT in agreement" in output


def test_a_failing_check_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    wrong = check("ws_learn_one_layer", "a case", "codes", np.array([1, 2]), np.array([1, 3]))
    monkeypatch.setattr("matlab_parity.compare.SUITES", (lambda: [wrong],))
    assert main(["--all"]) == 1
    assert "a case, codes: 1 > 0 (exact) at (1,)" in capsys.readouterr().out


def test_the_script_is_the_same_command(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "compare_matlab.py"
    result = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "--infer" in result.stdout


# The manifest


def test_every_fixture_is_listed_with_its_label() -> None:
    entries = {entry.file: entry for entry in manifest.read()}
    assert set(manifest.REQUIRED) <= set(entries)
    assert all((entry.label == "original") == (not file.startswith("reconstructed")) for file, entry in entries.items())
    for file, entry in entries.items():
        if file.startswith("reconstructed"):
            kinds = {source.split("/")[0] for source in entry.sources}
            assert kinds == {"reference", "collectors", "fixtures"}, file


@pytest.mark.parametrize(
    "changed",
    [
        "reference/ws_learn_one_layer.m",
        "collectors/collect_ws_learn_one_layer.m",
        "fixtures/inputs/ws_learn_one_layer.mat",
        "fixtures/reconstructed/ws_learn_one_layer.mat",
    ],
)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_what_is_stale_or_missing_is_named(tmp_path: Path, changed: str, how: str) -> None:
    entry = next(e for e in manifest.read() if e.file == "reconstructed/ws_learn_one_layer.mat")
    for file in (*entry.sources, f"fixtures/{entry.file}"):
        copy = tmp_path / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((manifest.ROOT / file).read_bytes())
    required = [p for p in manifest.problems([entry], tmp_path) if "missing from the manifest" not in p]
    assert required == []
    if how == "changed":
        (tmp_path / changed).write_bytes((tmp_path / changed).read_bytes() + b" ")
    else:
        (tmp_path / changed).unlink()
    found = [p for p in manifest.problems([entry], tmp_path) if "missing from the manifest" not in p]
    assert len(found) == 1
    assert changed in found[0]


def test_a_capture_of_the_original_needs_no_manifest_but_what_is_ours_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    capture = manifest.RECONSTRUCTED / "ws_learn_one_layer.mat"  # of the same kind
    monkeypatch.setattr(manifest, "fixtures", lambda: [capture])
    monkeypatch.setattr(manifest, "ORIGINAL", manifest.RECONSTRUCTED)
    assert [p for p in manifest.problems([]) if "missing from the manifest" not in p] == []
    monkeypatch.setattr(manifest, "sha256", lambda path: "changed")
    found = [p for p in manifest.problems([]) if "missing from the manifest" not in p]
    assert found
    assert all("stale" in problem for problem in found)
    monkeypatch.setattr(manifest, "ORIGINAL", tmp_path)
    assert "fixtures/reconstructed/ws_learn_one_layer.mat: not in the manifest" in list(manifest.problems([]))


def test_a_damaged_manifest_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in ("not json", "{}", '{"fixtures": [{"file": "x"}]}'):
        (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
        monkeypatch.setattr(manifest, "MANIFEST", tmp_path / "manifest.json")
        with pytest.raises(FixtureError, match=r"manifest\.json"):
            manifest.read()


def test_inputs_are_in_the_fixtures() -> None:
    """A fixture holds the inputs that are stored, value for value."""
    for name in ("ws_learn_one_layer", "encode_sparse_quantized_net_v2", "ws_train"):
        stored, fixture = load_mat(INPUTS / f"{name}.mat")["cases"], load_mat(RECONSTRUCTED / f"{name}.mat")["cases"]
        assert len(stored) == len(fixture)
        for a, b in zip(stored, fixture, strict=True):
            for key, value in a.items():
                linear = (v.ravel(order="F") if isinstance(v, np.ndarray) else v for v in (b[key], value))
                np.testing.assert_equal(*linear, err_msg=f"{name} {a['name']} {key}")
