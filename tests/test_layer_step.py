"""A layer learned in one compiled call: every bit is that of the general way, and whatever is not is noticed."""

import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipq.conventions import Conventions
from clipq.errors import WeightError
from clipq.learning import layer_step
from clipq.learning.host_weights import Near
from clipq.learning.layer_step import learns_the_same
from clipq.quantized_net import LayerSetting
from clipq.ws_learn_one_layer import _learn_on_host, ws_learn_one_layer

P09 = LayerSetting(0.9, 4)


@cache
def compiled_step():
    return pytest.importorskip("clipq.learning.compiled_layer", exc_type=ImportError).learn_layer


def assert_same(one, other):
    for field in ("quantized", "levels", "counts"):
        assert np.asarray(getattr(one, field)).tobytes() == np.asarray(getattr(other, field)).tobytes(), field
    assert one.find_codes().equal(other.find_codes())
    assert (one.neg, one.pos) == (other.neg, other.pos)


def random_weights(seed, n, power, digits, double=False):
    """Of short or long tails, and with ties."""
    x = np.random.default_rng(seed).standard_normal(n)
    return (np.sign(x) * np.abs(x) ** power).round(digits).astype(np.float64 if double else np.float32)


@settings(max_examples=300)
@given(
    seed=st.integers(0, 1 << 16),
    n=st.integers(1, 3000) | st.integers(2040, 2060) | st.integers(3000, 40_000),
    power=st.sampled_from([0.3, 1.0, 4.0]),
    digits=st.sampled_from([1, 3, 12]),
    double=st.booleans(),
    p=st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]) | st.floats(0, 1),
    b=st.integers(2, 8),
    moved=st.sampled_from([0.0, 1e-5, 1e-3, 0.3]),
    sign=st.sampled_from([-1, 0, 1]),
)
def test_a_step_is_the_general_way_s(seed, n, power, digits, double, p, b, moved, sign):
    """After weights have moved a little, or far; of both signs, or of one."""
    step, theta = compiled_step(), LayerSetting(p, b)
    W = random_weights(seed, n, power, digits, double)
    W = W if sign == 0 else sign * np.abs(W)
    near = _learn_on_host(torch.from_numpy(W), theta).near
    for _ in range(2):
        W = W + (moved * random_weights(seed + 1, n, 1.0, digits)).astype(W.dtype)
        expected = _learn_on_host(torch.from_numpy(W), theta)
        found = step(torch.from_numpy(W), theta, near)
        if found is not None:
            assert_same(found, expected)
        near = (found or expected).near


@settings(max_examples=200)
@given(
    seed=st.integers(0, 1 << 16),
    n=st.integers(1, 9000),
    clips=st.tuples(st.floats(0, 9), st.floats(0, 9)),
    share=st.floats(0, 1),
    bad=st.sampled_from([None, np.nan, np.inf, -np.inf]),
)
def test_whatever_it_is_told_and_given(seed, n, clips, share, bad):
    """Clips and positions of other weights; NaN and Inf are left to the general way, which names them."""
    step, random = compiled_step(), np.random.default_rng(seed)
    W = random_weights(seed, n, 1.0, 12)
    known = np.flatnonzero(random.random(n + 9) < share)
    if bad is not None:
        W[random.integers(n)] = bad
    found = step(torch.from_numpy(W), P09, Near(-clips[0], clips[1], (known if share < 0.99 else None,)))
    if bad is not None:
        assert found is None
        with pytest.raises(WeightError, match="got 1 of"):
            ws_learn_one_layer(W, 0.9, 4, near=Near(-clips[0], clips[1], (known,)))
    elif found is not None:
        assert_same(found, _learn_on_host(torch.from_numpy(W), P09))


@pytest.mark.parametrize("n", [60, 3000, 30_000, 235_200])
@pytest.mark.parametrize("p", [0.0, 0.5, 0.9])
def test_it_knows_its_way_while_weights_move_as_in_training(n, p):
    step, theta = compiled_step(), LayerSetting(p, 4)
    random = torch.Generator().manual_seed(0)
    W = torch.randn(n, generator=random)
    near = _learn_on_host(W, theta).near
    for _ in range(20):
        W += 1e-4 * torch.randn(n, generator=random)
        found = step(W, theta, near)
        assert found is not None
        near = found.near


def test_candidates_become_fewer_with_the_weights_that_are_kept():
    """A rate that rises, as along a schedule, leaves no more of them behind than a step has to look at."""
    step, W = compiled_step(), torch.randn(60_000, generator=torch.Generator().manual_seed(0))
    near = _learn_on_host(W, LayerSetting(0.6, 4), near=_learn_on_host(W, LayerSetting(0.6, 4)).near).near
    for p in np.linspace(0.6, 0.97, 300):
        found = step(W, LayerSetting(p, 4), near)
        near = (found or _learn_on_host(W, LayerSetting(p, 4), near=near)).near
    assert 0.03 * len(W) <= len(near.where[0]) <= 0.06 * len(W)


def test_positions_of_a_larger_layer_are_not_believed():
    """Of the weights that are kept, each is there, but so are others that do not exist."""
    step, W = compiled_step(), torch.randn(9000, generator=torch.Generator().manual_seed(0))
    expected = _learn_on_host(W, P09, near=_learn_on_host(W, P09).near)
    beyond = np.append(expected.near.where[0], [9000, 10_000])
    assert_same(step(W, P09, expected.near._replace(where=(beyond,))), expected)


def test_a_rate_that_is_an_integer_is_not_compiled_anew():
    compiled = pytest.importorskip("clipq.learning.compiled_layer", exc_type=ImportError)._learn
    W, settings_ = torch.randn(3000), [LayerSetting(p, np.int32(4)) for p in (0.0, 0, 1)]
    for theta in settings_:
        compiled_step()(W, theta, _learn_on_host(W, theta).near)
    kinds = {str(signature[1:3]) for signature in compiled.signatures}
    assert kinds == {"(float64, int64)"}


def test_other_layers_take_the_general_way():
    step, W = compiled_step(), torch.randn(300_000)
    several = _learn_on_host(W, P09).near
    assert len(several.where) == 2 and step(W, P09, several) is None
    assert step(torch.empty(0), P09, Near(-1.0, 1.0, (None,))) is None
    for dtype in (torch.float16, torch.bfloat16, torch.int64):
        assert layer_step.layer_step(dtype, _learn_on_host) is None
    assert Conventions(index_bits="deep_compression").learn_by_default
    assert not Conventions(clip_ties="keep").learn_by_default


def one_level_off(W, setting, near):
    found = compiled_step()(W, setting, near)
    found.levels[0] = np.nextafter(found.levels[0], np.float32(1))
    return found


def a_code_off(W, setting, near):
    found = compiled_step()(W, setting, near)
    codes = found.find_codes()
    codes[3] ^= 1
    return found._replace(find_codes=lambda: codes)


def a_clip_off(W, setting, near):
    found = compiled_step()(W, setting, near)
    return found._replace(pos=found.pos._replace(c=np.nextafter(found.pos.c, 1)))


def failing(W, setting, near):
    raise RuntimeError("no compiler")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_proves_itself(dtype):
    assert learns_the_same(compiled_step(), _learn_on_host, dtype)
    assert layer_step.layer_step(dtype, _learn_on_host) is compiled_step()
    for wrong in (one_level_off, a_code_off, a_clip_off):
        assert not learns_the_same(wrong, _learn_on_host, dtype)


@pytest.mark.parametrize(("step", "warning"), [(a_code_off, "other results"), (failing, "no compiler")])
def test_what_fails_is_not_used(step, warning, monkeypatch):
    compiled_step()
    monkeypatch.setitem(sys.modules, "clipq.learning.compiled_layer", SimpleNamespace(learn_layer=step))
    with pytest.warns(UserWarning, match=warning):
        assert layer_step.layer_step.__wrapped__(torch.float32, _learn_on_host) is None


def test_without_numba_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("compiled_layer", "host_kernels"):
        monkeypatch.delitem(sys.modules, f"clipq.learning.{name}", raising=False)
    assert layer_step.layer_step.__wrapped__(torch.float32, _learn_on_host) is None
