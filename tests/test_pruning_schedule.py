"""The departures from the paper that only the small experiments switch on: a rising pruning rate, rounded biases."""

import pytest
import torch
from torch import nn

from clipq.errors import SettingError
from clipq.experiment import Experiment, load_experiment
from clipq.layers import compressible_layers
from clipq.pruning_schedule import PruningSchedule
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.train_config import TrainConfig
from clipq.ws_train import ws_train


def test_the_paper_has_no_schedule():
    assert all(PruningSchedule().share(t) == 1 for t in (0.0, 0.3, 1.0))
    paper = load_experiment("mnist_lenet5")
    assert paper.schedule == Experiment().schedule and paper.encode == Experiment().encode


def test_the_share_rises_from_its_start_to_one():
    schedule = PruningSchedule(ramp=0.5, start=0.2)
    shares = [schedule.share(t / 100) for t in range(101)]
    assert shares[0] == pytest.approx(0.2) and shares[25] == pytest.approx(0.9) and set(shares[50:]) == {1.0}
    assert shares == sorted(shares)


@pytest.mark.parametrize("option", ["ramp", "start"])
def test_a_share_beyond_one_is_refused(option):
    with pytest.raises(SettingError, match=f"{option}: expected in .0, 1., got 1.5"):
        PruningSchedule(**{option: 1.5})


def test_weights_are_pruned_as_the_schedule_says_and_validated_with_the_final_rate():
    torch.manual_seed(0)
    model = nn.Linear(40, 5)
    layers = compressible_layers(model)
    batches = [(torch.randn(8, 40), torch.arange(8) % 5) for _ in range(10)]
    pruned, validated = [], []

    def objective(network, batch):
        from clipq.training import cross_entropy

        pruned.append(float((network.weight == 0).double().mean()))
        return cross_entropy()(network, batch)

    def validate(network):
        validated.append(float((network.weight == 0).double().mean()))
        return 0.5

    ws_train(
        model, layers, {"weight": LayerSetting(0.8, 3)}, lambda epoch: batches, TrainConfig(epochs=2, lr=0.01),
        schedule=PruningSchedule(ramp=0.5, start=0.5), validate=validate, objective=objective,
    )  # fmt: skip
    expected = [0.8 * PruningSchedule(0.5, 0.5).share(step / 20) for step in range(20)]
    assert pruned == pytest.approx(expected, abs=0.015)
    assert validated == pytest.approx([0.8, 0.8], abs=0.015)


def test_an_epoch_that_ends_on_the_way_up_is_validated_with_the_final_rate():
    model, validated = nn.Linear(40, 5), []
    batches = [(torch.randn(8, 40), torch.arange(8) % 5) for _ in range(3)]

    def validate(network):
        validated.append(float((network.weight == 0).double().mean()))
        return 0.5

    ws_train(
        model, compressible_layers(model), {"weight": LayerSetting(0.8, 3)}, lambda epoch: batches,
        TrainConfig(epochs=2, lr=0.01), schedule=PruningSchedule(ramp=1.0, start=0.0), validate=validate,
    )  # fmt: skip
    assert validated == pytest.approx([0.8, 0.8], abs=0.015)


def test_rounding_keeps_types_and_whole_numbers():
    tensors = {
        "bias": torch.tensor([1.001, -3.14159]), "half": torch.tensor([1.001], dtype=torch.float16),
        "count": torch.tensor([12345]),
    }  # fmt: skip
    rounded = QuantizedNet((), tensors).rounded("bfloat16").tensors
    assert rounded["bias"].dtype == torch.float32 and rounded["bias"].tolist() == [1.0, -3.140625]
    assert torch.equal(rounded["half"], tensors["half"]) and torch.equal(rounded["count"], tensors["count"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, "half"])
def test_rounding_to_an_unknown_type_is_refused(dtype):
    with pytest.raises(SettingError, match=rf"expected one of .*'bfloat16'\], got {dtype!r}"):
        QuantizedNet((), {}).rounded(dtype)


def test_a_number_too_large_to_round_is_refused_with_its_tensor():
    net = QuantizedNet((), {"norm.running_var": torch.tensor([1.0, 7e4]), "odd": torch.tensor([float("inf")])})
    with pytest.raises(SettingError, match=r"norm\.running_var: expected numbers of at most 65504 .* got 1 larger"):
        net.rounded("float16")
    assert torch.isfinite(net.rounded("bfloat16").tensors["norm.running_var"]).all()
