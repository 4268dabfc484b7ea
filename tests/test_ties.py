"""Who compresses a compressed network is told what pruning by magnitude does to it."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import clipq
from clipq.conventions import Conventions
from clipq.quantize_state import quantize_state
from clipq.quantized_net import LayerSetting
from clipq.ties import warn_of_ties
from clipq.train_config import TrainConfig
from clipq.ws_learn_one_layer import ws_learn_one_layer

AS_IT_IS = TrainConfig(epochs=0)


def compressed_once() -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(40, 50)
    clipq.compress(model, [], None, settings={"*": (0.5, 2)}, train=AS_IT_IS)
    return model


def test_a_small_rate_takes_most_of_a_compressed_layer_and_a_warning_says_so() -> None:
    model = compressed_once()
    before = int(model.weight.count_nonzero())
    with pytest.warns(UserWarning, match=r"^weight \(\d\): as few magnitudes as .*clip_ties = first"):
        clipq.compress(model, [], None, settings={"*": (0.03, 2)}, train=AS_IT_IS)
    assert int(model.weight.count_nonzero()) < 0.5 * before


def test_with_the_reading_that_it_names_a_rate_takes_what_it_says_and_nothing_is_said() -> None:
    model = compressed_once()
    before = int(model.weight.count_nonzero())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = Conventions(clip_ties="first")
        clipq.compress(model, [], None, settings={"*": (0.03, 2)}, train=AS_IT_IS, conventions=first)
    assert 0.96 * before < int(model.weight.count_nonzero()) < before


def test_of_many_layers_one_warning_tells():
    layers = {f"{i}.weight": ws_learn_one_layer(torch.randn(40, 50), 0.5, 3).quantized for i in range(7)}
    with pytest.warns(UserWarning, match=r"^0\.weight \(\d\), .*4\.weight \(\d\), 2 more: as few") as seen:
        warn_of_ties(layers.items(), Conventions())
    assert len(seen) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_of_weights_that_were_trained_nothing_is_said(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    state = {"large": torch.randn(400, 500).to(dtype), "small": torch.randn(5, 5).to(dtype), "zero": torch.zeros(9, 9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize_state(state, {name: LayerSetting(0.5, 3) for name in state})


def test_a_file_of_weights_is_looked_at_too(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from clipq.cli import main

    torch.save(compressed_once().state_dict(), tmp_path / "decoded.pt")
    with pytest.warns(UserWarning, match="clip_ties = first"):
        assert (
            main(["encode", str(tmp_path / "decoded.pt"), str(tmp_path / "net.clipq"), "--p", "0.1", "--b", "2"]) == 0
        )
    assert "weight" in capsys.readouterr().out
