"""Runs an experiment: dense network, search for p and b, fine-tuning with CLIP-Q, file, and its error once decoded."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from clipq import distributed
from clipq.errors import CheckpointError, ClipqError, ExperimentError, Interrupted, PictureError
from clipq.experiment import Experiment, list_experiments, load_experiment
from clipq.report import terminal_table
from clipq.run import Run, RunFiles
from clipq.run_lock import is_at_work
from clipq.search import n_evaluations
from clipq.search_config import SearchConfig
from clipq.text_table import Table
from clipq.toml_config import differing_keys
from clipq.train_config import TrainConfig

EPILOG = """\
examples:
  clipq train                                               scikit-learn's digits, from nothing to the decoded file
  clipq train --experiment mnist_lenet5 --weights lenet5.caffemodel
  clipq train --experiment mine.toml train.epochs=5 search.evaluations=10
  clipq train --p 0.9 --b 4                                 no search: the same p and b for every layer
  clipq train --experiment imagenet_alexnet --dry-run       will it run, how long, in how much memory? without images
  clipq train --resume                                      go on with the run that was interrupted last

Several processes train together: torchrun --nproc-per-node=N -- scripts/ws_train.py ...
The keys of an experiment are in its file; the run's folder has one with every key: config.toml.
"""

#: The override with which a run may go on that was started without.
SKIP_CORRUPT = "data.images.skip_corrupt=true"
#: Keys of what every layer gets without a search.
UNIFORM = ("search.p", "search.b")
#: Options that stand for a key of the experiment.
SHORTCUTS = {
    "weights": "network.weights",
    "data_dir": "data.data_dir",
    "seed": "run.seed",
    "device": "run.device",
    "lambda": "search.lambda_",
    "p": "search.p",
    "b": "search.b",
}


class _Place(NamedTuple):
    """A run's folder, and whether this command made it."""

    folder: Path
    is_new: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("overrides", nargs="*", metavar="section.key=value", help="the same as --set")
    add("--experiment", metavar="NAME", help="one of --list, or a .toml file (default: digits)")
    add("--list", action="store_true", help="show the experiments that come with clipq, and exit")
    add("--set", action="append", default=[], metavar="section.key=value", help="override a key; repeatable")
    add("--weights", metavar="FILE", help="start from these weights (.caffemodel, .pt, .pth, .safetensors)")
    add("--data-dir", metavar="DIR", help="folder that holds the data set (default: $CLIPQ_DATA)")
    add("--seed", metavar="N", help="of everything drawn by chance")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1; auto is a GPU where there is one")
    add("--lambda", metavar="L", help="weight of the saving against the error in the search")
    add("--p", metavar="P", help="no search: this pruning rate for every layer, in [0, 1]")
    add("--b", metavar="B", help="no search: this many bits for every layer, 2..8")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of results (default: results)")
    add("--run", metavar="NAME", help="the run's folder in DIR/<experiment> (default: date and time)")
    add(
        "--resume", nargs="?", const="", metavar="RUN_FOLDER",
        help="go on with this run, or with the latest unfinished one (of the experiment, if one is named), configured "
        f"as it was; it may begin to leave out damaged pictures: {SKIP_CORRUPT}",
    )  # fmt: skip
    add("--dry-run", action="store_true", help="one real step of everything on made images: layers, memory, time, file")
    add("--quiet", action="store_true", help="no progress: only the results at the end")


def run(args: argparse.Namespace) -> int:
    if args.list:
        print(Table(("experiment", "description"), list(list_experiments().items()), n_text=2).plain())
        return 0
    _check_characters(args)
    if args.resume and "=" in args.resume and not Path(args.resume).exists():  # --resume without a folder
        args.overrides.append(args.resume)
        args.resume = ""
    overrides = dict(_overrides(args))
    if args.dry_run:
        return _rehearse(args, overrides)
    distributed.connect()
    place, experiment = distributed.on_writer(lambda: _prepared(args, overrides))
    try:
        _work(experiment, place.folder, args)
    except (ClipqError, OSError) as error:
        discarded = _discard_if_nothing_was_done(place)
        if isinstance(error, PictureError) and not discarded and RunFiles(place.folder).config.exists():
            raise PictureError(f"{error}; go on with: {_how_to_go_on(place.folder)} {SKIP_CORRUPT}") from error
        raise
    except KeyboardInterrupt as stop:
        if not RunFiles(place.folder).config.exists():
            _discard_if_nothing_was_done(place)
            raise Interrupted("nothing was done yet") from None
        where = f"{stop}; " if str(stop) else ""
        raise Interrupted(f"{where}go on with: {_how_to_go_on(place.folder)}") from None
    return 0


def _how_to_go_on(folder: Path) -> str:
    """The command, for as many processes as there are."""
    n = distributed.world_size()
    command = f"torchrun --nproc-per-node={n} -- scripts/ws_train.py" if n > 1 else "clipq train"
    return f"{command} --resume {shlex.quote(str(folder))}"


def _check_characters(args: argparse.Namespace) -> None:
    """Refuses text that no file in UTF-8 can hold, such as the name of a folder in another encoding."""
    for value in vars(args).values():
        for text in map(str, value if isinstance(value, list) else [value]):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ExperimentError(f"expected arguments in UTF-8, got {text!a}")


def _rehearse(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """A dry run; its file stands beside the folders of the experiment's runs."""
    if args.resume is not None or args.run is not None:
        raise ExperimentError("--dry-run: expected neither --run nor --resume, as it is no run that can go on")
    from clipq.dry_run import dry_run
    from clipq.dry_run_text import dry_run_text

    experiment = _loaded(args, overrides)
    path = args.results / experiment.name / "dry_run.clipq"
    found = dry_run(experiment, path, (lambda name: None) if args.quiet else _tell)
    print(dry_run_text(experiment, found, path))
    return 0


def _tell(stage: str) -> None:
    print(f"dry run: {stage}", file=sys.stderr, flush=True)


def _prepared(args: argparse.Namespace, overrides: dict[str, str]) -> tuple[_Place, Experiment]:
    """The run's folder, which is there, and its experiment."""
    if args.resume is not None:
        folder = _folder_to_resume(args)
        return _Place(folder, is_new=False), _as_it_was(folder, args, overrides)
    experiment = _loaded(args, overrides)
    return _place_of_a_new_run(args, experiment), experiment


def _loaded(args: argparse.Namespace, overrides: Mapping[str, str]) -> Experiment:
    """The experiment of a new run, whose overrides must all have an effect."""
    experiment = load_experiment(args.experiment or "digits", overrides)
    search = experiment.search
    for key in overrides:
        needs = _missing(key, search)
        if needs and not (args.dry_run and key in UNIFORM):
            name = key.replace("lambda_", "lambda_ (--lambda)")
            raise ExperimentError(f"{name}: needs {needs}; expected none with search.mode = {search.mode}")
    return experiment


def _missing(key: str, search: SearchConfig) -> str:
    """What an override of ``key`` needs to have an effect; empty if it has one."""
    if key.startswith("search.given."):
        return "" if search.mode == "given" else "search.mode = given"
    if key in UNIFORM:
        return "search.mode = uniform, which --p and --b set" if search.searches else ""
    if key.startswith(("search.", "selection.")) and key != "search.mode":
        return "" if search.searches else "a search"
    return ""


def _work(experiment: Experiment, folder: Path, args: argparse.Namespace) -> None:
    job = Run(experiment, folder, resume=args.resume is not None, show=not args.quiet)
    if not args.quiet and distributed.is_writer():
        print("\n".join(f"{what:<12}{text}" for what, text in _plan(job)), flush=True)
    report = job()
    if distributed.is_writer():
        print("" if args.quiet else "\n", terminal_table(report, folder), sep="")


def _plan(job: Run) -> Iterator[tuple[str, str]]:
    """What is going to happen, a line a stage."""
    experiment, data, search = job.experiment, job.data, job.experiment.search
    train, val, test = (f"{data.size(split):,}" for split in ("train", "val", "test"))
    shape = "x".join(map(str, data.input_shape))
    skips = experiment.data.images and experiment.data.images.skip_corrupt
    images = (
        f"{train} training, {val} validation and {test} test images{' (less unreadable ones)' if skips else ''} of "
        f"{shape}, {data.n_classes} classes"
    )
    start = experiment.network.weights
    origin = f"weights from {start}" if start else f"trained here: {_epochs(experiment.dense)}"
    how = {"uniform": f"none: p = {search.p:g}, b = {search.b} for every layer", "given": "none: p and b as given"}
    searched = (
        f"{search.mode}: {n_evaluations(search)} evaluations a layer on {min(search.subset, data.size('train')):,} "
        f"training images, lambda = {', '.join(f'{value:g}' for value in experiment.lambdas)}"
    )
    n = distributed.world_size()
    processes = f", {n} processes" if n > 1 else ""
    yield "experiment", f"{experiment.name}: {experiment.experiment.description}"
    yield "data", f"{data.name}: {images}"
    yield "network", f"{experiment.network.name}, {origin}"
    yield "search", how.get(search.mode, searched)
    yield "fine-tuning", f"CLIP-Q: {_epochs(experiment.train)}, on {job.device}{processes}"
    yield "results", f"{job.files.folder}"


def _epochs(config: TrainConfig) -> str:
    return f"{config.epochs} epoch{'s' * (config.epochs != 1)}"


def _overrides(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Key and text of every override; a key given twice must have one text."""
    given: dict[str, str] = {}
    pairs = [_pair(text) for text in [*args.overrides, *args.set]]
    pairs += [(key, getattr(args, name)) for name, key in SHORTCUTS.items() if getattr(args, name) is not None]
    if args.p is not None or args.b is not None:
        pairs.append(("search.mode", "uniform"))
    for key, text in pairs:
        if given.setdefault(key, text) != text:
            raise ExperimentError(f"{key}: expected one value, got {given[key]!r} and {text!r}")
        yield key, text


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ExperimentError(f"expected section.key=value, got {text!r}")
    return key.strip(), value.strip()


def _place_of_a_new_run(args: argparse.Namespace, experiment: Experiment) -> _Place:
    """A folder that was not there, or an empty one, as a command leaves it that was killed before it did anything."""
    parent = args.results / experiment.name
    parent.mkdir(parents=True, exist_ok=True)
    if args.run is None:
        name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        names = (name, *(f"{name}_{i}" for i in range(2, 1000)))
    else:
        names = (_checked_name(args.run),)
    for candidate in names:
        with suppress(FileExistsError):
            (parent / candidate).mkdir()
            return _Place(parent / candidate, is_new=True)
    folder = parent / names[0]
    if folder.is_dir() and not _visible_files(folder):
        return _Place(folder, is_new=False)
    or_resume = f", or --resume {shlex.quote(str(folder))}" if RunFiles(folder).config.is_file() else ""
    raise ExperimentError(f"{folder}: is there already; expected a new name{or_resume}")


def _visible_files(folder: Path) -> set[str]:
    """Their names; hidden ones are what a killed process can leave of files that it was writing, and its lock."""
    return {file.name for file in folder.iterdir() if not file.name.startswith(".")}


def _checked_name(name: str) -> str:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ExperimentError(f"--run: expected the name of a folder without a path, got {name!r}")
    return name


def _folder_to_resume(args: argparse.Namespace) -> Path:
    """The run that ``--resume`` means; one that is not finished."""
    if args.resume:
        folder = Path(args.resume)
        if args.run is not None and args.run != folder.resolve().name:
            raise ExperimentError(f"--run {args.run} and --resume {folder}: expected one of them")
    else:
        folder = _named_run(args) if args.run is not None else _latest_unfinished(args)
    if not RunFiles(folder).config.is_file():
        raise CheckpointError(
            f"{folder}: expected the folder of a run to resume; there is no {RunFiles(folder).config}"
        )
    if (page := RunFiles(folder).page).exists():
        raise CheckpointError(f"{folder}: this run is finished; its results are in {page}")
    return folder


def _named_run(args: argparse.Namespace) -> Path:
    folder: Path = args.results / load_experiment(args.experiment or "digits").name / _checked_name(args.run)
    return folder


def _latest_unfinished(args: argparse.Namespace) -> Path:
    """Of the runs without a page, on which nobody is at work, the one whose files changed last: of the experiment, or
    of any where none is named."""
    name = "*" if args.experiment is None else load_experiment(args.experiment).name
    configs = args.results.glob(f"{name}/*/config.toml")
    unfinished = [config.parent for config in configs if not RunFiles(config.parent).page.exists()]
    runs = [folder for folder in unfinished if not is_at_work(folder)]
    if not runs:
        busy = f"; other processes are at work on {len(unfinished)}" if unfinished else ""
        where = args.results if args.experiment is None else args.results / name
        raise CheckpointError(f"{where}: there is no unfinished run to resume{busy}")
    return max(runs, key=lambda folder: (_last_change(folder), folder.name))


def _last_change(folder: Path) -> int:
    """Of its files, in nanoseconds; another process may be at work there."""
    latest = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            latest = max(latest, file.stat().st_mtime_ns)
    return latest


def _as_it_was(folder: Path, args: argparse.Namespace, overrides: dict[str, str]) -> Experiment:
    """The run's own configuration, with which overrides must agree; only ``skip_corrupt`` may be set anew.

    Where the experiment that is named says anything else, having changed or been overridden, a line on stderr tells.
    """
    config = RunFiles(folder).config
    experiment = load_experiment(config)
    named = load_experiment(args.experiment, overrides) if args.experiment is not None else None
    if named and named.name != experiment.name:
        raise CheckpointError(f"{folder}: is a run of {experiment.name}, not of {args.experiment}")
    for key, text in overrides.items():
        if not experiment.may_go_on_as(load_experiment(config, {key: text})):
            raise CheckpointError(
                f"{config}: the run has another {key} than {text}; resume it without, or start another"
            )
    experiment = load_experiment(config, overrides)
    if named and (keys := list(differing_keys(named, experiment))):
        text = f"{folder}: goes on as it was configured; {args.experiment} has another {', '.join(keys)}"
        print(text, file=sys.stderr, flush=True)
    return experiment


def _discard_if_nothing_was_done(place: _Place) -> bool:
    """Removes the folder that this command made for a run that failed before its first result, so that it is not taken
    for one to resume; whether that is so."""
    config = RunFiles(place.folder).config
    try:
        names = {file.name for file in place.folder.iterdir()}
    except FileNotFoundError:  # another process has removed it
        return True
    if not place.is_new or not names <= {config.name}:
        return False
    if distributed.is_writer():
        config.unlink(missing_ok=True)
        place.folder.rmdir()
    return True
