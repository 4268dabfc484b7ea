"""``--infer``: hidden readings are found from inputs and outputs alone.

The outputs are those of the MATLAB reference (fixtures made by Octave) or of what is written out plainly here, so what
finds a reading is not what made them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipq import patience
from clipq.conventions import Conventions
from clipq.errors import WriteError
from clipq.ws_learn_one_layer import ws_learn_one_layer
from matlab_parity.codec_parity import ENCODED_SCHEMA
from matlab_parity.compare import main
from matlab_parity.infer import infer, infer_layer
from matlab_parity.infer_report import infer_json, infer_lines, write_probes
from matlab_parity.layer_inputs import LAYER_FIELDS, LayerInput, settings_of
from matlab_parity.layer_parity import GRID_SCHEMA
from matlab_parity.mat_files import Case, FixtureError, from_matlab, load_cases, save_cases
from matlab_parity.near_misses import NearMiss, by_output_alone
from matlab_parity.observation import Observation, layer_observation
from matlab_parity.paths import INPUTS, RECONSTRUCTED
from matlab_parity.probes import OUTPUTS, candidates, learn, split

EVERY = settings_of(LAYER_FIELDS)
#: 20 settings drawn at random; half of them are found with the levels captured, half without.
HIDDEN = np.random.default_rng(2018).choice(len(EVERY), 20, replace=False).tolist()


@pytest.fixture(scope="module")
def grid() -> list[Case]:
    return load_cases(RECONSTRUCTED / "ws_learn_one_layer_conventions.mat", GRID_SCHEMA)


def outputs_of(grid: Sequence[Case], number: int, outputs: Sequence[str]) -> list[Case]:
    """What the reference gave with the setting ``number``, without a word about which it is."""
    inputs = [{key: case[key] for key in ("name", "W", "p", "b")} for case in grid]
    return [
        {**given, **{name: case[name][:, number : number + 1] for name in outputs}}
        for given, case in zip(inputs, grid, strict=True)
    ]


@pytest.mark.parametrize("number", HIDDEN[:10])
def test_a_hidden_reading_is_found_from_weights_and_levels(grid: list[Case], number: int, tmp_path: Path) -> None:
    save_cases(tmp_path / "unknown.mat", outputs_of(grid, number, ("quantized", "levels")))
    assert infer(tmp_path / "unknown.mat").survivors == (EVERY[number],)


@pytest.mark.parametrize("number", HIDDEN[10:])
def test_a_hidden_reading_is_found_from_the_weights_alone(grid: list[Case], number: int, tmp_path: Path) -> None:
    """All but A07, of which the quantized weights show nothing; that is said, and which output would show it."""
    save_cases(tmp_path / "unknown.mat", outputs_of(grid, number, ("quantized",)))
    inference = infer(tmp_path / "unknown.mat")
    either = {replace(EVERY[number], empty_level=option) for option in Conventions.options("empty_level")}
    assert set(inference.survivors) == either
    assert inference.needed == {inference.survivors: ("levels",)}


def test_the_probes_tell_all_readings_apart(grid: list[Case], tmp_path: Path) -> None:
    groups = [EVERY]
    for case in grid:
        probe = next(candidates(np.random.default_rng(0)))
        W = from_matlab(case["W"], case["shape"], "W")
        groups = split(groups, replace(probe, W=W, p=case["p"].item(), b=int(case["b"].item())), OUTPUTS)
    assert len(groups) == len(EVERY) == 960


def test_few_cases_leave_readings_open_and_inputs_are_named_that_tell(grid: list[Case]) -> None:
    hidden = Conventions(clip_scope="all_weights", clip_value="first_kept", edge="inner")
    number = EVERY.index(hidden)
    probe = replace(next(candidates(np.random.default_rng(0))), name="one", W=grid[0]["W"].ravel(order="F"))
    probe = replace(probe, p=grid[0]["p"].item(), b=int(grid[0]["b"].item()))
    first = layer_observation(probe, {"quantized": grid[0]["quantized"][:, number]})
    inference = infer_layer([first])
    assert hidden in inference.survivors
    assert len(inference.survivors) > 2
    assert inference.probes
    more = [layer_observation(p, {"quantized": learn(p, hidden).quantized.ravel()}) for p in inference.probes]
    left = infer_layer([first, *more]).survivors
    assert set(left) == {hidden, replace(hidden, empty_level="zero")}


def test_an_excluded_option_names_the_case_that_excludes_it(grid: list[Case], tmp_path: Path) -> None:
    save_cases(tmp_path / "unknown.mat", outputs_of(grid, EVERY.index(Conventions()), OUTPUTS))
    inference = infer(tmp_path / "unknown.mat")
    names = {case["name"] for case in grid}
    for field in LAYER_FIELDS:
        assert inference.reproduced(field) == [getattr(Conventions(), field)]
        for option in Conventions.options(field):
            why = inference.excluded_by(field, option)
            assert (why is None) == (option == getattr(Conventions(), field))
            assert why is None or (why[0] in names and why[1] in OUTPUTS)
    assert inference.excluded_by("empty_level", "zero")[1] == "levels"  # type: ignore[index]


def test_single_precision_arithmetic_is_not_taken_for_another_reading(grid: list[Case], tmp_path: Path) -> None:
    cases = outputs_of(grid, EVERY.index(Conventions()), ("quantized", "levels"))
    for case in cases:
        case["quantized"] = (case["quantized"] * (1 + 3e-7)).astype(np.float32)
    save_cases(tmp_path / "single.mat", cases)
    assert infer(tmp_path / "single.mat").survivors == (Conventions(),)


def stored_inputs() -> list[Case]:
    """All that ``capture_original.m`` runs a copy of the original on."""
    names = ("ws_learn_one_layer_conventions", "ws_learn_one_layer")
    return [case for name in names for case in load_cases(INPUTS / f"{name}.mat", {})]


def learned_plainly(W: np.ndarray, p: float, b: int, reading: Conventions) -> tuple[np.ndarray, np.ndarray]:
    """Quantized weights and levels by full sorts and in W's class, nothing rounded; the level of no weights is NaN."""
    w = W.ravel(order="F")
    magnitudes, codes, half = np.abs(w), np.zeros(w.size, int), 2 ** (b - 1)
    for sign, n_intervals in ((-1, half), (1, half - 1)):
        side = np.flatnonzero(sign * w > 0)
        if not side.size:
            continue
        m = np.sort(magnitudes if reading.clip_scope == "all_weights" else magnitudes[side])
        k = min(m.size, int({"ceil": np.ceil, "floor": np.floor}[reading.clip_count](p * m.size)))
        below, above = m[k - 1] if k else 0 * m[0], m[min(k, m.size - 1)]
        c, e = {"last_clipped": below, "first_kept": above}[reading.clip_value], magnitudes[side].max()
        keeps_ties = reading.clip_ties == "keep" and 0 < k < m.size and below == above
        kept = side[magnitudes[side] >= below] if keeps_ties else side[magnitudes[side] > below]
        edges = np.linspace(min(c, e), e, n_intervals + 1, dtype=w.dtype)[1:-1]
        interval = np.searchsorted(edges, magnitudes[kept], "right" if reading.edge == "outer" else "left")
        codes[kept] = half + 1 + interval if sign > 0 else half - interval
    levels = np.array([w[codes == i].mean() if (codes == i).any() else np.nan for i in range(1, 2**b)], w.dtype)
    return np.concatenate([np.zeros(1, w.dtype), levels])[codes], levels


@pytest.mark.parametrize("output", ["class of W", "single", "noise", "levels"])
@pytest.mark.parametrize(
    "reading",
    [
        Conventions(),
        Conventions(clip_count="floor", edge="inner"),
        Conventions(clip_scope="all_weights", clip_value="first_kept", clip_ties="keep"),
    ],
)
def test_whoever_rounds_otherwise_is_understood(reading: Conventions, output: str, tmp_path: Path) -> None:
    cases, rng = [], np.random.default_rng(0)
    for case in stored_inputs():
        quantized, levels = learned_plainly(case["W"], case["p"].item(), int(case["b"].item()), reading)
        if output == "single":
            quantized = quantized.astype(np.float32)
        if output == "noise":
            quantized = (quantized * (1 + 1e-7 * rng.standard_normal(quantized.size))).astype(quantized.dtype)
        given = {"levels": levels} if output == "levels" else {}
        cases.append({**{key: case[key] for key in ("name", "W", "p", "b")}, "quantized": quantized, **given})
    save_cases(tmp_path / "plain.mat", cases)
    inference = infer(tmp_path / "plain.mat")
    assert set(inference.survivors) == {reading, replace(reading, empty_level="zero")}
    assert inference.needed == {inference.survivors: ("levels",)}


@pytest.mark.parametrize(
    ("W", "codes", "contradicts"),
    [
        ([1.0, 1.0 + 1e-12, 2.0, 3.0], [0, 0, 3, 3], {"keep": True, "prune": False}),  # one magnitude in single
        ([1e-300, 2e-300, -1e-300, 3e-300], [0, 0, 0, 0], {"keep": False, "prune": False}),  # no magnitude
        ([1.0, 1.5, 2.0, 3.0], [0, 0, 3, 3], {"keep": True, "prune": True}),
    ],
)
def test_weights_may_be_taken_in_single_precision(
    W: list[float], codes: list[int], contradicts: dict[str, bool]
) -> None:
    """``single(W)`` may make weights equal, or zero; a quarter is clipped."""
    quantized = np.where(codes, 2.5, 0.0)
    layer = LayerInput("doubles", np.array(W), 0.25, 2)
    seen = layer_observation(layer, {"quantized": quantized, "codes": np.array(codes)})
    for ties, contradicted in contradicts.items():
        assert bool(seen.contradicts(Conventions(clip_ties=ties))) == contradicted  # type: ignore[arg-type]


def test_a_sort_in_descending_order_is_named(tmp_path: Path) -> None:
    """It prunes the last of equal weights: no reading, but the weights from the end are those of one."""
    reading, cases = Conventions(clip_scope="all_weights", clip_ties="first", edge="inner"), []
    for case in stored_inputs():
        w, p, b = case["W"].ravel(order="F"), case["p"].item(), int(case["b"].item())
        quantized = np.zeros(w.size, w.dtype)
        order = np.argsort(-np.abs(w), kind="stable")
        n_kept = w.size - int(np.ceil(p * w.size))
        clip = np.append(np.abs(w)[order], 0)[n_kept] if n_kept < w.size else 0.0
        for sign, parts in ((-1, 2 ** (b - 1)), (1, 2 ** (b - 1) - 1)):
            kept = order[:n_kept][sign * w[order[:n_kept]] > 0]
            extreme = np.max(np.abs(w[sign * w > 0]), initial=0)
            edges = np.linspace(min(clip, extreme), extreme, parts + 1, dtype=np.float64)[1:-1]
            interval = np.searchsorted(edges, np.abs(w[kept]), "left")
            for i in set(interval.tolist()):
                quantized[kept[interval == i]] = w[kept[interval == i]].mean()
        cases.append({**{key: case[key] for key in ("name", "W", "p", "b")}, "quantized": quantized})
    save_cases(tmp_path / "descending.mat", cases)
    inference = infer(tmp_path / "descending.mat")
    assert not inference.survivors
    assert set(inference.last_of_equals) == {reading, replace(reading, empty_level="zero")}
    assert "    clip_scope=all_weights, clip_ties=first, edge=inner" in infer_lines(inference, "descending.mat")
    assert len(infer_json(inference)["last_of_equals"]) == 2


QUANTILE = Conventions(clip_count="round", clip_value="quantile")


def learned_by_library(W: np.ndarray, p: float, b: int, way: str) -> dict[str, np.ndarray]:
    """What functions of a library make of W: ``quantile`` or a sort, ``discretize``, edges by steps of W's class."""
    w = W.ravel(order="F")
    number, magnitude, half = w.dtype.type, np.abs(w), 2 ** (b - 1)
    edges, pruned, clips = [np.zeros(1)], w == 0, {}
    for sign, parts in ((-1, half), (1, half - 1)):
        side = magnitude[sign * w > 0]
        if not side.size:
            clips[sign] = np.nan
            edges.append(np.zeros(parts - 1))
            continue
        if way.startswith("quantile"):
            c = np.quantile(side.astype(np.float64), p, method="hazen")
        else:
            c = np.sort(np.append(side, number(0)))[int(np.ceil(p * side.size))] if side.size else 0.0
            c = c if p else number(0)
        clips[sign] = sign * c
        pruned |= (sign * w > 0) & (magnitude < c if way == "quantile, less" else magnitude <= c)
        step = (side.max() - c) / number(parts)
        edges.append(
            sign * (c + np.arange(1, parts).astype(number) * step).astype(w.dtype if way == "steps" else float)
        )
    # from below an edge on both sides, or towards zero, where it is not said that a weight on it lies above
    codes = 1 + sum((w >= edge if way == "discretize" or edge > 0 else w > edge) for edge in np.concatenate(edges))
    codes = np.where(pruned, 0, codes)
    levels = [w[codes == i].mean(dtype=np.float64) if (codes == i).any() else np.nan for i in range(1, 2**b)]
    return {"quantized": np.array([0.0, *levels])[codes], "c_neg": np.array(clips[-1]), "c_pos": np.array(clips[1])}


@pytest.mark.parametrize(
    ("way", "reading"),
    [
        ("sort", Conventions()),
        ("steps", Conventions()),
        ("discretize", Conventions(edge="upper")),
        ("quantile, at most", QUANTILE),
        ("quantile, less", replace(QUANTILE, clip_ties="keep")),
    ],
)
def test_the_ways_of_a_librarys_functions_are_readings(way: str, reading: Conventions, tmp_path: Path) -> None:
    """Edges in single precision, and clips NaN of a side without weights, are no other readings."""
    cases = []
    for case in stored_inputs():
        outputs = learned_by_library(case["W"], case["p"].item(), int(case["b"].item()), way)
        cases.append({**{key: case[key] for key in ("name", "W", "p", "b")}, **outputs})
    save_cases(tmp_path / "library.mat", cases)
    inference = infer(tmp_path / "library.mat")
    assert set(inference.survivors) == {reading, replace(reading, empty_level="zero")}


def test_what_is_no_reading_is_said_to_be_none(grid: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cases = outputs_of(grid, 0, ("quantized",))
    cases[2]["quantized"] = cases[2]["quantized"] * 1.01
    save_cases(tmp_path / "other.mat", cases)
    assert main(["--infer", str(tmp_path / "other.mat")]) == 1
    assert "no reading reproduces every case" in capsys.readouterr().out
    inference = infer(tmp_path / "other.mat")
    assert inference.closest[0].contradicted_by == ((cases[2]["name"], ("quantized",)),)
    assert inference.closest[0].reading in (EVERY[0], replace(EVERY[0], empty_level="zero"))


def numbered_otherwise(case: Case) -> Case:
    """Codes and levels in descending order."""
    codes = case["codes"].astype(float)
    return {**case, "codes": np.where(codes, 2 ** case["b"].item() - codes, 0), "levels": case["levels"][::-1]}


def clips_as_magnitudes(case: Case) -> Case:
    return {**case, "c_neg": -case["c_neg"]}


@pytest.mark.parametrize(
    ("own_way", "wrong"), [(numbered_otherwise, {"codes", "levels"}), (clips_as_magnitudes, {"c_neg"})]
)
def test_an_output_of_other_meaning_hides_no_reading(
    grid: list[Case], own_way: Callable[[Case], Case], wrong: set[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cases = outputs_of(grid, EVERY.index(Conventions()), OUTPUTS)
    save_cases(tmp_path / "own.mat", [own_way(case) for case in cases])
    assert main(["--infer", str(tmp_path / "own.mat"), "--json", str(tmp_path / "own.json")]) == 1
    said = capsys.readouterr().out
    assert "by quantized alone 2 of the readings reproduce everything: the defaults; empty_level=zero" in said
    assert f"contradict every reading: {', '.join(sorted(wrong))}\n" in said
    found = json.loads((tmp_path / "own.json").read_text(encoding="utf-8"))
    assert len(found["by_output_alone"]["quantized"]) == 2
    assert {name for name, readings in found["by_output_alone"].items() if not readings} == wrong
    nearest = found["closest"][0]
    assert nearest["reading"] == {field: getattr(Conventions(), field) for field in LAYER_FIELDS}
    assert {name for case in nearest["contradicted_by"] for name in case["quantities"]} == wrong
    first = nearest["contradicted_by"][0]
    assert f"'{first['case']}' ({', '.join(first['quantities'])})" in said


def test_an_encoders_output_alone_may_fit_another_width_than_the_next() -> None:
    """A reading may allow several widths; one that each output has for itself is none that they have together."""

    def predict(_: Conventions) -> list[dict[str, np.ndarray]]:
        return [{"gaps": np.array([g]), "bits": np.array([n])} for g, n in ((1, 10), (2, 20))]

    mixed = Observation("mixed", {"gaps": np.array([1]), "bits": np.array([20])}, predict, {})
    assert mixed.contradicts(Conventions()) == ("bits",)
    alone = by_output_alone([mixed], [Conventions()])
    assert alone == {"gaps": (Conventions(),), "bits": (Conventions(),)}


def test_where_no_inputs_would_tell_more_the_command_says_so(
    grid: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_cases(tmp_path / "all.mat", outputs_of(grid, EVERY.index(Conventions()), OUTPUTS))
    assert main(["--infer", str(tmp_path / "all.mat"), "--probes", str(tmp_path / "probes.mat")]) == 0
    assert "probes.mat: not written, as no inputs were found that would tell more" in capsys.readouterr().out
    assert not (tmp_path / "probes.mat").exists()


def test_the_command_writes_json_and_probes(grid: list[Case], tmp_path: Path) -> None:
    save_cases(tmp_path / "one.mat", outputs_of(grid, 7, ("quantized",))[:1])
    found, probes = tmp_path / "found.json", tmp_path / "probes.mat"
    assert main(["--infer", str(tmp_path / "one.mat"), "--json", str(found), "--probes", str(probes)]) == 0
    value = json.loads(found.read_text(encoding="utf-8"))
    assert len(value["reproduce"]) + len(value["excluded"]) == 960
    assert len(value["telling_inputs"]) == len(load_cases(probes, {}))


def test_one_case_may_stand_without_a_struct_array(tmp_path: Path) -> None:
    import scipy.io

    W = np.array([0.5, -1.0, 2.0, 0.25, -0.25])
    result = learn(replace(next(candidates(np.random.default_rng(0))), W=W, p=0.4, b=2), Conventions())
    scipy.io.savemat(tmp_path / "one.mat", {"W": W, "p": 0.4, "b": 2.0, "quantized": result.quantized})
    inference = infer(tmp_path / "one.mat")
    assert Conventions() in inference.survivors
    assert any("reproduces" in line for line in infer_lines(inference, "one.mat"))
    assert infer_json(inference)["cases"] == ["the case"]


@pytest.mark.parametrize(("seconds", "told"), [(0.0, True), (60.0, False)])
def test_who_waits_long_is_told_what_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float, told: bool
) -> None:
    monkeypatch.setattr(patience, "SECONDS", seconds)
    one = LayerInput("one", np.array([0.5, -1.0, 2.0, 0.25, -0.25]), 0.4, 2)
    infer_layer([layer_observation(one, {"quantized": learn(one, Conventions()).quantized})])
    said = " ".join(record.message for record in caplog.records)
    assert ("holds 960 readings against the cases" in said) == told
    assert ("looks for inputs that tell 132 readings apart" in said) == told


def test_outputs_that_would_tell_more_are_found_by_learning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for every output, which took most of the time of a single case."""
    learned: list[Conventions] = []
    monkeypatch.setattr("matlab_parity.infer.search", lambda readings, *_, **__: ([], [readings[:2]]))
    monkeypatch.setattr("matlab_parity.probes.ws_learn_one_layer", lambda W, p, b, conventions, name: (
        learned.append(conventions) or ws_learn_one_layer(W, p, b, conventions, name)))  # fmt: skip
    one = LayerInput("one", np.array([0.5]), 0.4, 2)
    infer_layer([layer_observation(one, {"quantized": np.zeros(1)})])
    assert len(learned) <= len(EVERY) + 2 * 24


def test_codec_readings_that_no_given_output_shows_are_said_to_need_another(tmp_path: Path) -> None:
    cases = load_cases(RECONSTRUCTED / "encode_sparse_quantized_net_v2.mat", ENCODED_SCHEMA)
    best = [c for c in cases if c["conv"]["index_bits"] == "best"]
    keep = ("name", "shape", "dtype", "b", "codes", "levels", "gaps")
    save_cases(tmp_path / "streams.mat", [{key: case[key] for key in keep} for case in best])
    inference = infer(tmp_path / "streams.mat")
    assert {c.index_bits for c in inference.survivors} == {"best"}
    assert inference.needed == {inference.survivors: ("bits",)}
    assert any("bits" in line for line in infer_lines(inference, "streams.mat")[-2:])


def test_the_closest_readings_are_held_against_every_case(tmp_path: Path) -> None:
    cases = load_cases(RECONSTRUCTED / "encode_sparse_quantized_net_v2.mat", ENCODED_SCHEMA)
    keep = ("name", "shape", "dtype", "b", "codes", "levels", "index_bits", "gaps")
    best = [{key: case[key] for key in keep} for case in cases if case["conv"]["index_bits"] == "best"]
    largest = max(best, key=lambda case: case["gaps"].size)
    save_cases(tmp_path / "other.mat", [*best, *best, {**largest, "gaps": largest["gaps"] + 1}])
    inference = infer(tmp_path / "other.mat")
    assert inference.survivors == ()
    assert inference.closest[0] == NearMiss(Conventions(), ((largest["name"], ("gaps",)),))


def encoded_plainly(codes: np.ndarray, width: int) -> tuple[list[int], list[int]]:
    """Gaps and entries, a weight at a time."""
    gaps, entries, run = [], [], 0
    for code in codes.tolist():
        run += code == 0
        if code or run == 2**width:
            gaps.append(run if code else run - 1)
            entries.append(code)
            run = 0
    while entries and not entries[-1]:
        del gaps[-1], entries[-1]
    return gaps, entries


@pytest.mark.parametrize(
    ("wider", "codebook", "header", "found"),
    [
        (0, "yes", 0, ["yes"]),
        (0, "no", 0, ["no"]),
        (0, "yes", 64, ["yes"]),
        (0, "no", 64, ["no"]),
        (1, "yes", 0, []),
        (0, "no", -1, []),
    ],
)
def test_an_encoder_of_fewest_bits_is_understood(
    wider: int, codebook: str, header: int, found: list[str], tmp_path: Path
) -> None:
    stored = load_cases(INPUTS / "encode_sparse_quantized_net_v2.mat", {})
    cases = []
    for case in (c for c in stored if c["codes"].size < 2000):
        codes, b = case["codes"].ravel(order="F"), int(case["b"].item())
        tried = [encoded_plainly(codes, width) for width in range(12)]
        n_bits = [len(gaps) * (width + b) for width, (gaps, _) in enumerate(tried)]
        width = n_bits.index(min(n_bits)) + wider
        gaps, entries = (np.array(stream, float) for stream in tried[width])
        bits = n_bits[width] + (32 * (2**b - 1) if codebook == "yes" else 0) + header
        given = {key: case[key] for key in ("name", "shape", "dtype", "b", "codes", "levels")}
        cases.append({**given, "index_bits": width, "gaps": gaps, "entry_codes": entries, "bits": bits})
    save_cases(tmp_path / "plain.mat", cases)
    survivors = infer(tmp_path / "plain.mat").survivors
    assert survivors == tuple(Conventions(count_codebook=option) for option in found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantized": None}, r"cases\(1\)\.quantized: missing"),
        ({"quantized": np.zeros(3)}, r"cases\(1\)\.quantized: expected 25 elements, got 1 x 3"),
        ({"levels": np.zeros(4, np.float32)}, r"cases\(1\)\.levels: expected"),
        ({"W": np.zeros(25, np.int8)}, r"cases\(1\)\.W: expected double or single, got int8"),
        ({"p": np.zeros((1, 2))}, r"cases\(1\)\.p: expected size 1 x 1, got 1 x 2"),
        ({"p": 2.0}, r"cases\(1\): pruning rate p: expected a number in \[0, 1\], got 2.0"),
        ({"b": 3.7}, r"cases\(1\)\.b: expected a whole number, got 3.7"),
        ({"b": np.nan}, r"cases\(1\)\.b: expected a whole number, got nan"),
        ({"b": np.inf}, r"cases\(1\)\.b: expected a whole number, got inf"),
        ({"b": 9.0}, r"cases\(1\): bits b: expected an integer from 2 to 8, got 9"),
        ({"codes": "abc"}, r"cases\(1\)\.codes: expected double .*, got char"),
        ({"codes": {"a": 1.0}}, r"cases\(1\)\.codes: expected double .*, got struct"),
        ({"levels": np.array([[np.zeros(1)]], object)}, r"cases\(1\)\.levels: expected double .*, got cell"),
        ({"W": np.full(25, np.nan)}, r"cases\(1\)\.W: expected finite weights, got 25 of 25"),
        ({"quantized": np.r_[np.zeros(24), np.nan]}, r"cases\(1\)\.quantized: expected finite weights, got 1 of 25"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(grid: list[Case], tmp_path: Path, change: Case, message: str) -> None:
    case = {**outputs_of(grid, 0, ("quantized",))[0], **change}
    save_cases(tmp_path / "bad.mat", [{key: value for key, value in case.items() if value is not None}])
    with pytest.raises(FixtureError, match=r"bad\.mat: variable " + message):
        infer(tmp_path / "bad.mat")


@pytest.mark.parametrize("output", ["quantized", "codes"])
def test_a_transposed_output_is_refused_and_a_vector_is_not(tmp_path: Path, output: str) -> None:
    W = np.random.default_rng(3).normal(size=(3, 4))
    result = learn(LayerInput("x", W, 0.4, 3), Conventions())
    case = {"W": W, "p": 0.4, "b": 3.0, "quantized": result.quantized, "codes": result.codes}
    for value in (case[output], case[output].reshape(1, -1, order="F"), case[output].reshape(-1, 1, order="F")):
        save_cases(tmp_path / "x.mat", [{**case, output: value}])
        assert Conventions() in infer(tmp_path / "x.mat").survivors
    save_cases(tmp_path / "x.mat", [{**case, output: case[output].T}])
    message = rf"x\.mat: .*\.{output}: expected 12 elements, as 3 x 4 or as a vector, got 4 x 3"
    with pytest.raises(FixtureError, match=message):
        infer(tmp_path / "x.mat")


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_bits_may_be_of_any_integer_type(grid: list[Case], tmp_path: Path, kind: str) -> None:
    case = outputs_of(grid, 0, OUTPUTS)[0]
    save_cases(tmp_path / "b.mat", [{**case, "b": case["b"].astype(kind)}])
    assert EVERY[0] in infer(tmp_path / "b.mat").survivors


def test_an_empty_name_is_no_name(grid: list[Case], tmp_path: Path) -> None:
    cases = outputs_of(grid, 0, OUTPUTS)[:3]
    names = (np.zeros((0, 0)), "", "third")
    save_cases(tmp_path / "x.mat", [{**case, "name": name} for case, name in zip(cases, names, strict=True)])
    assert infer(tmp_path / "x.mat").observations == ("cases(1)", "cases(2)", "third")


def test_a_file_without_cases_is_refused(tmp_path: Path) -> None:
    import scipy.io

    scipy.io.savemat(tmp_path / "bad.mat", {"x": 1.0})
    with pytest.raises(FixtureError, match=r"bad\.mat: variable cases: missing"):
        infer(tmp_path / "bad.mat")
    scipy.io.savemat(tmp_path / "bad.mat", {"cases": np.empty((1, 0), [("W", object)])})
    with pytest.raises(FixtureError, match=r"bad\.mat: variable cases: expected a struct array of at least one case"):
        infer(tmp_path / "bad.mat")


@pytest.mark.parametrize("change", [{"b": np.nan}, {"levels": np.zeros((1, 2), np.float32)}, {"dtype": "single"}])
def test_a_layer_of_the_codec_that_is_none_is_named(change: Case, tmp_path: Path) -> None:
    case = load_cases(INPUTS / "encode_sparse_quantized_net_v2.mat", {})[0]
    del case["conv"]
    save_cases(tmp_path / "bad.mat", [{**case, "index_bits": 2.0, **change}])
    with pytest.raises(FixtureError, match=rf"bad\.mat: variable cases\(1\).*{next(iter(change))}: expected"):
        infer(tmp_path / "bad.mat")


def test_what_cannot_be_written_is_named(grid: list[Case], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_cases(tmp_path / "all.mat", outputs_of(grid, 7, OUTPUTS))
    missing = tmp_path / "no folder" / "file"
    assert main(["--infer", str(tmp_path / "all.mat"), "--json", str(missing)]) == 1
    assert f"{missing}: cannot be written" in capsys.readouterr().err
    with pytest.raises(WriteError, match=f"{missing}: cannot be written"):
        write_probes(missing, [next(candidates(np.random.default_rng(0)))])


def test_probes_without_infer_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--probes", str(tmp_path / "probes.mat")])
    assert "--probes: expected --infer FILE with it" in capsys.readouterr().err
