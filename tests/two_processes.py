"""What ``test_distributed.py`` starts with torchrun: each scenario's outcome goes to ``<folder>/<rank>.pt``.

Its functions are also called by one process alone, for comparison.
"""

import copy
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

import clipq
from clipq import distributed
from clipq.data.dataset import TensorBatches, TensorPair
from clipq.errors import Interrupted, ModelError
from clipq.experiment import load_experiment
from clipq.layers import compressible_layers
from clipq.quantized_net import LayerSetting
from clipq.run import Run
from clipq.train_config import TrainConfig
from clipq.training import StepLoss, cross_entropy, fit, top1_error
from clipq.weight_sharing import WeightSharing
from clipq.ws_train import ws_train

SIZES = [15, 1, 16, 15]  # of an epoch's batches: two processes have 7 and 8 samples, 0 and 1, 8 and 8, 7 and 8
N = sum(SIZES)
CONFIG = TrainConfig(epochs=3, lr=0.05, weight_decay=1e-3)


def samples(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    y = torch.randint(0, 5, (N,), generator=g)
    x = torch.randn(N, 1, 6, 6, generator=g, dtype=torch.float64)
    x[torch.arange(N), 0, y] += 1
    return x.to(dtype), y


class Batches:
    def __init__(self, epoch: int, dtype: torch.dtype) -> None:
        self.x, self.y = samples(dtype)
        self.order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch)).split(SIZES)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((self.x[rows], self.y[rows]) for rows in self.order)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(distributed.rank())  # processes start differently: the writer's weights are sent to the others
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).to(dtype)


def restless_network() -> nn.Sequential:
    """With statistics of its own and numbers drawn by chance."""
    torch.manual_seed(distributed.rank())
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 5)
    )


def clip_q(dtype: torch.dtype) -> dict[str, Any]:
    """A training with pruning-quantization, and the sha256 of all codes at every step."""
    model = network(dtype)
    layers = compressible_layers(model)
    codes: list[str] = []

    def look(epoch_ends: bool) -> Mapping[str, float]:
        if not epoch_ends:
            shared = [m.codes for m in model.modules() if isinstance(m, WeightSharing)]
            codes.append(hashlib.sha256(b"".join(c.numpy().tobytes() for c in shared)).hexdigest())
        return {}

    result = ws_train(
        model, layers, {layer.name: LayerSetting(0.6, 3) for layer in layers},
        lambda epoch: Batches(epoch, dtype), CONFIG, measure=look, log_every=1,
        validate=lambda m: top1_error(m, Batches(0, dtype), shared=True),
    )  # fmt: skip
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in result.history.epochs]
    return {"codes": codes, "weights": dict(result.full_precision), "net": result.net.state_dict(), "history": history}


class Memory:
    """Checkpoints of the writer."""

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        assert distributed.is_writer()
        return self.state

    def save(self, state: Mapping[str, Any]) -> None:
        assert distributed.is_writer()
        self.state = copy.deepcopy(dict(state))

    def due(self) -> bool:
        return False


class NeverDue(Memory):
    """Due only for the process that does not write."""

    saves = 0

    def save(self, state: Mapping[str, Any]) -> None:
        self.saves += 1

    def due(self) -> bool:
        return not distributed.is_writer()


def saves_of_what_is_never_due() -> int:
    memory = NeverDue()
    restless(checkpoints=memory)
    return memory.saves


def restless(**options: Any) -> dict[str, torch.Tensor]:
    model = restless_network()
    fit(model, lambda epoch: Batches(epoch, torch.float32), CONFIG, seed=1, **options)
    return model.state_dict()


def stopped_and_resumed() -> dict[str, torch.Tensor]:
    """The last process alone is asked to stop, after the sixth step."""
    memory, left = Memory(), iter(range(100))

    def stop() -> bool:
        return next(left) == 5 and not distributed.is_writer()

    try:
        restless(checkpoints=memory, stop=stop)
    except Interrupted:
        return restless(checkpoints=memory)
    raise AssertionError("expected an interruption")


def said(work: Callable[[], Any]) -> str:
    """The error that ``work`` ends with."""
    try:
        work()
    except (Exception, Interrupted) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def drifted() -> None:
    def disturb(model: nn.Module) -> float:
        with torch.no_grad():
            next(model.parameters())[0, 0, 0, 0] += 1e-6 * distributed.rank()
        return 0.5

    model = network()
    fit(model, lambda epoch: Batches(epoch, torch.float32), CONFIG, validate=disturb)


def overflowing() -> None:
    """The second linear layer, on the second process only."""

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        x, y = batch
        return cross_entropy()(model, (x * (1e20 if distributed.rank() else 1.0), y))

    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 5))
    for layer in model[1:]:
        nn.init.constant_(layer.weight, 1e10)
    fit(model, lambda epoch: Batches(epoch, torch.float32), CONFIG, objective=objective)


def on_writer(error: BaseException) -> None:
    def work() -> None:
        raise error

    distributed.on_writer(work)


class Parts(TensorBatches):
    """Of which only parts are read; of the last, of one sample, one process has none."""

    def __iter__(self) -> Iterator[TensorPair]:
        raise AssertionError("expected to be asked for a part of each batch")


def validated(batches: type[TensorBatches]) -> float:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    x, y = samples(torch.float32)
    return top1_error(model, batches(TensorPair(x[:22], y[:22]), 7), shared=True)


def from_python(**options: Any) -> dict[str, Any]:
    """A network compressed with a loader that shuffles, and a metric that is another one in each process."""
    seen: list[int] = []

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        x, y, number = batch
        seen.extend(number.tolist())
        return StepLoss(nn.functional.cross_entropy(model(x), y), float("nan"), len(y))

    options = options or {"batch_size": 8, "shuffle": True}
    loader = DataLoader(TensorDataset(*samples(torch.float32), torch.arange(N)), **options)
    torch.manual_seed(distributed.rank())
    metrics = iter([0.3, 0.1, 0.5] if distributed.is_writer() else [0.1, 0.3, 0.5])
    result = clipq.compress(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), loader, lambda model: next(metrics), objective=objective,
        search=clipq.SearchConfig(evaluations=3), search_metric=lambda model: 0.1 * distributed.rank(), train=CONFIG,
    )  # fmt: skip
    history = [{k: v for k, v in record.items() if k not in ("seconds", "error")} for record in result.history.epochs]
    return {"seen": seen, "net": result.net.state_dict(), "history": history, "eps": result.evaluations[0].eps}


class Spared(nn.Module):
    """One layer is never used, another one in some batches, and then by one process alone."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.at_times, self.never = (nn.Linear(36, 5) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        large = x[:, :1].abs() > 1.5
        return self.used(x) + (self.at_times(x) * large if large.any() else 0)


def spared() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model, batches = Spared(), list(Batches(0, torch.float32))
    clipq.compress(model, batches, None, settings={"*": (0.5, 3)}, train=CONFIG)
    return model.state_dict()


class Noisy(TensorDataset):
    """Each sample is changed by a number that is drawn when it is read."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__(*tensors)
        self.drawn: list[float] = []

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(index)
        self.drawn.append(float(torch.rand(())))
        return x + self.drawn[-1], y


def drawn_by_the_loader() -> tuple[list[float], list[float]]:
    """While the network draws, too, and each process another number of times: what the data set drew, and one draw of
    each process for its network."""
    data, mine = Noisy(*samples(torch.float32)), []

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        mine.append(float(torch.rand(len(batch[1]))[0]))
        return cross_entropy()(model, batch)

    clipq.compress(
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 5)), DataLoader(data, 9, shuffle=True), None,
        objective=objective, settings={"*": (0.5, 3)}, train=CONFIG,
    )  # fmt: skip
    return data.drawn, mine


def run_of_another_seed() -> None:
    options = {"run.seed": str(distributed.rank()), "run.threads": "1", "run.device": "cpu"}
    Run(load_experiment("digits", options), Path("never made"))


def outcome() -> dict[str, Any]:
    x = torch.arange(10.0)
    return {
        "float64": clip_q(torch.float64),
        "float32": clip_q(torch.float32),
        "restless": restless(),
        "resumed": stopped_and_resumed(),
        "saves": saves_of_what_is_never_due(),
        "shares": [
            distributed.share(
                {"x": x[:n], "more": (x[:n, None], 7), "names": [str(i) for i in range(n)], "array": x[:n].numpy()}
            )
            for n in (10, 5, 1)
        ],
        "total": distributed.total([1.0, 2.0 + distributed.rank()]),
        "any": distributed.any_rank(distributed.rank() == 1, False),
        "gathered": distributed.gathered(distributed.rank()),
        "from the writer": distributed.on_writer(lambda: ["rank", distributed.rank()]),
        "validated": validated(Parts),
        "drifted": said(drifted),
        "overflowing": said(overflowing),
        "failing writer": said(lambda: on_writer(ModelError("of the writer"))),
        "stopped writer": said(lambda: on_writer(Interrupted("by a signal"))),
        "from Python": from_python(),
        "spared": spared(),
        "drawn": drawn_by_the_loader(),
        "own samples": said(lambda: from_python(batch_size=8, sampler=DistributedSampler(range(N)))),
        "own batches": said(lambda: from_python(batch_sampler=BatchSampler(DistributedSampler(range(N)), 8, False))),
        "another seed": said(run_of_another_seed),
        "uneven": said(lambda: distributed.share((x, x[:3]))),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.connect()
    torch.save(outcome(), Path(sys.argv[1]) / f"{distributed.rank()}.pt")
