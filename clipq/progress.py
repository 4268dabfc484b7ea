"""What a long run shows while it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from clipq.search import Evaluation


class Progress(Protocol):
    """Follows a training or a search."""

    def steps(self, batches: Iterable[Any], n: int, epoch: int, epochs: int, first: int) -> Iterator[Any]:
        """Passes on the batches of an epoch of ``n``, from number ``first`` on."""

    def show(self, figures: Mapping[str, float]) -> None: ...
    def end_epoch(self, record: Mapping[str, float]) -> None: ...


class NoProgress:
    """Shows nothing."""

    def steps(self, batches: Iterable[Any], n: int, epoch: int, epochs: int, first: int) -> Iterator[Any]:
        return iter(batches)

    def show(self, figures: Mapping[str, float]) -> None:
        pass

    def end_epoch(self, record: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class ProgressBars:
    """One bar over all steps of a training, with loss, error, sparsity and bits per weight, and the time left."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def steps(self, batches: Iterable[Any], n: int, epoch: int, epochs: int, first: int) -> Iterator[Any]:
        from tqdm import tqdm

        if self._bar is None:
            done = n * epoch + first
            self._bar = tqdm(total=n * epochs, initial=done, desc=self._title, mininterval=0.5, leave=True)
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

    def close(self) -> None:
        """Leaves the bar as it stands, so that what is written next comes below it."""
        if self._bar is not None:
            self._bar.close()


class SearchBar:
    """A bar over all evaluations of a search, with the last one's layer, setting and error.

    total: evaluations that the search asks for.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar: Any = None

    def __call__(self, evaluation: Evaluation) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=self._total, desc="search", mininterval=0.5)
        layer = evaluation.layer.removesuffix(".weight")
        self._bar.set_postfix(
            layer=layer, p=f"{evaluation.p:.2f}", b=evaluation.b, error=f"{evaluation.eps:.4f}", refresh=False
        )
        self._bar.update()
        if self._bar.n == self._total:
            self._bar.close()

    def close(self) -> None:
        """As that of ``ProgressBars``."""
        if self._bar is not None:
            self._bar.close()
