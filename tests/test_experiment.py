"""Experiments: what a file may say, what it may not, overrides, and the way back to a file."""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq import toml_config
from clipq.data import DATASETS, Preprocessing, cifar
from clipq.errors import ExperimentError
from clipq.experiment import Experiment, list_experiments, load_experiment
from clipq.networks import NETWORKS


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(list_experiments()))
def test_the_packages_experiments(name: str, tmp_path: Path):
    experiment = load_experiment(name)
    assert experiment.name == name and list_experiments()[name]
    assert experiment.network.name in NETWORKS and experiment.data.dataset in DATASETS
    assert load_experiment(written(tmp_path, experiment.to_toml())) == experiment


def test_those_of_the_plan_are_there():
    expected = {"digits", "mnist_lenet300100", "mnist_lenet5", "cifar10_nin", "cifar10_resnet20", "imagenet_alexnet"}
    expected |= {f"imagenet_{name}" for name in ("googlenet", "resnet50", "vgg16", "mobilenet", "shufflenet")}
    assert expected <= set(list_experiments())


@pytest.mark.parametrize("name", [name for name in list_experiments() if name.startswith(("imagenet", "cifar"))])
def test_the_pictures_suit_the_network(name: str):
    """The crop is the size that the network was made for, and CIFAR's usual preparation stays as it is."""
    experiment = load_experiment(name)
    expected = inspect.signature(NETWORKS[experiment.network.name]).parameters["input_shape"].default
    if name.startswith("cifar"):
        assert experiment.data.images is None and expected == (3, 32, 32)
    else:
        assert experiment.data.images is not None
        assert (3, experiment.data.images.crop, experiment.data.images.crop) == expected
        assert (experiment.data.images.channels == "RGB") == name.endswith("torchvision")


def test_an_empty_file_is_all_defaults_under_its_own_name(tmp_path: Path):
    experiment = load_experiment(written(tmp_path, ""))
    assert experiment.name == "mine"
    assert experiment.train == Experiment().train and experiment.conventions == Experiment().conventions


def test_values_of_every_type(tmp_path: Path):
    experiment = load_experiment(
        written(
            tmp_path,
            """
            [train]
            lr = 1
            epochs = 3
            schedule = "inv"
            [layers]
            exclude = ["conv1", "ip*"]
            [search]
            mode = "given"
            given."conv1/7x7_s2" = [0.5, 3]
            given."features.0" = [1, 8]
            [conventions]
            partition = "joined"
            [run]
            amp = true
            """,
        )
    )
    assert experiment.train.lr == 1.0 and type(experiment.train.lr) is float
    assert experiment.layers.exclude == ("conv1", "ip*") and experiment.run.amp is True
    assert dict(experiment.search.given) == {"conv1/7x7_s2": (0.5, 3), "features.0": (1.0, 8)}
    assert experiment.conventions.partition == "joined"


def test_paths_count_from_the_working_directory_and_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, '[network]\nweights = "a/net.pt"')
    overrides = {"data.data_dir": "images", "data.images.mean_file": "mean.binaryproto"}
    experiment = load_experiment(path, overrides)
    assert experiment.network.weights == str(tmp_path / "a" / "net.pt")
    assert experiment.data.data_dir == str(tmp_path / "images")
    assert experiment.data.images and experiment.data.images.mean_file == str(tmp_path / "mean.binaryproto")
    assert load_experiment("digits").network.weights == load_experiment("digits").data.data_dir == ""


def test_overrides(tmp_path: Path):
    given = {
        "train.lr": "1e-3", "train.epochs": "7", "run.amp": "true", "run.device": "cuda:1", "data.data_dir": "/a b/1",
        "layers.include": "conv*, ip1", "layers.exclude": '["a"]', "search.given.features.0": "[0.25, 2]",
        "train.schedule": "step", "experiment.name": "other",
    }  # fmt: skip
    experiment = load_experiment("digits", given)
    assert (experiment.train.lr, experiment.train.epochs, experiment.train.schedule) == (1e-3, 7, "step")
    assert (experiment.run.amp, experiment.run.device, experiment.data.data_dir) == (True, "cuda:1", "/a b/1")
    assert (experiment.layers.include, experiment.layers.exclude) == (("conv*", "ip1"), ("a",))
    assert dict(experiment.search.given) == {"features.0": (0.25, 2)} and experiment.name == "other"
    assert experiment.dense == load_experiment("digits").dense


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[trian]\nlr = 1", r"mine\.toml: unknown key trian; nearest known: train"),
        ("[train]\nlearning_rate = 1", r"mine\.toml: unknown key train\.learning_rate; nearest known: .*train\."),
        ("[search]\nlambda = 1", r"unknown key search\.lambda; nearest known: search\.lambda_"),
        ("[train]\nlr = '0.1'", r"mine\.toml: train\.lr: expected a number, got '0.1'"),
        ("[train]\nlr = true", r"train\.lr: expected a number, got True"),
        ("[train]\nepochs = 1.0", r"train\.epochs: expected a whole number, got 1\.0"),
        ("[train]\nschedule = 'exp'", r"train\.schedule: expected one of 'constant', 'step', .*, got 'exp'"),
        ("[layers]\ninclude = 'conv1'", r"layers\.include: expected a list, each item a string, got 'conv1'"),
        ("[search.given]\nconv1 = [0.5]", r"search\.given\.conv1: expected a list of a number and a whole number"),
        ("[search.given]\nconv1 = [0.5, 9]", r"\[search\]: bits b: expected an integer from 2 to 8, got 9"),
        ("train = 3", r"train: expected a table, got 3"),
        ("experiment = 3", r"experiment: expected a table, got 3"),
        ("[train]\nlr = -1", r"mine\.toml: \[train\]: training option lr: expected > 0, got -1\.0"),
        ("data = 3", r"data: expected a table, got 3"),
        ("[data]\ndataset = 'imagenet'\nimages = 3", r"data\.images: expected a table, got 3"),
        ("[conventions]\npartition = 'both'", r"conventions\.partition: expected one of .*'joined'.*got 'both'"),
        ("[conventions]\nclip_value = 'quantile'", r"\[conventions\]: .*A03"),
        ('[data]\ndataset = "cifar10"\nshift = 2', r"shift: expected 0 for cifar10, .*, got 2"),
        ("[run]\nseed = -1", r"\[run\]: seed: expected 0\.\.2\^32 - 1, got -1"),
        ("[experiment]\nname = '../x'", r"\[experiment\]: name: expected letters"),
        ("[train", r"mine\.toml: not TOML"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_say(tmp_path: Path, text: str, expected: str):
    with pytest.raises(ExperimentError, match=expected):
        load_experiment(written(tmp_path, text))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("search.p", ".9", 0.9), ("search.p", "0.", 0.0), ("search.p", "00.5", 0.5), ("train.lr", "5.e-1", 0.5),
        ("search.b", "007", 7), ("selection.error", ".25", 0.25),
    ],
)  # fmt: skip
def test_numbers_may_be_written_as_in_python(key: str, text: str, value: float):
    section, _, name = key.partition(".")
    found = getattr(getattr(load_experiment("digits", {key: text}), section), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("train.lrate", "1", r"override: unknown key train\.lrate; nearest known: .*train\.lr"),
        ("lr", "1", r"unknown key lr; nearest known: "),
        ("train", "1", "override train: a table"),
        ("search.given", "1", "override search.given: a table"),
        ("train.lr.x", "1", r"unknown key train\.lr\.x"),
        ("train.lr", "fast", "train.lr: expected a number, got 'fast'"),
        ("train.lr", "1\nepochs = 3", "train.lr: expected a number"),
        ("train.epochs", "0.5", "train.epochs: expected a whole number, got 0.5"),
        ("train.epochs", "5.", r"train\.epochs: expected a whole number, got '5\.'"),
        ("train.epochs", "0" + "9" * 400, "train.epochs: expected a whole number, got '099"),
        ("search.lambda_", "NaN", "search.lambda_: expected a number, got 'NaN'"),
        ("search.lambda_", "Infinity", "search.lambda_: expected a number, got 'Infinity'"),
        ("run.amp", "yes", "run.amp: expected true or false, got 'yes'"),
        ("train.optimizer", "lion", "train.optimizer: expected one of 'sgd', 'adam', got 'lion'"),
        ("search.given.conv1", "0.5", "search.given.conv1: expected a list of a number and a whole number, got 0.5"),
        ("run.seed", "-1", r"^override run\.seed: \[run\]: seed"),
        ("run.seed", "4294967296", r"expected 0\.\.2\^32 - 1, got 4294967296"),
        ("train.epochs", "-1", r"^override train\.epochs: \[train\]: training option epochs"),
    ],
)
def test_what_an_override_may_not_say(key: str, text: str, expected: str):
    with pytest.raises(ExperimentError, match=expected):
        load_experiment("digits", {key: text})


def test_a_file_whose_name_cannot_be_an_experiments(tmp_path: Path):
    path = written(tmp_path, "").rename(tmp_path / "my net.toml")
    with pytest.raises(ExperimentError, match=r"my net\.toml: the file's name is the experiment's, .*got 'my net'"):
        load_experiment(path)
    path.write_text('[experiment]\nname = "mine"')
    assert load_experiment(path).name == "mine"


def test_no_such_experiment_or_file(tmp_path: Path):
    with pytest.raises(ExperimentError, match=r"expected one of .*digits, .*got 'digit'"):
        load_experiment("digit")
    with pytest.raises(ExperimentError, match=r"none\.toml: cannot be read"):
        load_experiment(tmp_path / "none.toml")


@dataclass(frozen=True)
class Inner:
    count: int = 1
    rate: float = 0.5
    flag: bool = False


@dataclass(frozen=True)
class Sample:
    text: str = ""
    maybe: float | None = None
    names: tuple[str, ...] = ()
    pairs: dict[str, tuple[float, int]] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(("name", "usual"), [("cifar10_nin", cifar.DEFAULT), ("imagenet_alexnet", None)])
def test_what_is_not_said_of_pictures_is_as_usual_for_the_data_set(
    name: str, usual: Preprocessing | None, tmp_path: Path
):
    usual = usual or load_experiment(name).data.images
    assert load_experiment(name, {"data.images.skip_corrupt": "true"}).data.images == replace(usual, skip_corrupt=True)
    (tmp_path / "mine.toml").write_text('[data]\ndataset = "cifar100"\n[data.images]\npad = 2\n')
    assert load_experiment(tmp_path / "mine.toml").data.images == replace(cifar.DEFAULT, pad=2)
    assert load_experiment(tmp_path / "mine.toml", {"data.dataset": "imagenet"}).data.images == Preprocessing(pad=2)
    started, going_on = load_experiment(name), load_experiment(name, {"data.images.skip_corrupt": "true"})
    assert started.may_go_on_as(going_on)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(allow_nan=False)
samples = st.builds(
    Sample,
    names,
    st.none() | numbers,
    st.lists(names, max_size=3).map(tuple),
    st.dictionaries(names, st.tuples(numbers, st.integers(-(2**63), 2**63 - 1)), max_size=3),
    st.builds(Inner, st.integers(-(2**63), 2**63 - 1), numbers, st.booleans()),
)


@given(samples)
def test_any_configuration_comes_back_from_its_file(sample: Sample):
    text = toml_config.to_toml(sample)
    assert toml_config.from_table(Sample, tomllib.loads(text), "sample") == sample


def test_every_key_is_documented():
    for section in fields(Experiment):
        cls = type(getattr(Experiment(), section.name))
        for f in fields(cls):
            assert f.name in (cls.__doc__ or "") or "question" in f.metadata, f"{section.name}.{f.name}"
