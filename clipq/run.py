"""A run of an experiment, from the dense network to the error of the decoded file.

    data, dense network -> search -> ws_train -> encode -> file -> decode into a fresh network -> report

Every stage keeps its state in the run's folder, so that a killed run goes on where it was.  The test images are used
at the end only: every choice before is made on training and validation images.  That they can be read at all is seen
before a new run trains.

Several processes (``clipq.distributed``) train together; the search, and all that comes after the training, is done by
one of them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipq import distributed
from clipq.atomic_file import remove_leftovers, write_text
from clipq.checkpoint import CheckpointFile
from clipq.data import Dataset, Split, load_dataset
from clipq.dead_units import fold_dead_units
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.device import find_device, repeatable
from clipq.encode_sparse_quantized_net_v2 import EncodedNet, encode_sparse_quantized_net_v2
from clipq.errors import CheckpointError, ExperimentError, Interrupted
from clipq.experiment import Experiment, load_experiment
from clipq.interruption import stop_requests
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.matlab_net import write_mat
from clipq.networks import build_network, deployed
from clipq.pretrained import load_weights
from clipq.progress import NoProgress, ProgressBars, SearchBar
from clipq.provenance import provenance
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.report import write_report_page
from clipq.run_files import RunFiles
from clipq.run_lock import sole_process
from clipq.run_report import histograms, layer_table, sizes
from clipq.search import Evaluation, as_record, given_settings, n_evaluations, search
from clipq.search_log import SearchLogFile
from clipq.selection import select
from clipq.subset_error import SubsetError
from clipq.ties import warn_of_ties
from clipq.train_config import TrainConfig
from clipq.train_state import History, seed_everything
from clipq.training import fit, top1_error
from clipq.verified_file import write_verified
from clipq.ws_train import WsTrainResult, ws_train


@dataclass(frozen=True, eq=False)
class _Attempt:
    """What one lambda gave: (p, b) and the evaluations that led to them, the fine-tuned network, its held-out error."""

    lambda_: float
    settings: dict[str, LayerSetting]
    evaluations: list[Evaluation]
    model: nn.Module
    trained: WsTrainResult
    val_error: float


class Run:
    """One run.  When it is called, ``folder`` is made, or continued where it holds the same experiment's run.

    show: progress bars, on the process that writes.
    checkpoint_every: seconds between two checkpoints within an epoch.

    Raises:
        CheckpointError: the folder holds a run of an experiment that may not go on as this one.
        ExperimentError: it holds a run that is not to be resumed; mixed precision without a GPU.
        DataError, ModelError, ExperimentError: see the data set, the network, the experiment.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        *,
        resume: bool = False,
        show: bool = True,
        checkpoint_every: float = 60.0,
    ) -> None:
        distributed.connect()
        self.experiment = experiment
        self.files = RunFiles(folder)
        self._resume = resume
        self._show = show and distributed.is_writer()
        self._checkpoint_every = checkpoint_every
        self._asked_to_stop: Callable[[], bool] = lambda: False
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        if experiment.run.threads:
            torch.set_num_threads(experiment.run.threads)
        self.device = find_device(experiment.run.device)
        if experiment.run.amp and self.device.type != "cuda":
            raise ExperimentError(f"run.amp: mixed precision needs a GPU; expected false on {self.device}, got true")
        self.data: Dataset = distributed.writer_first(
            lambda: load_dataset(
                experiment.data.dataset, experiment.data.data_dir or None, experiment.data.images, experiment.data.shift
            )
        )
        self._check_layers()
        self._fingerprint = self._make_fingerprint()
        distributed.on_writer(self._check_folder)

    def __call__(self) -> dict[str, Any]:
        """Runs every stage that is not done yet; the report, which is then also in the folder.

        Raises:
            CheckpointError: another process is at work in the folder, or what a stage has left there is damaged or
                was made with another configuration, data set or starting weights.
            PictureError: a picture cannot be read.
            Interrupted: SIGINT or SIGTERM came while a stage was at work whose state is now saved.
        """
        distributed.on_writer(self._check_pictures)
        with ExitStack() as held, stop_requests() as self._asked_to_stop, repeatable():
            distributed.on_writer(lambda: self._claim_folder(held))
            return self._stages()

    def _stages(self) -> dict[str, Any]:
        origin = {**provenance(self.experiment.run.seed), "processes": distributed.world_size()}
        dense, dense_history = self._timed("dense", self._dense)
        layers = self._layers(dense)
        dense_val = self._val_error(dense)
        chosen, selection = self._select(dense, layers, dense_val)
        return distributed.on_writer(
            lambda: self._finish(origin, dense, dense_val, dense_history, layers, chosen, selection)
        )

    def _select(
        self, dense: nn.Module, layers: list[CompressibleLayer], dense_val: float
    ) -> tuple[_Attempt, dict[str, Any]]:
        """Search and fine-tuning with the lambda that is chosen, and the report's words on the choice."""
        tried = []

        def attempt(number: int, lambda_: float) -> _Attempt:
            result = self._attempt(number, lambda_, dense, layers)
            tried.append({"lambda": lambda_, "val_error": result.val_error})
            return result

        accepted = self.experiment.selection.accepted(dense_val, self.data.measured("val"))
        chosen = select(attempt, self.experiment.lambdas, accepted)
        return chosen, {"lambda": chosen.lambda_, "accepted": accepted, "tried": tried}

    def _attempt(self, number: int, lambda_: float, dense: nn.Module, layers: list[CompressibleLayer]) -> _Attempt:
        """Search and fine-tuning with one lambda; each number has files of its own."""
        settings, evaluations = self._timed(
            "search", lambda: distributed.on_writer(lambda: self._search(number, lambda_, dense, layers))
        )
        model = copy.deepcopy(dense)
        trained = self._timed("train", lambda: self._train(number, lambda_, model, settings, dense))
        return _Attempt(lambda_, settings, evaluations, model, trained, self._val_error(model))

    def _finish(
        self,
        origin: dict[str, Any],
        dense: nn.Module,
        dense_val: float,
        dense_history: History,
        layers: list[CompressibleLayer],
        chosen: _Attempt,
        selection: dict[str, Any],
    ) -> dict[str, Any]:
        """What comes after the training: the file, its error, the report."""
        settings, trained = chosen.settings, chosen.trained
        encoded = self._timed("encode", lambda: self._encode(trained.net))
        decoded = self._timed("decode", self._decode)
        errors = self._timed("test", lambda: self._test_errors(dense, chosen.model, decoded))
        report = {
            "format": 1,
            "provenance": {**origin, "seconds": round(time.monotonic() - self._started, 1)},
            "experiment": self.experiment.name,
            "config": asdict(self.experiment),
            "network": {"name": self.experiment.network.name, "parameters": sum(p.numel() for p in dense.parameters())},
            "data": {
                "name": self.data.name, "sha256": self.data.sha256, "train": self.data.size("train"),
                "val": self.data.measured("val"), "test": self.data.measured("test"),
                "left_out": {"val": self.data.left_out("val"), "test": self.data.left_out("test")},
            },
            "error": {"dense_val": dense_val, "compressed_val": chosen.val_error, **errors},
            "size": sizes(encoded, dense, self.files.clipq.stat().st_size),
            "layers": layer_table(encoded, trained.net, settings),
            "selection": selection,
            "search": [as_record(e) for e in chosen.evaluations],
            "history": {"dense": asdict(dense_history), "train": asdict(trained.history)},
            "histograms": histograms(layers, trained, settings, self.experiment.conventions),
            "seconds": {stage: round(s, 2) for stage, s in self._seconds.items()},
        }  # fmt: skip
        write_text(self.files.report, json.dumps(report, indent=1))
        write_report_page(report, self.files.folder)
        return report

    # Stages

    def _dense(self) -> tuple[nn.Module, History]:
        """The dense network: from the given weights, or trained."""
        model = self._fresh_network()
        if self.experiment.network.weights:
            load_weights(model, self.experiment.network.weights)
            weights = ((layer.name, layer.weight) for layer in self._layers(model))
            warn_of_ties(weights, self.experiment.conventions)
            return deployed(model).to(self.device), History()
        model.to(self.device)
        history = self._fit(model, self.experiment.dense, "dense", self.files.dense, self._depends_on("dense"))
        return deployed(model), history

    def _search(
        self, number: int, lambda_: float, dense: nn.Module, layers: list[CompressibleLayer]
    ) -> tuple[dict[str, LayerSetting], list[Evaluation]]:
        config, seed = replace(self.experiment.search, lambda_=lambda_), self.experiment.run.seed
        given = given_settings(layers, config)
        if given is not None:
            return given, []
        x, y = self.data.subset(config.subset, seed, self.experiment.run.workers)
        size = self.data.evaluation_batch
        subset = [(a.to(self.device), b.to(self.device)) for a, b in zip(x.split(size), y.split(size), strict=True)]
        bar = SearchBar(n_evaluations(config) * len(layers)) if self._show else None
        with closing(bar) if bar else nullcontext():
            return search(
                dense,
                layers,
                SubsetError(subset),
                config,
                conventions=self.experiment.conventions,
                seed=seed,
                log=SearchLogFile(self.files.attempt(number).search, self._depends_on("search", number, lambda_)),
                on_evaluation=lambda evaluation: self._evaluated(evaluation, bar),
            )

    def _evaluated(self, evaluation: Evaluation, bar: Callable[[Evaluation], None] | None) -> None:
        if bar:
            bar(evaluation)
        if self._asked_to_stop():
            layer = evaluation.layer.removesuffix(".weight")
            raise Interrupted(f"the search stopped after evaluation {evaluation.number} of layer {layer}")

    def _train(
        self, number: int, lambda_: float, model: nn.Module, settings: dict[str, LayerSetting], dense: nn.Module
    ) -> WsTrainResult:
        layers = self._layers(model)
        title = f"CLIP-Q, lambda = {lambda_:g}" if len(self.experiment.lambdas) > 1 else "CLIP-Q"
        trained: WsTrainResult = self._fit(
            model, self.experiment.train, title, self.files.attempt(number).train,
            self._depends_on("fine-tuning", number, lambda_, settings),
            lambda *args, **options: ws_train(
                args[0], layers, settings, args[1], args[2],
                conventions=self.experiment.conventions, schedule=self.experiment.schedule,
                objective=self.experiment.objective(dense), **options,
            ),
        )  # fmt: skip
        net, encode = trained.net, self.experiment.encode
        if encode.dead_units == "fold":
            net = fold_dead_units(model, net)
        if encode.tensors != "as_trained":
            net = net.rounded(encode.tensors)
        if net is not trained.net:
            model.load_state_dict(net.state_dict())
        return replace(trained, net=net)

    def _fit(
        self,
        model: nn.Module,
        config: TrainConfig,
        title: str,
        path: Path,
        depends_on: dict[str, str],
        trainer: Callable[..., Any] = fit,
    ) -> Any:
        seed = self.experiment.run.seed
        with closing(ProgressBars(title) if self._show else NoProgress()) as progress:
            return trainer(
                model,
                lambda epoch: self._batches("train", config.batch_size, train=True, seed=seed, epoch=epoch),
                config,
                validate=self._val_error,
                seed=seed,
                amp=self.experiment.run.amp,
                checkpoints=CheckpointFile(path, depends_on, self._checkpoint_every),
                progress=progress,
                stop=self._asked_to_stop,
            )

    def _val_error(self, model: nn.Module) -> float:
        """On the held-out images, measured by all processes together."""
        return top1_error(model, self._batches("val", self.data.evaluation_batch), shared=True)

    def _encode(self, net: QuantizedNet) -> EncodedNet:
        encoded = encode_sparse_quantized_net_v2(net, self.experiment.encode.coder, self.experiment.conventions)
        write_verified(net, encoded, self.files.clipq)
        write_mat(net, self.files.mat, self.experiment.conventions)
        return encoded

    def _decode(self) -> nn.Module:
        """A fresh network with the weights of the file."""
        model = deployed(self._fresh_network())
        model.load_state_dict(decode_sparse_quantized_net_v2(self.files.clipq).state_dict())
        return model.to(self.device)

    def _test_errors(self, dense: nn.Module, model: nn.Module, decoded: nn.Module) -> dict[str, float]:
        networks = {"dense_test": dense, "compressed_test": model, "decoded_test": decoded}
        return {
            name: top1_error(network, self._batches("test", self.data.evaluation_batch))
            for name, network in networks.items()
        }

    # What the stages need

    def _fresh_network(self) -> nn.Module:
        seed_everything(self.experiment.run.seed)
        return build_network(
            self.experiment.network.name, n_classes=self.data.n_classes, input_shape=self.data.input_shape
        )

    def _layers(self, network: nn.Module) -> list[CompressibleLayer]:
        return compressible_layers(network, self.experiment.layers.include, self.experiment.layers.exclude)

    def _check_layers(self) -> None:
        """Refuses names of layers that the network does not have before hours have gone into it."""
        layers = self._layers(deployed(self._fresh_network()))
        if self.experiment.search.mode == "given":
            given_settings(layers, self.experiment.search)

    def _batches(self, split: Split, batch_size: int, **options: Any) -> Iterable[Any]:
        return self.data.loader(split, batch_size, workers=self.experiment.run.workers, **options)

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return work()
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - started

    def _check_pictures(self) -> None:
        """Of a new run; one that has begun may go on with ``skip_corrupt``."""
        if not self.files.config.exists():
            self.data.check(self.experiment.run.workers)

    def _check_folder(self) -> None:
        """Refuses a folder that holds a run, unless it is this one and to be resumed."""
        if not self.files.config.exists():
            return
        if not self._resume:
            raise ExperimentError(f"{self.files.folder}: holds a run already; continue it with --resume")
        if not load_experiment(self.files.config).may_go_on_as(self.experiment):
            raise CheckpointError(
                f"{self.files.config}: the run was started with another configuration than the one given now; "
                "resume it without options, or start another run"
            )

    def _claim_folder(self, held: ExitStack) -> None:
        """Makes the folder this process's own for as long as ``held`` is open, and its configuration this run's."""
        config, text = self.files.config, self.experiment.to_toml()
        self.files.folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(sole_process(self.files.folder))
        self._check_folder()
        remove_leftovers(self.files.folder)
        if not config.exists() or config.read_text(encoding="utf-8") != text:
            write_text(config, text)

    def _depends_on(
        self,
        stage: str,
        attempt: int | None = None,
        lambda_: float | None = None,
        settings: dict[str, LayerSetting] | None = None,
    ) -> dict[str, str]:
        """What determines a stage's result: the run, and what is the stage's own."""
        own: dict[str, object] = {"stage": stage, "attempt": attempt, "lambda": lambda_}
        own["choice of p and b"] = settings and {name: (theta.p, theta.b) for name, theta in settings.items()}
        return {**self._fingerprint, **{name: repr(value) for name, value in own.items() if value is not None}}

    def _make_fingerprint(self) -> dict[str, str]:
        """What determines the run's result, on the same machine; the same for all processes.

        Hashes, and numbers as they are.
        """
        parts = {
            "configuration": hashlib.sha256(self.experiment.strict.to_toml().encode()).hexdigest(),
            "data set": self.data.sha256,
        }
        images = self.experiment.data.images
        files = {
            "file of starting weights": self.experiment.network.weights,
            "mean image": images.mean_file if images else "",
        }
        for name, path in files.items():
            if path:
                with open(path, "rb") as file:
                    parts[name] = hashlib.file_digest(file, "sha256").hexdigest()
        for name, value in parts.items():
            distributed.check_same(f"sha256 of the {name}", value)
        return {**parts, **self._order_of_sums()}

    def _order_of_sums(self) -> dict[str, str]:
        """What rounds the sums of a step in one way or another: processes, and threads that the configuration leaves
        open."""
        parts = {"number of processes": str(distributed.world_size())}
        if self.device.type == "cpu" and not self.experiment.run.threads:
            threads = dict.fromkeys(distributed.gathered(torch.get_num_threads()))
            parts["number of threads as OMP_NUM_THREADS sets it"] = " and ".join(map(str, threads))
        return parts
