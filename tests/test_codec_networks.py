from pathlib import Path

import numpy as np
import pytest

from clipq.api import load, save
from clipq.quantized_net import QuantizedLayer, QuantizedNet
from clipq.train_config import TrainConfig
from scripts import codec_networks


def test_files_that_are_there_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.array([-1, -0.5, 1], np.float32)
    nets = [QuantizedNet((QuantizedLayer("w", 2, np.full((2, 2), code, np.uint8), levels),)) for code in (1, 3)]
    monkeypatch.setattr(
        codec_networks, "networks", lambda data_dir, runs: {"new": lambda: nets[0], "old": lambda: nets[0]}
    )
    save(nets[1], tmp_path / "old.clipq")
    assert codec_networks.main([str(tmp_path)]) == 0
    assert load(tmp_path / "new.clipq").layers[0].codes.max() == 1
    assert load(tmp_path / "old.clipq").layers[0].codes.min() == 3


def test_lenets_of_digits_keep_what_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_DENSE", "_FINE_TUNING"):
        monkeypatch.setattr(codec_networks, name, TrainConfig(epochs=1, lr=0.05))
    net = codec_networks.of_digits("lenet300100", 0.9, 4)
    assert [layer.codes.shape for layer in net.layers] == [(300, 784), (100, 300), (10, 100)]
    assert all(layer.b == 4 and abs(layer.n_kept / layer.codes.size - 0.1) < 0.002 for layer in net.layers)
    assert len(np.unique(net.layers[0].codes)) == 16  # weights that were trained have levels of both signs, and all
