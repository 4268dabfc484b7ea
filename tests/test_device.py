"""The device that an experiment names."""

from unittest import mock

import pytest
import torch

import clipq
from clipq import device
from clipq.device import find_device, repeatable
from clipq.networks import build_network
from clipq.train_config import TrainConfig


def test_a_gpu_needs_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with mock.patch.object(device.torch, "zeros"):
        assert find_device("auto") == find_device("cuda") == torch.device("cuda")


def test_each_of_several_processes_takes_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(device.distributed, "local_rank", lambda: 1)
    with mock.patch.object(device.torch, "zeros"), mock.patch.object(torch.cuda, "set_device") as set_device:
        assert find_device("cuda") == torch.device("cuda:1")
    set_device.assert_called_once_with(torch.device("cuda:1"))


@pytest.mark.parametrize("before", [(True, True), (False, True), (False, False)])
def test_convolutions_are_as_before_in_the_end(monkeypatch: pytest.MonkeyPatch, before: tuple[bool, bool]) -> None:
    for name, value in zip(("deterministic", "benchmark"), before, strict=True):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    with pytest.raises(ZeroDivisionError), repeatable():
        assert _cudnn() == (True, False)
        1 / 0  # noqa: B018
    assert _cudnn() == before


def test_compress_is_repeatable() -> None:
    seen = []

    def metric(model: torch.nn.Module) -> float:
        seen.append(_cudnn())
        return 0.5

    batch = torch.randn(4, 1, 8, 8), torch.arange(4)
    clipq.compress(build_network("digits_net"), [batch], metric, settings={"*": (0.5, 2)}, train=TrainConfig(epochs=1))
    assert set(seen) == {(True, False)} and _cudnn() == (False, False)


def _cudnn() -> tuple[bool, bool]:
    return torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
