"""What a long run shows while it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Follows a training or a search."""

    def steps(self, batches: Iterable[Any], n: int, epoch: int, epochs: int) -> Iterator[Any]: ...
    def show(self, figures: Mapping[str, float]) -> None: ...
    def end_epoch(self, record: Mapping[str, float]) -> None: ...


class NoProgress:
    """Shows nothing."""

    def steps(self, batches: Iterable[Any], n: int, epoch: int, epochs: int) -> Iterator[Any]:
        return iter(batches)

    def show(self, figures: Mapping[str, float]) -> None:
        pass

    def end_epoch(self, record: Mapping[str, float]) -> None:
        pass


class ProgressBars:
    """One bar over all steps of a training, with loss, error, sparsity and bits per weight, and the time left."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def steps(self, batches: Iterable[Any], n: int, epoch: int, epochs: int) -> Iterator[Any]:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=n * epochs, initial=n * epoch, desc=self._title, mininterval=0.5, leave=True)
        self._bar.set_description(f"{self._title} {epoch + 1}/{epochs}")
        for batch in batches:
            yield batch
            self._bar.update()
        if epoch + 1 == epochs:
            self._bar.close()

    def show(self, figures: Mapping[str, float]) -> None:
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)

    def end_epoch(self, record: Mapping[str, float]) -> None:
        self.show({k: v for k, v in record.items() if k not in ("epoch", "seconds")})
