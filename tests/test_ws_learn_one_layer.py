"""One layer: the paper's Figure 2, a plain reading of docs/method.md, edge cases and properties."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import clipq.ws_learn_one_layer as learning
from clipq.conventions import Conventions
from clipq.errors import SettingError, WeightError
from clipq.learning import host_weights
from clipq.learning.device_weights import learn_on_device
from clipq.learning.host_part import Part
from clipq.quantized_net import LayerSetting, QuantizedLayer
from clipq.ws_learn_one_layer import learn, ws_learn_one_layer

FIGURE_2 = np.array([[0.1, -0.1, 0.7, -0.4], [0.7, -0.5, 0.9, -0.1], [-1.0, -0.6, -1.6, 0.8], [-0.5, 1.1, 0.2, 1.2]])
FIGURE_2_CODES = [[0, 0, 3, 2], [3, 2, 3, 0], [1, 2, 1, 3], [2, 3, 0, 3]]
FIGURE_2_LEVELS = [-1.3, -0.5, 0.9]


def every_convention():
    names = ("clip_scope", "clip_count", "clip_value", "clip_ties", "partition", "edge", "empty_level")
    for values in itertools.product(*(Conventions.options(name) for name in names)):
        choice = dict(zip(names, values, strict=True))
        if choice["clip_value"] != "quantile" or choice["clip_count"] == "round":
            yield Conventions(**choice)


ALL = list(every_convention())


def reproduces_figure_2(c: Conventions) -> bool:
    """Worked out by hand: with the clips at 0.2 and -0.2 (or first kept weights) the figure's edges move.

    c- = 0.4 puts -1.0 on the edge (1.0) of the per-sign split, which ``outer`` and ``lower`` resolve as the figure;
    joined, c+ = 0.7 and c- = 0.4 give edges at -1.033 and -0.467, which split {-0.4, -0.5, ...} -- unless one clip
    serves both signs (0.4, the fifth magnitude), whose edges at -0.933 and -0.267 do not.
    """
    if c.clip_value != "first_kept":
        return True
    if c.partition == "per_sign":
        return c.edge in ("outer", "lower")
    return c.clip_scope == "all_weights"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_figure_2_of_the_paper_by_default(dtype):
    r = ws_learn_one_layer(FIGURE_2.astype(dtype), 0.25, 2)
    assert r.codes.tolist() == FIGURE_2_CODES
    np.testing.assert_array_equal(r.levels, np.float32(FIGURE_2_LEVELS))
    assert (r.c_neg, r.c_pos) == (dtype(-0.1), dtype(0.2))
    np.testing.assert_allclose(r.intervals, [[-1.6, -0.85], [-0.85, -0.1], [0.2, 1.2]], atol=1e-7)
    assert r.quantized.dtype == dtype


def test_figure_2_under_every_convention():
    for c in ALL:
        r = ws_learn_one_layer(FIGURE_2, 0.25, 2, c)
        agrees = r.codes.tolist() == FIGURE_2_CODES and np.array_equal(r.levels, np.float32(FIGURE_2_LEVELS))
        assert agrees == reproduces_figure_2(c), c


def by_hand(W, p, b, c):
    """docs/method.md read plainly, weight by weight, with sorts and loops.  Returns codes, levels."""
    w = [float(v) for v in W.ravel()]
    n_levels = 2**b - 1
    rule = {"ceil": np.ceil, "floor": np.floor, "round": lambda v: np.floor(v) + (v % 1 >= 0.5)}[c.clip_count]

    def clip(indices):
        m = sorted(abs(w[i]) for i in indices)
        n = len(m)
        k = min(n, int(rule(p * n)))
        m = [0.0, *m, m[-1] if m else 0.0]
        here, after = m[k], m[k + 1]
        value = {
            "last_clipped": here, "first_kept": after, "midpoint": (here + after) / 2,
            "quantile": here + (p * n + 0.5 - k) * (after - here) if k else after,
        }[c.clip_value]  # fmt: skip
        if c.clip_value == "quantile" and c.clip_ties != "first":
            return value, {i for i in indices if (abs(w[i]) <= value if c.clip_ties == "prune" else abs(w[i]) < value)}
        if k == 0:
            return value, set()
        if k == n:
            return value, set(indices)
        if here < after or c.clip_ties == "prune":
            return value, {i for i in indices if abs(w[i]) <= here}
        smaller = {i for i in indices if abs(w[i]) < here}
        if c.clip_ties == "keep":
            return value, smaller
        tied = [i for i in indices if abs(w[i]) == here]
        return value, smaller | set(tied[: k - len(smaller)])

    sides = {s: [i for i, v in enumerate(w) if v * s > 0] for s in (-1, 1)}
    e = {s: max((abs(w[i]) for i in sides[s]), default=0.0) for s in sides}
    if c.clip_scope == "all_weights":
        value, pruned = clip(range(len(w)))
        clips = {s: min(value, e[s]) for s in sides}
    else:
        (neg, pruned_neg), (pos, pruned_pos) = clip(sides[-1]), clip(sides[1])
        clips, pruned = {-1: neg, 1: pos}, pruned_neg | pruned_pos
    pruned |= {i for i, v in enumerate(w) if v == 0}

    edges = []  # (sign, magnitude), ascending on the axis
    if c.partition == "per_sign":
        m_neg, m_pos = 2 ** (b - 1), 2 ** (b - 1) - 1
        edges += [(-1, clips[-1] + (e[-1] - clips[-1]) * j / m_neg) for j in range(m_neg - 1, 0, -1)]
        edges += [(0, 0.0)]
        edges += [(1, clips[1] + (e[1] - clips[1]) * j / m_pos) for j in range(1, m_pos)]
    else:
        length_neg = e[-1] - clips[-1]
        length = length_neg + (e[1] - clips[1])
        for j in range(1, n_levels):
            t = length * j / n_levels
            edges.append((-1, e[-1] - t) if t < length_neg else (1, clips[1] + (t - length_neg)))

    def above(v, edge):
        sign, magnitude = edge
        if sign != np.sign(v):
            return v > 0 if sign <= 0 else False
        if abs(v) == magnitude:
            return {"outer": v > 0, "inner": v < 0, "upper": True, "lower": False}[c.edge]
        return v > sign * magnitude

    codes = [0 if i in pruned else 1 + sum(above(v, edge) for edge in edges) for i, v in enumerate(w)]
    members = [[v for v, code in zip(w, codes, strict=True) if code == j] for j in range(1, n_levels + 1)]
    levels = [np.float32(np.sum(m) / len(m)) if m else None for m in members]
    return np.array(codes).reshape(W.shape), levels


@pytest.mark.parametrize("ties", ["prune", "keep"])
def test_a_quantile_that_rounds_to_a_weight_decides_on_it(ties):
    """p n lies just below a half, so that c, between two weights, is rounded to the larger one."""
    w, p = np.sort(np.random.default_rng(0).random(25) + 0.5), 0.58
    c = Conventions(clip_value="quantile", clip_count="round", clip_ties=ties)
    learned = ws_learn_one_layer(w, p, 3, c)
    assert learned.c_pos == w[14]
    assert np.count_nonzero(learned.codes == 0) == (15 if ties == "prune" else 14)


# Few distinct values, so that ties, edges hit exactly and empty intervals are common.
coarse = st.integers(-6, 6).map(lambda v: v / 4)
fine = st.floats(-2, 2, width=32)
layers = hnp.arrays(np.float32, st.integers(0, 40), elements=coarse | fine)
rates = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1)


def assert_is_the_definition(r, W, p, b, c):
    codes, levels = by_hand(W, p, b, c)
    np.testing.assert_array_equal(r.codes, codes)
    for j, level in enumerate(levels):
        if level is not None:
            assert abs(r.levels[j] - level) <= np.spacing(abs(level)) + 1e-15, "sums differ in order only"


@settings(max_examples=400)
@given(W=layers, p=rates, b=st.integers(2, 4), c=st.sampled_from(ALL), double=st.booleans())
def test_agrees_with_the_definition_read_by_hand(W, p, b, c, double):
    W = W.astype(np.float64) if double else W
    r = ws_learn_one_layer(W, p, b, c)
    assert_is_the_definition(r, W, p, b, c)


@settings(max_examples=200)
@given(W=layers, p=rates, b=st.integers(2, 8), c=st.sampled_from(ALL))
def test_properties_of_every_convention(W, p, b, c):
    r = ws_learn_one_layer(W, p, b, c)
    assert len(np.unique(r.quantized)) <= 2**b
    assert (r.quantized[r.codes == 0] == 0).all()
    assert (W[r.codes > 0] != 0).all()
    np.testing.assert_array_equal(r.quantized[r.codes > 0], r.levels[r.codes[r.codes > 0].astype(int) - 1])
    assert r.counts.sum() == np.count_nonzero(r.codes)
    if c.empty_level == "centre":
        assert (np.diff(r.levels) >= -1e-6).all(), "levels ascend (rounding of equal means aside)"
    assert (np.diff(r.intervals[:, 0]) >= 0).all() and (r.intervals[:, 0] <= r.intervals[:, 1]).all()
    for code in np.unique(r.codes[r.codes > 0]):
        members = W[r.codes == code]
        assert r.levels[code - 1] == pytest.approx(members.mean(dtype=np.float64), rel=1e-6, abs=1e-30)
        if c.partition == "joined":  # a side whose kept weights all lie at its clip has no length there
            continue
        low, high = r.intervals[code - 1]
        assert (members >= low - 1e-6).all() and (members <= high + 1e-6).all()
    assert r.c_neg <= 0 <= r.c_pos


@settings(max_examples=100)
@given(W=layers, p=rates, count=st.sampled_from(["ceil", "round", "floor"]))
def test_first_prunes_exactly_the_count_of_each_sign(W, p, count):
    r = ws_learn_one_layer(W, p, 3, Conventions(clip_count=count, clip_ties="first"))
    rule = {"ceil": np.ceil, "floor": np.floor, "round": lambda v: np.floor(v) + (v % 1 >= 0.5)}[count]
    for side in (W > 0, W < 0):
        assert np.count_nonzero(r.codes[side] == 0) == min(side.sum(), rule(p * side.sum()))


@settings(max_examples=100)
@given(W=layers, p=rates)
def test_ties_prune_at_least_and_keep_at_most_the_count(W, p):
    for side in (W > 0, W < 0):
        k = np.ceil(p * side.sum())
        pruned = {
            ties: np.count_nonzero(ws_learn_one_layer(W, p, 2, Conventions(clip_ties=ties)).codes[side] == 0)
            for ties in ("prune", "keep")
        }
        assert pruned["keep"] <= k <= pruned["prune"]


@settings(max_examples=100)
@given(W=layers, p=rates, b=st.integers(2, 5), seed=st.integers(0, 99))
def test_a_permutation_of_the_weights_permutes_the_codes(W, p, b, seed):
    order = np.random.default_rng(seed).permutation(W.size)
    r, permuted = ws_learn_one_layer(W, p, b), ws_learn_one_layer(W[order], p, b)
    np.testing.assert_array_equal(permuted.codes, r.codes[order])
    np.testing.assert_allclose(permuted.levels, r.levels, rtol=1e-6, atol=1e-7)


@settings(max_examples=100)
@given(W=layers, p=rates)
def test_pruning_is_symmetric_in_sign(W, p):
    """Clipping treats the signs alike; the partition does not (2^(b-1) against 2^(b-1) - 1 intervals)."""
    r, mirrored = ws_learn_one_layer(W, p, 3), ws_learn_one_layer(-W, p, 3)
    np.testing.assert_array_equal(r.codes == 0, mirrored.codes == 0)
    assert (r.c_neg, r.c_pos) == (-mirrored.c_pos, -mirrored.c_neg)


@settings(max_examples=100)
@given(W=layers, b=st.integers(2, 4), c=st.sampled_from(ALL))
def test_idempotent_where_nothing_is_clipped_and_levels_are_the_extremes(W, b, c):
    """With one magnitude a sign, p = 0 leaves the layer as it is, so a second application changes nothing.

    A quantile is that magnitude even then, so that it prunes all of them where ties with the clip are pruned.
    """
    once = ws_learn_one_layer(np.sign(W), 0.0, b, c).quantized
    if c.partition == "per_sign":
        all_tied = c.clip_value == "quantile" and c.clip_ties == "prune"
        np.testing.assert_array_equal(once, np.zeros_like(W) if all_tied else np.sign(W))
        np.testing.assert_array_equal(ws_learn_one_layer(once, 0.0, b, c).quantized, once)


def test_no_pruning_and_full_pruning():
    W = np.float32([0.5, -0.25, 0.0, 2.0])
    r = ws_learn_one_layer(W, 0.0, 2)
    assert r.codes.tolist() == [3, 1, 0, 3] and (r.c_neg, r.c_pos) == (0, 0)
    r = ws_learn_one_layer(W, 1.0, 2)
    assert not r.codes.any() and not r.quantized.any() and (r.c_neg, r.c_pos) == (-0.25, 2.0)


def test_one_weight_one_sign_all_zero_all_equal_and_empty():
    one = ws_learn_one_layer(np.float32([3.0]), 0.0, 3)
    assert one.codes.tolist() == [7] and one.levels[6] == 3
    positive = ws_learn_one_layer(np.float32([1, 2, 3, 4]), 0.5, 2)
    assert positive.codes.tolist() == [0, 0, 3, 3] and positive.levels.tolist() == [0, 0, 3.5]
    zero = ws_learn_one_layer(np.zeros((2, 3), np.float32), 0.5, 2)
    assert not zero.codes.any() and not zero.levels.any()
    equal = ws_learn_one_layer(np.full(8, -2.0, np.float32), 0.5, 2)
    assert not equal.codes.any(), "ties at the clip are pruned by default"
    equal = ws_learn_one_layer(np.full(8, -2.0, np.float32), 0.5, 2, Conventions(clip_ties="keep"))
    assert equal.codes.tolist() == [1] * 8
    empty = ws_learn_one_layer(np.zeros((0, 4), np.float32), 0.5, 2)
    assert empty.codes.shape == (0, 4) and empty.levels.tolist() == [0, 0, 0]


def test_an_empty_interval_keeps_its_place():
    W = np.float32([0.1, 0.2, 1.0, 4.0, -1.0])
    centre = ws_learn_one_layer(W, 0.0, 3)
    zero = ws_learn_one_layer(W, 0.0, 3, Conventions(empty_level="zero"))
    assert centre.codes.tolist() == zero.codes.tolist() == [5, 5, 5, 7, 1]
    assert centre.levels[5] == 2.0 and zero.levels[5] == 0.0, "(4/3 + 8/3) / 2"


@pytest.mark.parametrize(
    ("p", "b"),
    [
        (0.5, 1),
        (0.5, 9),
        (0.5, 2.5),
        (0.5, True),
        (0.5, np.True_),
        (np.True_, 4),
        ("0.5", 4),
        (-0.1, 4),
        (1.1, 4),
        (float("nan"), 4),
    ],
)
def test_settings_out_of_range_are_refused(p, b):
    with pytest.raises(SettingError, match="expected"):
        ws_learn_one_layer(FIGURE_2, p, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad):
    W = np.ones(600_000, np.float32)
    W[-1] = bad
    with pytest.raises(WeightError, match=r"layer conv1: .* 1 of 600000"):
        ws_learn_one_layer(W, 0.5, 4, name="conv1")


@pytest.mark.parametrize("large", [1.7e308, np.nextafter(np.finfo(np.float32).max, np.inf, dtype=np.float64)])
@pytest.mark.parametrize("c", ALL[::97], ids=str)
def test_every_way_refuses_weights_beyond_the_range_of_levels(way, large, c):
    W = np.random.default_rng(0).normal(size=3000)
    near = ws_learn_one_layer(W, 0.5, 4, c).near
    W[[7, 2000]] = large, -large
    for guess in (near, None):
        with pytest.raises(WeightError, match=r"layer conv1: .* at most 3\.40282e\+38.* 2 of 3000 that are larger"):
            ws_learn_one_layer(W, 0.5, 4, c, name="conv1", near=guess)


def test_every_way_takes_the_largest_weights_that_levels_can_be(way):
    W = float(np.finfo(np.float32).max) * np.array([1.0, -1.0, 0.5] * 50)
    r = ws_learn_one_layer(W, 0.0, 3)
    np.testing.assert_array_equal(ws_learn_one_layer(W, 0.0, 3, near=r.near).quantized, r.quantized)
    np.testing.assert_array_equal(r.quantized, W)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64])
def test_the_largest_weights_are_taken_without_a_warning(way, number, p):
    largest = min(float(np.finfo(number).max), float(np.finfo(np.float32).max))
    W = number([largest, -largest, largest / 2])
    for c in ALL[::7]:
        near = ws_learn_one_layer(W, p, 2, c).near
        assert np.isfinite(ws_learn_one_layer(W, p, 2, c, near=near).quantized).all()


def test_levels_below_the_range_of_float32_are_zero():
    r = ws_learn_one_layer(np.array([1e-60, -1e-60]), 0.0, 2)
    assert r.codes.tolist() == [3, 1] and not r.levels.any()


def test_integers_are_refused():
    with pytest.raises(WeightError, match=r"ip1.*floating-point.*int64"):
        ws_learn_one_layer(torch.ones(3, dtype=torch.int64), 0.5, 4, name="ip1")


@pytest.mark.filterwarnings("error")
def test_arrays_that_torch_cannot_share_are_taken():
    read_only = np.frombuffer(FIGURE_2.tobytes()).reshape(4, 4)
    for W in (read_only, FIGURE_2.astype(">f8"), FIGURE_2[::-1][::-1]):
        assert_same(ws_learn_one_layer(W, 0.25, 2), ws_learn_one_layer(FIGURE_2, 0.25, 2))
    assert ws_learn_one_layer(FIGURE_2.astype(">f4"), 0.25, 2).quantized.dtype == np.float32
    assert ws_learn_one_layer(np.array(0.5), 0.0, 2).quantized.shape == ()
    one_row = FIGURE_2.reshape(1, 16)  # whose rows in reverse are contiguous, with a negative stride
    assert_same(ws_learn_one_layer(one_row[::-1], 0.25, 2), ws_learn_one_layer(one_row, 0.25, 2))


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="long double is double here")
def test_long_doubles_are_refused_by_name():
    with pytest.raises(WeightError, match=r"layer ip1: .* up to 64 bits, got"):
        ws_learn_one_layer(FIGURE_2.astype(np.longdouble), 0.25, 2, name="ip1")


def test_settings_are_numbers_of_python_or_numpy():
    setting = LayerSetting(np.float32(0.25), np.int8(8))
    assert setting == LayerSetting(0.25, 8) and (type(setting.p), type(setting.b)) == (float, int)
    for p, b in ((np.float32(0.25), np.int8(8)), (np.int64(0), np.uint8(2))):
        assert_same(ws_learn_one_layer(FIGURE_2, p, b), ws_learn_one_layer(FIGURE_2, float(p), int(b)))
    layer = QuantizedLayer("w", np.int8(8), np.zeros(4, np.uint8), np.zeros(255, np.float32))
    assert type(layer.b) is int


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_tensor_of_any_float_type_keeps_its_type(dtype):
    W = torch.randn(50, 20, generator=torch.Generator().manual_seed(0)).to(dtype)
    r = ws_learn_one_layer(W.T, 0.8, 3)
    assert r.quantized.dtype == dtype and r.quantized.shape == (20, 50) and r.codes.dtype == torch.uint8
    same = ws_learn_one_layer(W.T.double(), 0.8, 3)
    assert torch.equal(r.codes, same.codes) and torch.equal(r.levels, same.levels)


def test_the_weights_are_left_alone():
    W = torch.randn(1000)
    before = W.clone()
    ws_learn_one_layer(W, 0.5, 4)
    assert torch.equal(W, before)


@pytest.mark.parametrize("n", [10_000, 700_001])
def test_a_large_layer_agrees_with_the_definition(n):
    """Larger than the chunks and the sample in which large layers are handled."""
    W = torch.from_numpy(np.random.default_rng(1).standard_t(3, n).astype(np.float32))
    W[::7] = W[3]
    for p in (0.0, 0.37, 0.9, 0.999):
        r = ws_learn_one_layer(W, p, 4)
        for sign in (1, -1):
            magnitude = (sign * W)[sign * W > 0].sort().values
            k = int(np.ceil(p * magnitude.numel()))
            clip = float(magnitude[k - 1]) if k else 0.0
            assert clip == (r.c_pos if sign > 0 else -r.c_neg)
        assert torch.equal(r.codes > 0, (W > r.c_pos) | (W < r.c_neg))


@pytest.fixture(
    params=["few weights", "many weights", "few, compiled", "many, compiled", "one compiled call", "accelerator"],
    scope="module",
)
def way(request):
    """All ways of passing over the weights; the accelerator's on the CPU's tensors."""
    amount, _, compiled = request.param.partition(", ")
    kind = pytest.importorskip("clipq.learning.host_kernels", exc_type=ImportError).CompiledPart if compiled else Part
    with pytest.MonkeyPatch.context() as patch:
        if amount == "one compiled call":
            step = pytest.importorskip("clipq.learning.compiled_layer", exc_type=ImportError).learn_layer
            assert learning.layer_step(torch.float32, learning._learn_on_host) is step
            yield request.param
            return
        patch.setattr(learning, "layer_step", lambda dtype, generally: None)
        if amount == "accelerator":
            patch.setattr(learning, "_learn_on_host", learning._learn_on_device)
        else:
            few = amount.startswith("few")
            patch.setattr(host_weights, "part_kind", lambda dtype: kind)
            patch.setattr(host_weights, "FEW", 1 << 20 if few else -1)
            patch.setattr(host_weights, "_FEW_CANDIDATES", 1 << 20 if few else -1)
        yield request.param


@settings(max_examples=150)
@given(
    W=layers, p=rates, b=st.integers(2, 6), c=st.sampled_from(ALL), near=st.tuples(fine, fine) | st.just((-0.5, 0.5))
)
def test_a_guess_of_the_clips_never_changes_the_result(way, W, p, b, c, near):
    W = np.concatenate([W, 1.5 * W[::-1]])
    assert_same(ws_learn_one_layer(W, p, b, c, near=near), ws_learn_one_layer(W, p, b, c))


@pytest.mark.parametrize("p", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("n", [90, 9000])
def test_one_sign_shrinks_below_its_last_clip(way, n, p):
    """Its largest weight is none of those that were kept, and all are smaller than any that was."""
    W = np.abs(np.random.default_rng(0).standard_normal(n).astype(np.float32))
    W[::5] *= -1
    r = ws_learn_one_layer(W, 0.9, 3)
    for _ in range(3):
        r = ws_learn_one_layer(W, 0.9, 3, near=r.near)
    kept, near = 0.9 * r.c_neg > W, r.near
    W[W < 0] = r.c_neg / 2
    W[kept] = r.c_neg / 100
    assert_same(ws_learn_one_layer(W, p, 3, near=near), ws_learn_one_layer(W, p, 3))


@settings(max_examples=150)
@given(steps=st.lists(st.tuples(layers, rates), min_size=2, max_size=4), c=st.sampled_from(ALL), double=st.booleans())
def test_what_the_last_step_found_never_changes_the_result(way, steps, c, double):
    """Of layers that have nothing to do with each other, not even the number of weights."""
    near = None
    for W, p in steps:
        W = W.astype(np.float64) if double else W
        r = ws_learn_one_layer(W, p, 3, c, near=near)
        assert_same(r, ws_learn_one_layer(W, p, 3, c))
        near = r.near


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize("edge", Conventions.options("edge"))
def test_candidates_of_one_sign_say_nothing_of_the_others(mirror, edge, monkeypatch):
    """The last clip was far too large for one sign, some of whose weights below it are among the known ones."""
    monkeypatch.setattr(learning, "layer_step", lambda dtype, generally: None)
    monkeypatch.setattr(host_weights, "part_kind", lambda dtype: Part)
    rng = np.random.default_rng(0)
    W = np.float32(np.concatenate([rng.uniform(0.6, 2, 7000), -rng.uniform(1, 2, 3000)]))
    rng.shuffle(W)
    known = np.flatnonzero((W < -0.5) | (W > 1.88))
    known = np.sort(np.append(known, rng.choice(np.flatnonzero((W > 0) & (W < 1.88)), len(known) // 3, replace=False)))
    clips = (-0.5, 1.9) if mirror > 0 else (-1.9, 0.5)
    c = Conventions(edge=edge)
    assert_same(
        ws_learn_one_layer(mirror * W, 0.8, 3, c, near=host_weights.Near(*clips, (known,))),
        ws_learn_one_layer(mirror * W, 0.8, 3, c),
    )


@pytest.mark.parametrize("move", [1e-5, 1e-3, 0.1])
def test_a_training_finds_the_same_with_what_the_last_step_found(move):
    """Weights in two chunks that move a little or much from step to step, while p changes; at last one is NaN."""
    rng = np.random.default_rng(3)
    W, near = rng.normal(size=300_000).astype(np.float32), None
    for p in (0.92, 0.92, 0.92, 0.91, 0.92, 0.95, 0.95, 0.95):
        W += move * rng.normal(size=W.shape).astype(np.float32)
        r = ws_learn_one_layer(W, p, 4, near=near)
        assert_same(r, ws_learn_one_layer(W, p, 4))
        near = r.near
    W[np.argmin(np.abs(W))] = np.nan
    with pytest.raises(WeightError, match="1 of 300000"):
        ws_learn_one_layer(W, p, 4, near=near)


@settings(max_examples=200)
@given(W=layers, p=rates, b=st.integers(2, 8), c=st.sampled_from(ALL), double=st.booleans())
def test_every_way_of_passing_over_the_weights_gives_the_definition(way, W, p, b, c, double):
    W = W.astype(np.float64) if double else W
    r = ws_learn_one_layer(W, p, b, c)
    assert_is_the_definition(r, W, p, b, c)
    assert_same(ws_learn_one_layer(W, p, b, c, near=(r.c_neg, r.c_pos)), r)


@settings(max_examples=300)
@given(W=layers, p=rates, b=st.integers(2, 8), c=st.sampled_from(ALL), double=st.booleans())
def test_host_and_accelerator_give_the_same(W, p, b, c, double):
    W = W.astype(np.float64) if double else W
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_learn_on_host", learning._learn_on_device)
        r = ws_learn_one_layer(W, p, b, c)
    assert_same(r, ws_learn_one_layer(W, p, b, c))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_way_gives_the_same_on_a_large_layer(way, dtype):
    """Larger than a chunk, with ties; also of one sign, so that a side is empty."""
    W = np.random.default_rng(5).normal(size=600_001).astype(dtype)
    W[::11] = np.round(W[::11], 1)
    for layer, p, b in itertools.product((W, np.abs(W)), (0.0, 0.6, 0.95, 1.0), (2, 7)):
        r = ws_learn_one_layer(layer, p, b)
        codes, levels = by_sorting(layer, p, b)
        np.testing.assert_array_equal(r.codes, codes)
        np.testing.assert_allclose(r.levels[r.counts > 0], levels[r.counts > 0], rtol=2e-7)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-3, 1e30])
def test_every_way_takes_weights_of_any_size(way, scale):
    """Also subnormal ones, and those a billion times smaller than the largest."""
    rng = np.random.default_rng(7)
    W = np.float32(rng.normal(size=3000) * scale * 10.0 ** rng.integers(-9, 1, 3000))
    r = ws_learn_one_layer(W, 0.5, 3)
    codes, levels = by_sorting(W, 0.5, 3)
    np.testing.assert_array_equal(r.codes, codes)
    np.testing.assert_allclose(r.levels[r.counts > 0], levels[r.counts > 0], rtol=2e-7, atol=1e-45)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_every_way_refuses_weights_that_are_not_finite(way, bad):
    W = np.ones(1000, np.float32)
    W[7] = bad
    with pytest.raises(WeightError, match=r"layer conv1: .* 1 of 1000"):
        ws_learn_one_layer(W, 0.5, 4, name="conv1")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_on_an_accelerator_weights_that_are_not_finite_make_the_loss_so(bad):
    """The step does not wait to see them; the training reads its loss anyway."""
    x = torch.ones(100)
    x[3] = bad
    assert learn_on_device(x, LayerSetting(0.5, 4), Conventions()).quantized.isnan().all()


@pytest.mark.parametrize("c", [Conventions(), *ALL[::97]], ids=str)
def test_an_accelerator_never_waits(c):
    """On tensors without values, which refuse whatever needs one: a size, a number on the host, another device."""
    for dtype, b in itertools.product((torch.float32, torch.float64), (2, 8)):
        learned = learn(torch.empty(90, 100, dtype=dtype, device="meta"), LayerSetting(0.9, b), c, "layer")
        tensors = (learned.quantized, learned.codes, learned.levels, learned.counts, *learned.neg, *learned.pos)
        assert all(t.device.type == "meta" for t in tensors)
        assert learned.near is None and learned.quantized.shape == (90, 100)


@pytest.mark.parametrize(
    "wait",
    [
        lambda t: t.sum().item(), lambda t: t[0].tolist(), lambda t: t.nonzero(), lambda t: t[t > 0], torch.unique,
        lambda t: t.masked_select(t > 0), lambda t: torch.bincount(t.long()), lambda t: t.cpu(), lambda t: bool(t[0]),
    ],
)  # fmt: skip
def test_tensors_without_values_refuse_what_waits(wait):
    with pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.empty(10, device="meta"))


def by_sorting(W, p, b):
    """The defaults of docs/method.md with NumPy's sort, for layers of any size."""
    codes = np.zeros(W.shape, np.uint8)
    for sign, m, offset in ((-1, 2 ** (b - 1), 0), (1, 2 ** (b - 1) - 1, 2 ** (b - 1))):
        magnitude = np.sort(sign * W[sign * W > 0].astype(np.float64))
        k = int(np.ceil(p * len(magnitude)))
        c, e = (magnitude[k - 1] if k else 0.0), (magnitude[-1] if len(magnitude) else 0.0)
        edges = c + (e - c) * np.arange(1, m) / m
        kept = sign * W > c
        interval = np.searchsorted(edges, (sign * W[kept]).astype(np.float64), side="right")
        codes[kept] = offset + 1 + interval if sign > 0 else m - interval
    sums = np.bincount(codes, weights=W.astype(np.float64), minlength=2**b)[1:]
    return codes, sums / np.maximum(np.bincount(codes, minlength=2**b)[1:], 1)


@pytest.mark.parametrize("near", [(-1e-9, 1e-9), (-50.0, 50.0), (-0.5, 0.5)])
def test_a_guess_of_the_clips_of_a_large_layer(near):
    W = np.random.default_rng(2).normal(size=600_000).astype(np.float32)
    exact = ws_learn_one_layer(W, 0.7, 4)
    assert_same(ws_learn_one_layer(W, 0.7, 4, near=near), exact)
    assert_same(ws_learn_one_layer(W, 0.7, 4, near=(exact.c_neg, exact.c_pos)), exact)


def assert_same(one, other):
    for field in ("codes", "levels", "counts", "quantized", "intervals"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
    assert (one.c_neg, one.c_pos) == (other.c_neg, other.c_pos)
