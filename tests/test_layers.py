"""Which weights are chosen, under which names, and which networks are refused."""

import functools
from collections.abc import Callable

import pytest
import torch
from sharded import Sharded
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from clipq.errors import ModelError
from clipq.layers import compressible_layers
from clipq.model_check import check_state, plain_model


class Tied(nn.Module):
    """A language model's head that shares its embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(self.embedding(x))))


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def names(model: nn.Module, **options: object) -> list[str]:
    return [layer.name for layer in compressible_layers(model, **options)]  # type: ignore[arg-type]


def test_linear_maps_and_convolutions_are_chosen_in_the_networks_order() -> None:
    kinds = [
        nn.Linear(2, 2), nn.Conv1d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, groups=4), nn.Conv3d(1, 1, 1),
        nn.ConvTranspose1d(1, 1, 1), nn.ConvTranspose2d(4, 4, 1, groups=2), nn.ConvTranspose3d(1, 1, 1),
    ]  # fmt: skip
    model = nn.Sequential(*kinds, nn.BatchNorm1d(2), nn.Embedding(2, 2), nn.LSTM(2, 2), nn.PReLU())
    assert names(model) == [f"{i}.weight" for i in range(len(kinds))]


def test_the_network_may_itself_be_a_layer() -> None:
    assert names(nn.Linear(3, 2)) == ["weight"]
    assert names(nn.Linear(3, 2), include="weight") == ["weight"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("*", "0", ["3.weight"]),
        (["0*"], (), ["0.weight"]),
        (["3.weight"], (), ["3.weight"]),
        (("0", "3"), ("3.w*",), ["0.weight"]),
    ],
)
def test_patterns_match_modules_and_weights(include: object, exclude: object, expected: list[str]) -> None:
    assert names(small(), include=include, exclude=exclude) == expected


def test_a_module_whose_name_is_no_pattern_is_found_by_its_exact_name() -> None:
    model = nn.Sequential()
    model.add_module("a[0]", nn.Linear(2, 2))
    model.add_module("b", nn.Linear(2, 2))
    assert names(model, include="a[0]") == ["a[0].weight"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error_that_lists_the_layers(option: str) -> None:
    with pytest.raises(ModelError, match=r"'fc9'.*0\.weight, 3\.weight"):
        compressible_layers(small(), **{option: ["fc9"]})


def test_no_layer_is_an_error() -> None:
    with pytest.raises(ModelError, match="none of the known types"):
        compressible_layers(nn.Sequential(nn.ReLU()))
    with pytest.raises(ModelError, match=r"exclude = \['\*'\]"):
        compressible_layers(small(), exclude="*")


def test_other_types_may_be_chosen() -> None:
    model = nn.Sequential(nn.Embedding(3, 2), nn.LSTM(2, 2), nn.GRUCell(2, 3), nn.Linear(3, 1))
    assert names(model, types=nn.Embedding) == ["0.weight"]
    assert names(model, types=(nn.LSTM, nn.GRUCell)) == [
        "1.weight_ih_l0", "1.weight_hh_l0", "2.weight_ih", "2.weight_hh",
    ]  # fmt: skip


def test_weights_of_a_module_of_the_users_own_are_its_parameters_of_two_and_more_dimensions() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 3))
            self.scale = nn.Parameter(torch.ones(3))
            self.bias = nn.Parameter(torch.ones(1, 3))

    assert names(nn.Sequential(Mixer()), types=[Mixer]) == ["0.kernel"]


def test_looking_for_layers_leaves_computed_weights_and_their_buffers_alone() -> None:
    """Spectral norm's, which change whenever the weight is computed while the network is being trained."""
    model = nn.Sequential(nn.Linear(8, 8), parametrizations.spectral_norm(nn.Linear(8, 8))).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert names(model, exclude="1") == ["0.weight"]
    with pytest.raises(ModelError, match="expected a parameter, but its weight is computed"):
        compressible_layers(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_norm_without_parameters_has_no_weight() -> None:
    model = nn.Sequential(nn.LayerNorm(3, elementwise_affine=False), nn.Linear(3, 3))
    assert names(model, types=(nn.LayerNorm, nn.Linear)) == ["1.weight"]


@pytest.mark.parametrize("kdim", [None, 3])
def test_an_attentions_projections_are_weights_but_its_bias_rows_are_not(kdim: int | None) -> None:
    model = nn.MultiheadAttention(4, 2, kdim=kdim, vdim=kdim, add_bias_kv=True)
    projections = ["in_proj_weight"] if kdim is None else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    assert names(model) == [*projections, "out_proj.weight"]


def test_a_tied_weight_is_one_layer_with_every_owner() -> None:
    model = Tied()
    layers = compressible_layers(model)
    assert [layer.name for layer in layers] == ["hidden.weight", "head.weight"]
    assert layers[1].owners == ((model.embedding, "weight"), (model.head, "weight"))


@pytest.mark.parametrize("other_name", ["embedding", "embedding.weight", "head"])
def test_a_tied_weight_goes_under_all_its_names(other_name: str) -> None:
    assert names(Tied(), include=[other_name]) == ["head.weight"]
    assert names(Tied(), exclude=[other_name]) == ["hidden.weight"]


def test_a_module_registered_twice_is_one_layer() -> None:
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert [(x.name, x.owners) for x in compressible_layers(model)] == [("0.weight", ((layer, "weight"),))]
    assert names(nn.Sequential(layer, layer, nn.Linear(2, 1)), exclude="1") == ["2.weight"]


def test_bits_uncompressed_follow_the_weights_type() -> None:
    for dtype, bits in ((torch.float64, 64), (torch.float32, 32), (torch.bfloat16, 16)):
        assert compressible_layers(nn.Linear(3, 2).to(dtype))[0].n_bits == 6 * bits


def test_frozen_layers_are_chosen_like_others() -> None:
    model = small()
    model[3].weight.requires_grad_(False)
    assert names(model) == ["0.weight", "3.weight"]


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return weight_norm(nn.Linear(2, 2))


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(2, 2)


def expanded() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.randn(1, 2).expand(2, 2))
    return layer


def of_dtype(dtype: torch.dtype) -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.zeros(2, 2, dtype=dtype), requires_grad=False)
    return layer


def sparse() -> nn.Module:
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.eye(2).to_sparse())
    return layer


def subclass() -> nn.Module:
    class Scaled(torch.Tensor):
        pass

    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.eye(2).as_subclass(Scaled))
    return layer


def test_a_weight_with_sparse_gradients_is_an_error_that_names_it_unless_it_is_frozen() -> None:
    for kind in (nn.Embedding, nn.EmbeddingBag):
        model = nn.Sequential(kind(5, 4, sparse=True), nn.Linear(4, 2))
        with pytest.raises(ModelError, match=r"layer 0\.weight: expected dense gradients, got sparse=True"):
            compressible_layers(model, types=(kind, nn.Linear))
        assert names(model) == ["1.weight"]
        model[0].weight.requires_grad_(False)
        assert names(model, types=kind) == ["0.weight"]


def test_a_weight_that_an_embedding_gives_sparse_gradients_is_an_error_under_its_own_name() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(5, 4, sparse=True), "scores": nn.Linear(4, 5, bias=False)})
    model["scores"].weight = model["words"].weight
    with pytest.raises(ModelError, match=r"layer scores\.weight: expected dense gradients, got sparse=True"):
        compressible_layers(model)
    model["words"].sparse = False
    assert names(model) == ["scores.weight"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(2, 2)), "is computed"),
        (lambda: parametrizations.orthogonal(nn.Linear(2, 2)), "is computed"),
        (old_weight_norm, "is computed"),
        (lambda: prune.l1_unstructured(nn.Linear(2, 2), "weight", 1), "is computed"),
        (lambda: nn.LazyLinear(2), "not initialized yet"),
        (lambda: nn.Linear(2, 2, device="meta"), "meta device"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "complex64"),
        (functools.partial(of_dtype, torch.int8), "int8"),
        (functools.partial(of_dtype, torch.float8_e4m3fn), "float8_e4m3fn"),
        (sparse, "sparse"),
        (subclass, "of the class Scaled"),
        (in_inference_mode, "inference mode"),
        (expanded, "an expanded view"),
    ],
)  # fmt: skip
def test_a_weight_that_cannot_be_compressed_is_an_error_that_names_it(make: object, message: str) -> None:
    with pytest.raises(ModelError, match=rf"layer 1\.weight: .*{message}"):
        compressible_layers(nn.Sequential(nn.Linear(2, 2), make()))  # type: ignore[operator]
    model = nn.Sequential(nn.Linear(2, 2), make())  # type: ignore[operator]
    assert names(model, exclude="1") == ["0.weight"]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "compute",
    [
        lambda module, name: parametrizations.weight_norm(module, name),
        lambda module, name: parametrizations.spectral_norm(module, name),
        lambda module, name: weight_norm(module, name),
        lambda module, name: spectral_norm(module, name),
        lambda module, name: prune.l1_unstructured(module, name, 0.5),
    ],
)
def test_computed_weights_of_a_module_with_several_are_refused_and_may_be_excluded(
    compute: Callable[[nn.Module, str], nn.Module],
) -> None:
    for make, name, others in (
        (lambda: nn.LSTM(4, 4), "weight_hh_l0", ["0.weight_ih_l0"]),
        (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight", ["0.out_proj.weight"]),
    ):
        model = nn.Sequential(compute(make(), name))
        kinds = (nn.LSTM, nn.MultiheadAttention, nn.Linear)
        with pytest.raises(ModelError, match=rf"layer 0\.{name}: expected a parameter, but its weight is computed"):
            compressible_layers(model, types=kinds)
        assert names(model, types=kinds, exclude=f"0.{name}") == others


def test_a_computed_bias_is_no_weight() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.LSTM(4, 4), "weight_hh_l0"))
    parametrize.register_parametrization(model[0], "bias_hh_l0", nn.Identity())
    assert names(model, types=nn.LSTM, exclude="0.weight_hh_l0") == ["0.weight_ih_l0"]


def test_quantized_modules_are_no_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), torch.ao.nn.quantized.Linear(2, 2))
    assert names(model) == ["0.weight"]


def test_tensors_that_share_memory_without_being_one_are_refused() -> None:
    transposed = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    transposed[1].weight = nn.Parameter(transposed[0].weight.data.t())
    buffered = nn.Sequential(nn.Linear(3, 2))
    buffered.register_buffer("first_row", buffered[0].weight.data[0])
    for model, other in ((transposed, "1.weight"), (buffered, "first_row")):
        with pytest.raises(ModelError, match=rf"0\.weight.*{other}|{other}.*0\.weight"):
            compressible_layers(model)


def test_parts_of_one_block_of_memory_are_not_shared_memory() -> None:
    block = torch.randn(12)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))
    model[0].weight = nn.Parameter(block[:6].view(2, 3))
    model[1].weight = nn.Parameter(block[6:].view(3, 2))
    assert names(model) == ["0.weight", "1.weight"]


def test_columns_of_one_matrix_are_not_shared_memory_unless_they_overlap() -> None:
    together = torch.randn(6, 12)
    for start, fits in ((4, True), (3, False)):
        model = nn.Sequential(nn.Linear(4, 6), nn.Linear(2, 2), nn.Linear(4, 6), nn.Linear(4, 6))
        for layer, first in ((0, 0), (2, start), (3, 8)):
            model[layer].weight = nn.Parameter(together[:, first : first + 4])
        if fits:
            assert names(model) == ["0.weight", "1.weight", "2.weight", "3.weight"]
        else:
            with pytest.raises(ModelError, match=r"layers 0\.weight and 2\.weight: two tensors in the same memory"):
                compressible_layers(model)


# The network as a whole


def test_a_compiled_network_is_the_module_inside() -> None:
    model = small()
    assert plain_model(torch.compile(model, backend="eager")) is model
    assert plain_model(model) is model


def compiled_in_place() -> nn.Module:
    model = small()
    model[3].compile(backend="eager")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.DataParallel(nn.Linear(2, 2)), "DataParallel"),
        (lambda: nn.Sequential(nn.DataParallel(nn.Linear(2, 2))), "0 is wrapped"),
        (lambda: nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager")), "0 is compiled"),
        (compiled_in_place, "3 is compiled"),
        (lambda: torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "eager"),
        (lambda: torch.ones(2), "got Tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrapped_network_is_refused(make: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        plain_model(make())  # type: ignore[operator]


def with_buffer(buffer: torch.Tensor) -> nn.Module:
    module = nn.Module()
    module.register_buffer("part", buffer)
    return module


class Counted(nn.Linear):
    def get_extra_state(self) -> dict:
        return {"calls": 3}

    def set_extra_state(self, state: dict) -> None:
        pass


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (nn.LazyBatchNorm1d(), "1.weight: not initialized"),
        (nn.LayerNorm(2, device="meta"), "1.weight.*meta"),
        (Counted(2, 2), "1._extra_state: expected a tensor, got dict"),
        (nn.ModuleDict({"é" * 600: nn.Linear(2, 2)}), "1.é*...: expected a name of at most 1024 bytes, got 1209"),
        (nn.ModuleDict({"\udcff": nn.Linear(2, 2)}), r"1.\\udcff.weight': expected a text that UTF-8 can hold"),
        (with_buffer(Sharded(torch.ones(2))), "1.part: expected a plain tensor with all of its elements, .* Sharded"),
    ],
)
def test_a_state_that_the_file_cannot_hold_is_refused(extra: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_state(nn.Sequential(nn.Linear(2, 2), extra), ())
