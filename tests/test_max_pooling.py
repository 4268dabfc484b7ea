"""Max pooling by views gives what PyTorch's gives, and takes its place in traced networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional

from clipq.max_pooling import max_pool2d, pool_by_views

SIDE = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 1), st.integers(1, 2))


@given(
    rows=SIDE,
    columns=SIDE,
    size=st.tuples(st.integers(7, 12), st.integers(7, 12)),
    ceil=st.booleans(),
    last=st.booleans(),
)
def test_any_window_gives_the_same_maxima(rows, columns, size, ceil, last):
    kernel, stride, padding, dilation = zip(rows, columns, strict=True)
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    x = torch.randn(2, 3, *size).round(decimals=1)
    x[torch.rand_like(x) < 0.05] = float("nan")
    if last:
        x = x.to(memory_format=torch.channels_last)
    expected = functional.max_pool2d(x, kernel, stride, padding, dilation, ceil)
    got = max_pool2d(x, kernel, stride, padding, dilation, ceil)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


class Pools(nn.Module):
    """Every way to pool: modules (one with a hook, one that gives places) and functions."""

    def __init__(self):
        super().__init__()
        self.plain, self.overlapping = nn.MaxPool2d(2), nn.MaxPool2d((3, 2), stride=[1, 2], ceil_mode=True)
        self.hooked, self.places = nn.MaxPool2d(1), nn.MaxPool2d(2, return_indices=True)
        self.hooked.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x):
        x = functional.max_pool2d(self.overlapping(self.plain(x)), kernel_size=2, stride=1)
        return functional.max_pool2d(self.places(self.hooked(x))[0], 2)


def test_the_traced_network_gives_the_same():
    x = torch.randn(4, 2, 33, 29)
    model = Pools()
    expected = model(x)
    traced = fx.symbolic_trace(model)
    pool_by_views(traced)
    targets = [node.target for node in traced.graph.nodes]
    assert targets.count(max_pool2d) == 4
    assert [t for t in targets if isinstance(t, str)][1:-1] == ["hooked", "places"]
    assert torch.equal(traced(x), expected)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("size", [(3, 1), (1, 3)])
def test_a_window_larger_than_the_image_is_refused_as_pytorch_does(size):
    with pytest.raises(RuntimeError, match="too small"):
        max_pool2d(torch.zeros(1, 1, *size), 2)
