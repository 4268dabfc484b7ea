import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clipq.conventions import Conventions
from clipq.errors import CheckpointError, ModelError, SettingError, WriteError
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.quantized_net import LayerSetting
from clipq.search import Evaluation, candidates, n_evaluations, search
from clipq.search_config import SearchConfig
from clipq.search_log import SearchLogFile

FIGURE_2 = torch.tensor([
    [0.1, -0.1, 0.7, -0.4], [0.7, -0.5, 0.9, -0.1], [-1.0, -0.6, -1.6, 0.8], [-0.5, 1.1, 0.2, 1.2],
])  # fmt: skip
ONE_P = SearchConfig(mode="random", evaluations=2, lambda_=2.0, p_min=0.25, p_max=0.25, b_min=2, b_max=3)
RUN = {"configuration": "c", "data set": "d"}


def by_hand() -> nn.Sequential:
    """Figure 2's layer and one of four weights."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = FIGURE_2.clone()
    model[1].weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    return model


def three_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 9), nn.Linear(9, 4))


def distinct(weight: torch.Tensor) -> int:
    return len(weight.unique())


def run_search(
    model: nn.Module, config: SearchConfig = ONE_P, error: Callable[[nn.Module], float] = lambda model: 0.5, **more: Any
) -> tuple[dict[str, LayerSetting], list[Evaluation]]:
    return search(model, compressible_layers(model), error, config, **more)


def test_the_objective_by_hand() -> None:
    """Sections of 22 and 40 bytes for b = 2 and 3 (docs/format.md): header 2, codebook 4 (2^b - 1), sixteen codes
    stored densely (an index of no bits), CRC 4; of the second layer 19 and 36.  All weights take 20 * 32 = 640 bits.
    """
    model = by_hand()

    def error(model: nn.Module) -> float:
        return 0.25 if distinct(model[0].weight) == 4 else 0.125

    settings, evaluations = run_search(model, error=error)
    bits = {(e.layer, e.b): e.bits for e in evaluations}
    assert bits == {("0.weight", 2): 176, ("0.weight", 3): 320, ("1.weight", 2): 152, ("1.weight", 3): 288}
    values = {(e.layer, e.b): (e.eps, e.saving, e.value) for e in evaluations}
    assert values["0.weight", 2] == pytest.approx((0.25, (512 - 176) / 640, 0.25 - 2 * 336 / 640))
    assert values["0.weight", 3] == pytest.approx((0.125, (512 - 320) / 640, 0.125 - 2 * 192 / 640))
    assert values["1.weight", 2] == pytest.approx((0.25, (128 - 152) / 640, 0.25 + 2 * 24 / 640))
    assert settings == {"0.weight": LayerSetting(0.25, 2), "1.weight": LayerSetting(0.25, 2)}


def test_the_codebook_counts_as_A09_says() -> None:
    _, evaluations = run_search(by_hand(), conventions=Conventions(count_codebook="no"))
    assert {(e.layer, e.b): e.bits for e in evaluations}["0.weight", 2] == 176 - 8 * 12


def test_lambda_decides() -> None:
    """The error of b = 2 is 0.1 higher, its saving 144/640 = 0.225 higher: they balance at lambda = 0.444."""

    def error(model: nn.Module) -> float:
        return 0.1 if distinct(model[0].weight) == 4 else 0.0

    for lambda_, b in ((0.44, 3), (0.45, 2)):
        config = SearchConfig(**{**vars(ONE_P), "lambda_": lambda_})
        assert run_search(by_hand(), config, error)[0]["0.weight"].b == b


@pytest.mark.parametrize(
    ("order", "expected"),
    [("forward", [0, 1, 2]), ("backward", [2, 1, 0]), ("largest_first", [1, 0, 2])],
)
@pytest.mark.parametrize("context", ["quantized", "full_precision"])
def test_order_and_context_of_the_layers(order: str, expected: list[int], context: str) -> None:
    """A10 and A11: sizes are 48, 72 and 36; at each evaluation, which layers are quantized?"""
    model, seen = three_layers(), []
    full = [layer.weight.detach().clone() for layer in model]

    def error(model: nn.Module) -> float:
        seen.append({i for i, layer in enumerate(model) if not torch.equal(layer.weight, full[i])})
        return 0.5

    conventions = Conventions(search_order=order, search_context=context)  # type: ignore[arg-type]
    settings, evaluations = run_search(model, error=error, conventions=conventions)
    assert [e.layer for e in evaluations] == [f"{i}.weight" for i in expected for _ in range(2)]
    quantized = [set(expected[:k]) if context == "quantized" else set() for k in range(3)]
    assert seen == [quantized[k] | {i} for k, i in enumerate(expected) for _ in range(2)]
    assert list(settings) == ["0.weight", "1.weight", "2.weight"]


def test_layers_searched_before_stay_with_their_best_setting() -> None:
    model, counts = three_layers(), []

    def error(model: nn.Module) -> float:
        counts.append(distinct(model[0].weight))
        return 1.0 if distinct(model[0].weight) == 4 else 0.0  # b = 3 is far better

    settings, _ = run_search(model, error=error)
    assert settings["0.weight"] == LayerSetting(0.25, 3)
    assert counts[2:] == [8] * 4


class Stop(Exception):
    pass


@pytest.mark.parametrize("calls", [0, 1, 3, 5, 6])
def test_the_weights_are_restored_whatever_happens(calls: int) -> None:
    model, left = three_layers(), iter(range(calls))
    before = [p.detach().clone() for p in model.parameters()]

    def error(model: nn.Module) -> float:
        if next(left, None) is None:
            raise Stop
        return 0.5

    try:
        run_search(model, error=error)
        assert calls == 6
    except Stop:
        assert calls < 6
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("mode", ["random", "bayesopt"])
def test_no_candidate_twice_and_as_many_evaluations_as_asked(mode: str) -> None:
    model, calls = three_layers(), []
    config = SearchConfig(mode=mode, evaluations=7, p_step=0.2)  # type: ignore[arg-type]

    def error(model: nn.Module) -> float:
        calls.append(1)
        return sum(float((layer.weight == 0).float().mean()) for layer in model) / 3

    _, evaluations = run_search(model, config, error)
    assert len(calls) == len(evaluations) == 21
    grid = {(p, int(b)) for p, b in candidates(config).tolist()}
    for i in range(3):
        tried = [(e.p, e.b) for e in evaluations if e.layer == f"{i}.weight"]
        assert len(set(tried)) == 7
        assert set(tried) <= grid
        assert [e.number for e in evaluations if e.layer == f"{i}.weight"] == list(range(7))


def test_few_candidates_are_all_tried() -> None:
    config = SearchConfig(evaluations=25, p_min=0.5, p_max=0.9, p_step=0.4, b_min=2, b_max=4)
    assert n_evaluations(config) == 6
    _, evaluations = run_search(by_hand(), config)
    assert sorted({(e.p, e.b) for e in evaluations}) == [(p, b) for p in (0.5, 0.9) for b in (2, 3, 4)]
    assert len(evaluations) == 12


def test_the_candidates_of_p_reach_its_largest_value() -> None:
    p = np.unique(candidates(SearchConfig(p_min=0.0, p_max=0.99, p_step=0.03))[:, 0])
    assert len(p) == 34
    assert p[-1] == 0.99
    assert p[1] == 0.03


def test_bayesian_optimisation_finds_the_least_of_a_smooth_objective() -> None:
    """One layer of many weights, whose error has its minimum at p = 0.6 and asks for nothing of b."""
    model = nn.Sequential(nn.Linear(40, 50, bias=False))
    nn.init.normal_(model[0].weight, generator=torch.Generator().manual_seed(0))
    config = SearchConfig(evaluations=15, lambda_=1e-6, p_step=0.05)

    def error(model: nn.Module) -> float:
        return (float((model[0].weight == 0).float().mean()) - 0.6) ** 2

    settings, _ = run_search(model, config, error)
    assert abs(settings["0.weight"].p - 0.6) <= 0.05


def test_the_seed_decides_what_is_tried() -> None:
    def tried(seed: int) -> list[tuple[float, int]]:
        _, evaluations = run_search(three_layers(), SearchConfig(evaluations=4), seed=seed)
        return [(e.p, e.b) for e in evaluations]

    assert tried(1) == tried(1)
    assert tried(1) != tried(2)


def test_uniform_and_given_settings_are_not_measured() -> None:
    def error(model: nn.Module) -> float:
        raise AssertionError("nothing is to be measured")

    model = three_layers()
    uniform = SearchConfig(mode="uniform", p=0.7, b=3)
    assert run_search(model, uniform, error) == ({f"{i}.weight": LayerSetting(0.7, 3) for i in range(3)}, [])
    given = SearchConfig(mode="given", p=0.7, b=3, given={"1": (0.5, 6), "2.weight": (0.25, 8)})
    expected = {"0.weight": LayerSetting(0.7, 3), "1.weight": LayerSetting(0.5, 6), "2.weight": LayerSetting(0.25, 8)}
    assert run_search(model, given, error) == (expected, [])
    with pytest.raises(ModelError, match="no such layer: 7; the layers: 0, 1, 2"):
        run_search(model, SearchConfig(mode="given", given={"7": (0.5, 6)}), error)


@pytest.mark.parametrize("mode", ["random", "bayesopt"])
@pytest.mark.parametrize("done", [0, 1, 5, 8, 12])
def test_a_killed_search_goes_on_where_it_was(tmp_path: Path, mode: str, done: int) -> None:
    config = SearchConfig(mode=mode, evaluations=4, p_step=0.1)  # type: ignore[arg-type]
    calls: list[int] = []

    def error(model: nn.Module) -> float:
        calls.append(1)
        return float(sum((layer.weight == 0).sum() for layer in model)) / 156 / 2

    def killed(model: nn.Module) -> float:
        if len(calls) == done:
            raise Stop
        return error(model)

    expected = run_search(three_layers(), config, error)
    calls.clear()
    if done < 12:
        with pytest.raises(Stop):
            run_search(three_layers(), config, killed, log=SearchLogFile(tmp_path / "log", RUN))
    else:
        run_search(three_layers(), config, error, log=SearchLogFile(tmp_path / "log", RUN))
    settings, evaluations = run_search(three_layers(), config, error, log=SearchLogFile(tmp_path / "log", RUN))
    assert len(calls) == 12
    assert settings == expected[0]
    assert [(e.layer, e.p, e.b, e.eps, e.value) for e in evaluations] == [
        (e.layer, e.p, e.b, e.eps, e.value) for e in expected[1]
    ]


def with_other(line: str, **values: object) -> str:
    return json.dumps({**json.loads(line), **values})


def logged(path: Path) -> Sequence[Evaluation]:
    run_search(three_layers(), log=SearchLogFile(path, RUN))
    return SearchLogFile(path, RUN).evaluations()


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_last_line_cut_short_is_measured_again(tmp_path: Path, kept: int) -> None:
    path, calls = tmp_path / "log", []
    whole = logged(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:kept])
    log = SearchLogFile(path, RUN)
    assert log.evaluations() == tuple(whole[:3])
    assert path.read_bytes() == b"".join(lines[:4])
    run_search(three_layers(), error=lambda model: calls.append(1) or 0.5, log=log)
    assert len(calls) == 3
    again = SearchLogFile(path, RUN).evaluations()
    assert [(e.layer, e.p, e.b, e.value) for e in again] == [(e.layer, e.p, e.b, e.value) for e in whole]


def test_a_log_of_other_evaluations_is_refused(tmp_path: Path) -> None:
    logged(tmp_path / "log")
    with pytest.raises(
        CheckpointError, match=r"log: evaluation 0 of layer 0\.weight: expected p=.*, b=.*, got eval.*delete"
    ):
        run_search(three_layers(), SearchConfig(mode="random"), log=SearchLogFile(tmp_path / "log", RUN))


@pytest.mark.parametrize("change", [{"value": 0.25}, {"eps": 0.25}, {"saving": 0.75}])
def test_a_log_whose_values_are_not_this_lambdas_is_refused(tmp_path: Path, change: dict[str, float]) -> None:
    path = tmp_path / "log"
    logged(path)
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, json.dumps({**json.loads(second), **change}) + "\n", *rest]))
    with pytest.raises(CheckpointError, match=r"log: evaluation 0 of layer 0\.weight: expected the value.*delete it"):
        run_search(three_layers(), log=SearchLogFile(path, RUN))


@pytest.mark.parametrize("mode", ["bayesopt", "random"])
def test_the_last_seeds_are_seeds_of_every_layer(mode: str) -> None:
    config = SearchConfig(mode=mode, evaluations=3)  # type: ignore[arg-type]
    assert len(run_search(three_layers(), config, seed=2**32 - 1)[1]) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [json.dumps({"fingerprint": {**RUN, "data set": "e"}}), *lines[1:]], "another data set;"),
        (lambda lines: [*lines[:2], lines[2][:20], *lines[3:]], "line 3: not JSON"),
        (lambda lines: [*lines[:2], "[1, 2]", *lines[3:]], r"line 3: expected an object, got \[1, 2\]"),
        (lambda lines: [*lines[:2], '{"layer": "0.weight"}', *lines[3:]], "line 3: not an evaluation: .*delete it"),
        (
            lambda lines: [*lines[:2], with_other(lines[2], p=None)],
            "log, line 3: p: expected a finite number, got None",
        ),
        (lambda lines: [*lines[:2], with_other(lines[2], value=math.nan)], "value: expected a finite number, got nan"),
        (lambda lines: [*lines[:2], with_other(lines[2], number=1.0)], r"number: expected a whole number, got 1\.0"),
        (lambda lines: lines[1:], "expected a fingerprint in the first line"),
        (lambda lines: [], "expected a fingerprint in the first line"),
    ],
)
def test_a_damaged_log_or_another_runs_is_refused_and_kept(
    tmp_path: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    path = tmp_path / "log"
    logged(path)
    content = "".join(f"{line}\n" for line in change(path.read_text().splitlines())) + '{"cut'
    path.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        SearchLogFile(path, RUN)
    assert path.read_text() == content


def test_a_log_that_cannot_be_written_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = logged(path)
    log = SearchLogFile(path, RUN)
    log.path = Path("/dev/full")
    with pytest.raises(WriteError, match="/dev/full: cannot be written: No space left on device"):
        log.append(whole[0])
    assert SearchLogFile(path, RUN).evaluations() == whole


def test_each_evaluation_is_reported(tmp_path: Path) -> None:
    """Those of the log, too, so that a bar stands where it was."""
    logged(tmp_path / "log")
    seen: list[Evaluation] = []
    _, evaluations = run_search(three_layers(), log=SearchLogFile(tmp_path / "log", RUN), on_evaluation=seen.append)
    assert seen == evaluations


def test_shared_weights_are_quantized_wherever_they_are_used() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    layers: list[CompressibleLayer] = compressible_layers(model)
    assert len(layers) == 1

    def error(model: nn.Module) -> float:
        assert distinct(model[2].weight) <= 8
        return 0.5

    search(model, layers, error, ONE_P)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("lambda_", float("inf"), "a finite number"), ("lambda_", "1", "a finite number"),
        ("evaluations", 2.5, "a whole number"), ("b_min", 2.5, "a whole number"), ("subset", 0, ">= 1"),
        ("p_step", 1e-300, ">= 0.0001"),
    ],
)  # fmt: skip
def test_options_that_no_search_can_have_are_named(option: str, value: object, expected: str) -> None:
    with pytest.raises(SettingError, match=f"search option {option}: expected {expected}, got {value!r}"):
        SearchConfig(**{option: value})  # type: ignore[arg-type]


def test_a_given_setting_is_a_pair() -> None:
    with pytest.raises(SettingError, match=r"search.given.a: expected \[p, b\], got 3"):
        SearchConfig(mode="given", given={"a": 3})  # type: ignore[dict-item]
