"""Distillation: off by default, the loss as its formula has it, and the teacher left alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from clipq.distillation import DistillationConfig, distilled
from clipq.errors import SettingError
from clipq.experiment import load_experiment
from clipq.training import cross_entropy


def test_the_paper_has_none():
    assert load_experiment("mnist_lenet5").distillation.weight == 0


def test_the_loss_is_a_mean_of_labels_and_teacher():
    torch.manual_seed(0)
    teacher, student = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), nn.Linear(6, 4)
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    before = teacher[0].weight.clone()
    result = distilled(cross_entropy(), teacher, DistillationConfig(0.75, 3.0))(student, (x, y))
    p, q = (torch.softmax(module(x) / 3, 1) for module in (teacher[0], student))
    expected = 0.25 * functional.cross_entropy(student(x), y) + 0.75 * 9 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(result.loss, expected)
    assert result.n == 5 and int(result.n_wrong) == int((student(x).argmax(1) != y).sum())
    result.loss.backward()
    assert teacher[0].weight.grad is None and torch.equal(teacher[0].weight, before)
    assert student.weight.grad is not None and not student._forward_hooks


def test_a_network_that_agrees_with_its_teacher_has_nothing_to_learn_from_it():
    network = nn.Linear(3, 2)
    result = distilled(cross_entropy(), network, DistillationConfig(1.0))(
        network, (torch.randn(4, 3), torch.zeros(4).long())
    )
    assert float(result.loss.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("weight", "temperature"), [(1.5, 2.0), (-0.1, 2.0), (0.5, 0.0)])
def test_options_out_of_range_are_refused(weight, temperature):
    with pytest.raises(SettingError, match=r"distillation (weight|temperature): expected"):
        DistillationConfig(weight, temperature)
