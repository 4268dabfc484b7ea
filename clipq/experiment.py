"""An experiment: everything that a run depends on, from a small TOML file and the command line's overrides.

The sections of a file are the fields of ``Experiment``, their keys the fields of the section's dataclass; each has a
default, and an unknown key is an error.  ``clipq/experiments/`` holds those that come with the package.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from torch import nn

from clipq import toml_config
from clipq.conventions import Conventions
from clipq.data import usual_preparation
from clipq.data.image_options import Preprocessing
from clipq.distillation import DistillationConfig, distilled
from clipq.errors import ExperimentError, SettingError
from clipq.pruning_schedule import PruningSchedule
from clipq.search_config import SearchConfig
from clipq.selection import SelectionConfig
from clipq.train_config import TrainConfig
from clipq.training import Objective, cross_entropy


@dataclass(frozen=True)
class About:
    """name: of the experiment, and of its folder of results; letters, digits, ``_``, ``-`` and ``.``.
    description: one line for ``--list``.
    """

    name: str = "unnamed"
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip(".") or not all(c.isalnum() or c in "_-." for c in self.name):
            raise SettingError(f"name: expected letters, digits, '_', '-' and '.', got {self.name!r}")


@dataclass(frozen=True)
class DataConfig:
    """dataset: a key of ``clipq.data.DATASETS``.
    data_dir: folder that holds it; empty: ``$CLIPQ_DATA``, the cache, a download.  ``digits`` has none.
    images: how pictures are prepared, for CIFAR and ImageNet; what is not said is as usual for the data set.
    shift: pixels, >= 0, by which images of the other data sets are moved at most, up or down and left or right, each
        time that the dense network or CLIP-Q trains with them; zeros come in.
    """

    dataset: str = "digits"
    data_dir: str = ""
    images: Preprocessing | None = None
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise SettingError(f"data option shift: expected >= 0, got {self.shift}")
        if self.shift and usual_preparation(self.dataset):
            raise SettingError(
                f"data option shift: expected 0 for {self.dataset}, whose [data.images] has pad and augmentation, got "
                f"{self.shift}"
            )


@dataclass(frozen=True)
class NetworkConfig:
    """name: a key of ``clipq.networks.NETWORKS``.
    weights: file of trained weights (``.caffemodel``, ``.pt``, ``.pth``, ``.safetensors``) to start from; empty: the
        dense network is trained first, with the options of ``[dense]``.
    """

    name: str = "digits_net"
    weights: str = ""


@dataclass(frozen=True)
class LayersConfig:
    """Which layers are compressed, by patterns (``*``, ``?``) on their names: those that match one of ``include`` and
    none of ``exclude``."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodeConfig:
    """coder: ``fixed`` (relative index and b-bit codes, the size that the paper counts), ``entropy`` (smaller on disk),
    ``best`` (the smaller one, for each layer).
    tensors: the type to whose values all that is not pruned and quantized (biases, normalization) is rounded after the
        training, where it has more digits; ``as_trained`` keeps it exactly.
    dead_units: ``fold`` prunes what is left of units of fully connected layers that do nothing, having lost all of
        their incoming or outgoing weights, and moves what they gave into the next layer's bias; ``keep`` leaves them.
    """

    coder: Literal["fixed", "entropy", "best"] = "fixed"
    tensors: Literal["as_trained", "float16", "bfloat16"] = "as_trained"
    dead_units: Literal["keep", "fold"] = "keep"


@dataclass(frozen=True)
class RunConfig:
    """seed: of everything drawn by chance, 0..2^32 - 1.
    device: ``auto`` (a GPU where there is one), or as torch names it: ``cpu``, ``cuda``, ``cuda:1``.
    threads: of torch on the CPU; 0 leaves torch's choice (``OMP_NUM_THREADS``), which a run keeps where it goes on.
    workers: processes that read and decode images; 0 reads them in the main one.
    amp: mixed precision, which needs a GPU.
    """

    seed: int = 0
    device: str = "auto"
    threads: int = 0
    workers: int = 0
    amp: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed: expected 0..2^32 - 1, got {self.seed}")
        for name in ("threads", "workers"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name}: expected >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Experiment:
    """The sections of an experiment's file; ``dense`` trains the network to start from, ``train`` is CLIP-Q's
    fine-tuning."""

    experiment: About = field(default_factory=About)
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    dense: TrainConfig = field(default_factory=TrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    layers: LayersConfig = field(default_factory=LayersConfig)
    conventions: Conventions = field(default_factory=Conventions)
    schedule: PruningSchedule = field(default_factory=PruningSchedule)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def name(self) -> str:
        return self.experiment.name

    @property
    def lambdas(self) -> list[float]:
        """Those that may be tried, in their order; where nothing is searched, lambda plays no part."""
        first = self.search.lambda_
        return self.selection.lambdas(first) if self.search.searches else [first]

    def objective(self, dense: nn.Module) -> Objective | None:
        """What CLIP-Q's fine-tuning minimises, with ``dense`` as the teacher; None: the training's usual objective."""
        if not self.distillation.weight:
            return None
        return distilled(cross_entropy(self.train.label_smoothing), dense, self.distillation)

    @property
    def strict(self) -> Experiment:
        """The same without ``skip_corrupt``; what met no damaged picture is the same with and without."""
        images = self.data.images or usual_preparation(self.data.dataset)
        if images is None:
            return self
        return replace(self, data=replace(self.data, images=replace(images, skip_corrupt=False)))

    def may_go_on_as(self, other: Experiment) -> bool:
        """Whether a run of this one is, as far as it got, also a run of ``other``: an equal one, or the same with
        ``skip_corrupt``, as a run without ends where it meets a damaged picture."""
        tolerant = other.data.images is not None and other.data.images.skip_corrupt
        return other == self or (tolerant and other.strict == self.strict)

    def to_toml(self) -> str:
        """The resolved configuration, every key in it; ``load_experiment`` of it gives an equal one."""
        return toml_config.to_toml(self)


def list_experiments() -> dict[str, str]:
    """The package's experiments: name -> description."""
    return {name: load_experiment(name).experiment.description for name in sorted(_packaged())}


def load_experiment(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> Experiment:
    """An experiment with its overrides.

    Args:
        name_or_path: one of ``list_experiments()``, or a ``.toml`` file.
        overrides: ``section.key`` -> value as text: TOML, but strings without quotes, lists of strings may be
            separated by commas, and numbers may be written as in Python (``.9``).  ``search.given.<layer>`` sets one
            layer's ``[p, b]``.

    Returns:
        The experiment; its paths, which count from the working directory, are absolute.
    Raises:
        ExperimentError: no such experiment, not TOML, an unknown key, a value of a wrong type or out of range.
    """
    overrides = overrides or {}
    path = Path(name_or_path)
    path = path if path.suffix == ".toml" else _packaged_file(str(name_or_path))
    table = _read(path)
    _prepare_as_usual(table, overrides)
    toml_config.from_table(Experiment, table, str(path))  # the file by itself, before anything overrides it
    if "name" not in table.setdefault("experiment", {}):
        table["experiment"]["name"] = _name_of(path)
    for key, text in overrides.items():
        toml_config.override(Experiment, table, key, text)
    for section in dict.fromkeys(key.partition(".")[0] for key in overrides):
        keys = ", ".join(key for key in overrides if key.startswith(f"{section}."))
        toml_config.from_table(Experiment, {section: table[section]}, f"override {keys}")
    return _with_absolute_paths(toml_config.from_table(Experiment, table, str(path)))


def _prepare_as_usual(table: dict[str, Any], overrides: Mapping[str, str]) -> None:
    """Fills up ``[data.images]``, where file or overrides have any of it, with what is usual for the data set."""
    data = table.get("data", {})
    images = data.get("images", {}) if isinstance(data, dict) else None
    if not isinstance(images, dict):
        return  # no tables, which is an error of the file
    usual = usual_preparation(overrides.get("data.dataset", data.get("dataset", DataConfig.dataset)))
    if usual and ("images" in data or any(key.startswith("data.images.") for key in overrides)):
        table["data"] = {**data, "images": {**toml_config.to_table(usual), **images}}


def _name_of(path: Path) -> str:
    """The name of an experiment whose file gives none."""
    try:
        return About(path.stem).name
    except SettingError as error:
        raise ExperimentError(
            f"{path}: the file's name is the experiment's, as [experiment] has none: {error}"
        ) from error


def _with_absolute_paths(experiment: Experiment) -> Experiment:
    """The same experiment wherever it is run again."""
    data, network = experiment.data, experiment.network
    images = data.images and replace(data.images, mean_file=_absolute(data.images.mean_file))
    return replace(
        experiment,
        data=replace(data, data_dir=_absolute(data.data_dir), images=images),
        network=replace(network, weights=_absolute(network.weights)),
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: not TOML: {error}") from error


def _packaged() -> dict[str, Path]:
    return {path.stem: path for path in Path(str(files("clipq") / "experiments")).glob("*.toml")}


def _packaged_file(name: str) -> Path:
    known = _packaged()
    if name not in known:
        raise ExperimentError(f"experiment: expected one of {', '.join(sorted(known))}, or a .toml file, got {name!r}")
    return known[name]
