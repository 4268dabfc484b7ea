"""A run of an experiment, from the dense network to the error of the decoded file.

    data, dense network -> search -> ws_train -> encode -> file -> decode into a fresh network -> report

Every stage keeps its state in the run's folder, so that a killed run goes on where it was.  The test images are read
at the end only: every choice before is made on training and validation images.

Several processes (``clipq.distributed``) train together; the search, and all that comes after the training, is done by
one of them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clipq import distributed
from clipq.atomic_file import remove_leftovers, write_text
from clipq.checkpoint import CheckpointFile
from clipq.data import Dataset, Split, load_dataset
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.device import find_device
from clipq.distillation import distilled
from clipq.encode_sparse_quantized_net_v2 import EncodedNet, encode_sparse_quantized_net_v2, write_clipq
from clipq.errors import CheckpointError, ExperimentError, Interrupted
from clipq.experiment import Experiment
from clipq.interruption import stop_requests
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.matlab_net import write_mat
from clipq.networks import build_network, deployed
from clipq.pretrained import load_weights
from clipq.progress import NoProgress, ProgressBars, SearchBar
from clipq.provenance import provenance
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.report import write_report_page
from clipq.search import Evaluation, as_record, n_evaluations, search
from clipq.search_log import SearchLogFile
from clipq.subset_error import SubsetError
from clipq.train_config import TrainConfig
from clipq.train_state import History, seed_everything
from clipq.training import Objective, cross_entropy, fit, top1_error
from clipq.ws_learn_one_layer import ws_learn_one_layer
from clipq.ws_train import WsTrainResult, ws_train

_HISTOGRAM_BINS = 120


@dataclass(frozen=True)
class RunFiles:
    """The names in a run's folder."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        names = {
            "config": "config.toml", "dense": "dense.ckpt", "search": "search.jsonl", "train": "train.ckpt",
            "clipq": "net.clipq", "mat": "net.mat", "report": "report.json", "page": "report.md",
        }  # fmt: skip
        if name not in names:
            raise AttributeError(name)
        return self.folder / names[name]


class Run:
    """One run.  ``folder`` is made, or continued where it holds the same experiment's run.

    show: progress bars, on the process that writes.
    checkpoint_every: seconds between two checkpoints within an epoch.

    Raises:
        CheckpointError: the folder holds a run with another configuration, data set or starting weights.
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
        self._show = show and distributed.is_writer()
        self._checkpoint_every = checkpoint_every
        self._asked_to_stop: Callable[[], bool] = lambda: False
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        if experiment.run.threads:
            torch.set_num_threads(experiment.run.threads)
        self.device = find_device(experiment.run.device)
        self.data: Dataset = distributed.writer_first(
            lambda: load_dataset(experiment.data.dataset, experiment.data.data_dir or None, experiment.data.images)
        )
        distributed.on_writer(lambda: self._claim_folder(resume))
        self._fingerprint = self._make_fingerprint()

    def __call__(self) -> dict[str, Any]:
        """Runs every stage that is not done yet; the report, which is then also in the folder.

        Raises:
            Interrupted: SIGINT or SIGTERM came while a stage was at work whose state is now saved.
        """
        with stop_requests() as self._asked_to_stop:
            return self._stages()

    def _stages(self) -> dict[str, Any]:
        origin = {**provenance(self.experiment.run.seed), "processes": distributed.world_size()}
        dense, dense_history = self._timed("dense", self._dense)
        layers = compressible_layers(dense, self.experiment.layers.include, self.experiment.layers.exclude)
        settings, evaluations = self._timed(
            "search", lambda: distributed.on_writer(lambda: self._search(dense, layers))
        )
        model = copy.deepcopy(dense)
        trained = self._timed("train", lambda: self._train(model, settings, dense))
        return distributed.on_writer(
            lambda: self._finish(origin, dense, dense_history, layers, settings, evaluations, model, trained)
        )

    def _finish(
        self,
        origin: dict[str, Any],
        dense: nn.Module,
        dense_history: History,
        layers: list[CompressibleLayer],
        settings: dict[str, LayerSetting],
        evaluations: list[Evaluation],
        model: nn.Module,
        trained: WsTrainResult,
    ) -> dict[str, Any]:
        """What comes after the training: the file, its error, the report."""
        encoded = self._timed("encode", lambda: self._encode(trained.net))
        decoded = self._timed("decode", self._decode)
        errors = self._timed("test", lambda: self._errors(dense, model, decoded))
        report = {
            "format": 1,
            "provenance": {**origin, "seconds": round(time.monotonic() - self._started, 1)},
            "experiment": self.experiment.name,
            "config": asdict(self.experiment),
            "network": {"name": self.experiment.network.name, "parameters": sum(p.numel() for p in dense.parameters())},
            "data": {
                "name": self.data.name, "sha256": self.data.sha256,
                **{split: self.data.size(split) for split in ("train", "val", "test")},
            },
            "error": errors,
            "size": self._sizes(encoded, dense),
            "layers": _layer_table(encoded, trained.net, settings),
            "search": [as_record(e) for e in evaluations],
            "history": {"dense": asdict(dense_history), "train": asdict(trained.history)},
            "histograms": self._histograms(layers, trained, settings),
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
            return deployed(model).to(self.device), History()
        model.to(self.device)
        history = self._fit(model, self.experiment.dense, "dense", self.files.dense)
        return deployed(model), history

    def _search(
        self, dense: nn.Module, layers: list[CompressibleLayer]
    ) -> tuple[dict[str, LayerSetting], list[Evaluation]]:
        config, seed = self.experiment.search, self.experiment.run.seed
        x, y = self.data.subset(config.subset, seed, self.experiment.run.workers)
        size = self.data.evaluation_batch
        subset = [(a.to(self.device), b.to(self.device)) for a, b in zip(x.split(size), y.split(size), strict=True)]
        bar = SearchBar(n_evaluations(config) * len(layers)) if self._show else None
        settings, evaluations = search(
            dense,
            layers,
            SubsetError(subset),
            config,
            conventions=self.experiment.conventions,
            seed=seed,
            log=SearchLogFile(self.files.search, self._fingerprint),
            on_evaluation=lambda evaluation: self._evaluated(evaluation, bar),
        )
        return settings, evaluations

    def _evaluated(self, evaluation: Evaluation, bar: Callable[[Evaluation], None] | None) -> None:
        if bar:
            bar(evaluation)
        if self._asked_to_stop():
            layer = evaluation.layer.removesuffix(".weight")
            raise Interrupted(f"the search stopped after evaluation {evaluation.number} of layer {layer}")

    def _train(self, model: nn.Module, settings: dict[str, LayerSetting], dense: nn.Module) -> WsTrainResult:
        layers = compressible_layers(model, self.experiment.layers.include, self.experiment.layers.exclude)
        trained: WsTrainResult = self._fit(
            model, self.experiment.train, "CLIP-Q", self.files.train,
            lambda *args, **options: ws_train(
                args[0], layers, settings, args[1], args[2],
                conventions=self.experiment.conventions, schedule=self.experiment.schedule,
                objective=self._objective(dense), **options,
            ),
        )  # fmt: skip
        if self.experiment.encode.tensors == "as_trained":
            return trained
        net = trained.net.rounded(self.experiment.encode.tensors)
        model.load_state_dict(net.state_dict())
        return replace(trained, net=net)

    def _fit(
        self, model: nn.Module, config: TrainConfig, title: str, path: Path, trainer: Callable[..., Any] = fit
    ) -> Any:
        seed = self.experiment.run.seed
        return trainer(
            model,
            lambda epoch: self._batches("train", config.batch_size, train=True, seed=seed, epoch=epoch),
            config,
            validate=lambda m: top1_error(m, self._batches("val", self.data.evaluation_batch), shared=True),
            seed=seed,
            amp=self.experiment.run.amp,
            checkpoints=CheckpointFile(path, self._fingerprint, self._checkpoint_every),
            progress=ProgressBars(title) if self._show else NoProgress(),
            stop=self._asked_to_stop,
        )

    def _objective(self, dense: nn.Module) -> Objective | None:
        """None: the training's usual one."""
        config = self.experiment.distillation
        if not config.weight:
            return None
        return distilled(cross_entropy(self.experiment.train.label_smoothing), dense, config)

    def _encode(self, net: QuantizedNet) -> EncodedNet:
        encoded = encode_sparse_quantized_net_v2(net, self.experiment.encode.coder, self.experiment.conventions)
        write_clipq(encoded, self.files.clipq)
        write_mat(net, self.files.mat, self.experiment.conventions)
        return encoded

    def _decode(self) -> nn.Module:
        """A fresh network with the weights of the file."""
        model = deployed(self._fresh_network())
        model.load_state_dict(decode_sparse_quantized_net_v2(self.files.clipq).state_dict())
        return model.to(self.device)

    def _errors(self, dense: nn.Module, model: nn.Module, decoded: nn.Module) -> dict[str, float]:
        def error(network: nn.Module, split: Split) -> float:
            return top1_error(network, self._batches(split, self.data.evaluation_batch))

        return {
            "dense_val": error(dense, "val"),
            "compressed_val": error(model, "val"),
            "dense_test": error(dense, "test"),
            "compressed_test": error(model, "test"),
            "decoded_test": error(decoded, "test"),
        }

    # What the stages need

    def _fresh_network(self) -> nn.Module:
        seed_everything(self.experiment.run.seed)
        return build_network(
            self.experiment.network.name, n_classes=self.data.n_classes, input_shape=self.data.input_shape
        )

    def _batches(self, split: Split, batch_size: int, **options: Any) -> Iterable[Any]:
        return self.data.loader(split, batch_size, workers=self.experiment.run.workers, **options)

    def _timed(self, stage: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            return work()
        finally:
            self._seconds[stage] = time.monotonic() - started

    def _claim_folder(self, resume: bool) -> None:
        text = self.experiment.to_toml()
        if self.files.config.exists():
            if not resume:
                raise ExperimentError(f"{self.files.folder}: holds a run already; continue it with --resume")
            if self.files.config.read_text(encoding="utf-8") != text:
                raise CheckpointError(
                    f"{self.files.config}: the run was started with another configuration than the one given now; "
                    "resume it without options, or start another run"
                )
            remove_leftovers(self.files.folder)
            return
        self.files.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.files.config, text)

    def _make_fingerprint(self) -> dict[str, str]:
        """What determines the run's result, on the same machine; the same for all processes."""
        parts = {
            "configuration": hashlib.sha256(self.experiment.to_toml().encode()).hexdigest(),
            "data set": self.data.sha256,
        }
        if weights := self.experiment.network.weights:
            with open(weights, "rb") as file:
                parts["file of starting weights"] = hashlib.file_digest(file, "sha256").hexdigest()
        for name, value in parts.items():
            distributed.check_same(f"sha256 of the {name}", value)
        return parts

    # The report's parts

    def _sizes(self, encoded: EncodedNet, dense: nn.Module) -> dict[str, Any]:
        """Bytes of the file on disk and of its sections, beside those of the dense network's state dict."""
        on_disk = self.files.clipq.stat().st_size
        dense_bytes = sum(t.numel() * t.element_size() for t in dense.state_dict().values())
        sections: dict[str, int] = {}
        for section, _, size in encoded.sizes():
            sections[section] = sections.get(section, 0) + size
        return {"file": on_disk, "dense": dense_bytes, "ratio": dense_bytes / on_disk, "sections": sections}

    def _histograms(
        self, layers: list[CompressibleLayer], trained: WsTrainResult, settings: dict[str, LayerSetting]
    ) -> list[dict[str, Any]]:
        """Of each layer's full-precision weights before and after fine-tuning, with clips and levels."""
        return [
            {
                "layer": layer.name,
                "before": _histogram(layer.weight.detach(), settings[layer.name], self.experiment),
                "after": _histogram(trained.full_precision[layer.name], settings[layer.name], self.experiment),
            }
            for layer in layers
        ]


def _histogram(weights: torch.Tensor, setting: LayerSetting, experiment: Experiment) -> dict[str, Any]:
    learned = ws_learn_one_layer(weights, setting.p, setting.b, experiment.conventions)
    counts, edges = np.histogram(weights.float().cpu().numpy(), bins=_HISTOGRAM_BINS)
    return {
        "low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist(),
        "c_neg": learned.c_neg, "c_pos": learned.c_pos,
        "levels": learned.levels.tolist(), "level_counts": learned.counts.tolist(),
    }  # fmt: skip


def _layer_table(encoded: EncodedNet, net: QuantizedNet, settings: dict[str, LayerSetting]) -> list[dict[str, Any]]:
    kept = {layer.name: layer.n_kept for layer in net.layers}
    rows = []
    for layer in encoded.layers:
        n = int(np.prod(layer.shape))
        rows.append(
            {
                "name": layer.name, "shape": list(layer.shape), "weights": n,
                "p": settings[layer.name].p, "b": settings[layer.name].b,
                "kept": kept[layer.name], "coder": layer.coder,
                "index_bits": layer.index_bits, "fillers": layer.n_fillers,
                "bytes": layer.n_bytes, "parts": dict(layer.parts), "ratio": 4 * n / layer.n_bytes,
            }
        )  # fmt: skip
    return rows
