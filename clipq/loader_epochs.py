"""The user's loader as the training wants it: in each epoch other batches, which (seed, epoch) determine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import ChainDataset, ConcatDataset, DistributedSampler, StackDataset, Subset

from clipq import distributed
from clipq.errors import DataError
from clipq.train_state import random_state, seed_everything, set_random_state
from clipq.training import count_batches

_CPU = torch.device("cpu")


def check_loader(loader: Iterable[Any]) -> None:
    """Refuses batches of unknown number, or none; and where several processes share each batch, shares of them.

    Raises:
        DataError: such batches.
    """
    count_batches(loader)
    if distributed.world_size() > 1 and any(isinstance(part, DistributedSampler) for part in _parts(loader)):
        raise DataError(
            "loader: expected the same batches in every process, which share each of them, got a DistributedSampler"
        )


class LoaderEpochs:
    """epoch -> the loader, with the order that (seed, epoch) gives, the same in every process."""

    def __init__(self, loader: Iterable[Any], seed: int) -> None:
        self._loader, self._seed = loader, seed

    def __call__(self, epoch: int) -> Iterable[Any]:
        seed_everything(self._seed, epoch, alike=True)
        for part in _parts(self._loader):
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(epoch)
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(torch.initial_seed())
        if distributed.world_size() == 1:
            return self._loader
        alike = random_state(_CPU)
        seed_everything(self._seed, epoch)
        return _Alike(self._loader, alike)


class _Alike:
    """A loader that draws the same numbers in every process, whatever else is drawn there.

    state: the generators', to begin with.
    """

    def __init__(self, loader: Iterable[Any], state: Mapping[str, Any]) -> None:
        self._loader, self._state = loader, state

    def __len__(self) -> int:
        return count_batches(self._loader)

    def __iter__(self) -> Iterator[Any]:
        state, batches = self._state, None
        while True:
            own = random_state(_CPU)
            set_random_state(state, _CPU)
            try:
                batches = iter(self._loader) if batches is None else batches
                batch = next(batches)
            except StopIteration:
                return
            finally:
                state = random_state(_CPU)
                set_random_state(own, _CPU)
            yield batch


def _parts(loader: Any) -> list[Any]:
    """The loader, its samplers and data set, with those inside them; each once."""
    parts = [loader, getattr(loader, "dataset", None)]
    for part in parts:  # also those that are found meanwhile
        inside = [getattr(part, "sampler", None), getattr(part, "batch_sampler", None), *_data_sets(part)]
        parts += [new for new in inside if new is not None and not any(new is known for known in parts)]
    return parts


def _data_sets(part: Any) -> Iterable[Any]:
    """Those of which one of torch's data sets is made."""
    if isinstance(part, Subset):
        return [part.dataset]
    if isinstance(part, ConcatDataset | ChainDataset | StackDataset):
        return part.datasets.values() if isinstance(part.datasets, Mapping) else part.datasets
    return []
