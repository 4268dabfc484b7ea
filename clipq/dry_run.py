"""A dry run of an experiment: one real step of everything, on made images of the right shape, without the data set.

It shows that network, starting weights, settings and memory are what they should be before a long run starts, and how
long that would take: training steps, evaluations of the search, the file, and the file decoded and compared bit for
bit.  Nothing is kept but the file, which has all units and tensors as they were trained (``[encode]``).
"""

from __future__ import annotations

import copy
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipq.atomic_file import write_bytes
from clipq.data.made import DataShape, data_shape, made_dataset
from clipq.decode_sparse_quantized_net_v2 import decode_sparse_quantized_net_v2
from clipq.device import find_device, repeatable
from clipq.encode_sparse_quantized_net_v2 import EncodedNet, encode_sparse_quantized_net_v2
from clipq.errors import ExperimentError
from clipq.experiment import Experiment
from clipq.layers import CompressibleLayer, compressible_layers
from clipq.networks import build_network, deployed
from clipq.pretrained import load_weights
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.search import n_evaluations, search
from clipq.subset_error import SubsetError
from clipq.tensor_bytes import tensor_to_bytes
from clipq.train_config import TrainConfig
from clipq.training import fit
from clipq.weight_sharing import quantized_net
from clipq.ws_train import ws_train

#: Steps of each training: at least two, as the first one also prepares what the others find done, and more of them
#: while they take less than so many seconds.
MAX_STEPS, SECONDS = 20, 2.0
#: Made labels have nothing to teach; the cost of a step does not depend on its size.
LEARNING_RATE = 1e-12


@dataclass(frozen=True)
class Stage:
    """A stage of the run that would follow.

    step_seconds: measured; of a training step, or of an evaluation of ``images`` images.
    steps: of an epoch, or evaluations of the search.
    seconds: that all of it takes; of the search without the choice of the next (p, b), and as if every layer took as
        long as the first, where later ones need only the part of the network behind them.
    """

    name: str
    images: int
    step_seconds: float
    steps: int
    epochs: int
    seconds: float


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a dry run found.

    settings: layer name -> (p, b) of the file.  net, encoded: what is in the file.  n_bytes: the file's size.
    memory: what it is of -> bytes at the peak.
    """

    device: torch.device
    shape: DataShape
    parameters: int
    settings: dict[str, LayerSetting]
    net: QuantizedNet
    encoded: EncodedNet
    n_bytes: int
    stages: tuple[Stage, ...]
    memory: dict[str, int]


@repeatable()
def dry_run(experiment: Experiment, path: Path, on_stage: Callable[[str], None] = lambda name: None) -> DryRun:
    """Runs one real step of everything, and writes the compressed network to ``path``.

    on_stage: is told the name of each stage as it begins.

    The file holds the starting weights (initial ones, where none are given), pruned and quantized once with the (p, b)
    of the modes ``given`` and ``uniform``; where they would be searched, with ``search.p`` and ``search.b``.

    Raises:
        ExperimentError: too little memory on a GPU, or a file that does not decode to what was encoded.
        DataError, ModelError: as the run itself.
    """
    if experiment.run.threads:
        torch.set_num_threads(experiment.run.threads)
    device = find_device(experiment.run.device)
    shape = data_shape(experiment.data.dataset, experiment.data.data_dir, experiment.data.images)
    try:
        return _Rehearsal(experiment, device, shape, on_stage).everything(path)
    except torch.cuda.OutOfMemoryError as error:
        raise ExperimentError(
            f"{experiment.name}: {device} has too little memory for batches of {experiment.train.batch_size} images; "
            "give a smaller train.batch_size or dense.batch_size"
        ) from error


class _Rehearsal:
    def __init__(
        self, experiment: Experiment, device: torch.device, shape: DataShape, on_stage: Callable[[str], None]
    ) -> None:
        self.experiment, self.device, self.shape, self._on_stage = experiment, device, shape, on_stage
        n = max(experiment.dense.batch_size, experiment.train.batch_size)
        self.data = made_dataset(shape, n, experiment.data.images, experiment.run.seed)

    def everything(self, path: Path) -> DryRun:
        experiment = self.experiment
        model = self._fresh_network().to(self.device)
        stages = []
        if experiment.network.weights:
            load_weights(model, experiment.network.weights)
        else:
            stages.append(self._training("dense training", model, experiment.dense))
        model = deployed(model)
        layers = compressible_layers(model, experiment.layers.include, experiment.layers.exclude)
        settings = self._settings(model, layers)
        stages.append(self._searching(model, layers))
        stages.append(self._training("fine-tuning with CLIP-Q", model, experiment.train, settings))
        self._on_stage("file")
        net = quantized_net(model, layers, settings, experiment.conventions)
        encoded = encode_sparse_quantized_net_v2(net, experiment.encode.coder, experiment.conventions)
        path.parent.mkdir(parents=True, exist_ok=True)
        n_bytes = write_bytes(path, encoded.to_bytes())
        self._compare(net, path)
        parameters = sum(p.numel() for p in model.parameters())
        return DryRun(
            self.device, self.shape, parameters, settings, net, encoded, n_bytes, tuple(stages), self._memory()
        )

    def _fresh_network(self) -> nn.Module:
        torch.manual_seed(self.experiment.run.seed)
        return build_network(
            self.experiment.network.name, n_classes=self.shape.n_classes, input_shape=self.shape.input_shape
        )

    def _settings(self, model: nn.Module, layers: Sequence[CompressibleLayer]) -> dict[str, LayerSetting]:
        config = self.experiment.search
        if config.mode != "given":
            config = replace(config, mode="uniform")
        settings, _ = search(model, layers, lambda model: 0.0, config, conventions=self.experiment.conventions)
        return settings

    def _searching(self, model: nn.Module, layers: Sequence[CompressibleLayer]) -> Stage:
        """Two evaluations of the first layer, which are those that take longest."""
        self._on_stage(name := "search of p and b")
        config = self.experiment.search
        n = min(config.subset, self.data.evaluation_batch, self.data.size("train"))
        error = SubsetError([tuple(t[:n].to(self.device) for t in self.data.train)])
        mode = config.mode if config.searches else "bayesopt"
        short = replace(config, mode=mode, evaluations=2)
        _, evaluations = search(model, layers[:1], error, short, conventions=self.experiment.conventions)
        seconds, forward = min(e.seconds for e in evaluations), self._seconds_of(error.from_layer(model, layers[0]))
        total = n_evaluations(config) * len(layers) if config.searches else 0
        more_batches = min(config.subset, self.shape.n_train) / n - 1  # quantizing and counting are done once for all
        return Stage(name, n, seconds, total, 1, total * (seconds + more_batches * forward))

    @staticmethod
    def _seconds_of(work: Callable[[], object]) -> float:
        """The shorter of two times."""
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _training(
        self, name: str, model: nn.Module, config: TrainConfig, settings: dict[str, LayerSetting] | None = None
    ) -> Stage:
        """A few steps on a copy of the network: CLIP-Q's, where settings are given."""
        self._on_stage(name)
        model = copy.deepcopy(model)
        size = min(config.batch_size, self.shape.n_train)
        batches = _TimedBatches(self.data.train.x[:size], self.data.train.y[:size], self.device)
        short = replace(config, epochs=1, lr=LEARNING_RATE)
        if settings is None:
            fit(model, lambda epoch: batches, short, amp=self.experiment.run.amp)
        else:
            layers = compressible_layers(model, self.experiment.layers.include, self.experiment.layers.exclude)
            ws_train(
                model, layers, settings, lambda epoch: batches, short,
                conventions=self.experiment.conventions, schedule=self.experiment.schedule,
                objective=self.experiment.objective(copy.deepcopy(model)), amp=self.experiment.run.amp,
            )  # fmt: skip
        steps, seconds = math.ceil(self.shape.n_train / size), statistics.median(batches.seconds[1:])
        return Stage(name, size, seconds, steps, config.epochs, seconds * steps * config.epochs)

    def _compare(self, net: QuantizedNet, path: Path) -> None:
        """The file's weights, in a fresh network, are those that were encoded, in every bit."""
        decoded = deployed(self._fresh_network())
        decoded.load_state_dict(decode_sparse_quantized_net_v2(path).state_dict())
        expected, got = net.state_dict(), decoded.state_dict()
        wrong = [name for name in expected if tensor_to_bytes(expected[name]) != tensor_to_bytes(got[name])]
        if wrong:
            raise ExperimentError(f"{path}: decodes to other weights than were encoded: {', '.join(wrong)}")

    def _memory(self) -> dict[str, int]:
        memory = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self.device.type == "cuda":
            memory[torch.cuda.get_device_name(self.device)] = torch.cuda.max_memory_reserved(self.device)
        return memory


class _TimedBatches:
    """The same batch again and again, and the seconds from one to the next."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, device: torch.device) -> None:
        self._batch, self._device = (x, y), device
        self.seconds: list[float] = []

    def __len__(self) -> int:
        return MAX_STEPS

    def __iter__(self) -> Iterator[Any]:
        while len(self.seconds) < 2 or (len(self.seconds) < MAX_STEPS and sum(self.seconds) < SECONDS):
            started = self._now()
            yield self._batch
            self.seconds.append(self._now() - started)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
