"""CLIP-Q on any network in a few lines: compress, save, load.  The package's public functions; ``docs/python.md``.

net = clipq.compress(model, loader, metric).net
clipq.save(net, "net.clipq")
clipq.load_into(Net(), "net.clipq")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from clipq import distributed
from clipq.batch import inputs_and_labels
from clipq.bits import Coder
from clipq.conventions import Conventions
from clipq.decode_sparse_quantized_net_v2 import SOURCES, Source, decode_sparse_quantized_net_v2
from clipq.device import repeatable
from clipq.encode_sparse_quantized_net_v2 import encode_sparse_quantized_net_v2
from clipq.errors import DataError, ModelError, SettingError
from clipq.held_state import is_expanded
from clipq.layers import DEFAULT_TYPES, CompressibleLayer, compressible_layers, has_sparse_gradients
from clipq.loader_epochs import LoaderEpochs, check_loader
from clipq.matlab_net import write_mat
from clipq.metric import Metric, epoch_error, search_error
from clipq.model_check import check_state, entries_of, is_uninitialized, plain_model
from clipq.name_patterns import Patterns
from clipq.progress import NoProgress, ProgressBars, SearchBar
from clipq.quantized_net import LayerSetting, QuantizedNet
from clipq.search import Evaluation, given_settings, n_evaluations
from clipq.search import search as search_settings
from clipq.search_config import SearchConfig
from clipq.subset_error import SubsetError
from clipq.tensor_bytes import tensor_to_bytes
from clipq.ties import warn_of_ties
from clipq.train_config import TrainConfig
from clipq.train_state import History, seed_everything
from clipq.training import Objective, StepLoss, modes_put_back
from clipq.verified_file import write_verified
from clipq.ws_train import ws_train

Theta = LayerSetting | tuple[float, int]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Compressed:
    """What ``compress`` gives.

    net: the compressed network: integer codes, levels, and every other tensor of the state dict.
    settings: weight name -> (p, b) that it was compressed with.
    history: of the fine-tuning: ``steps`` and ``epochs``, a dict of figures each.
    evaluations: of the search; none where the settings were given.
    """

    net: QuantizedNet
    settings: Mapping[str, LayerSetting]
    history: History
    evaluations: Sequence[Evaluation]


@torch.enable_grad()
@repeatable()
def compress(
    model: nn.Module,
    loader: Iterable[Any],
    metric: Metric | None,
    *,
    search: SearchConfig | None = None,
    settings: Mapping[str, Theta] | None = None,
    train: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    search_metric: Metric | SubsetError | None = None,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    objective: Objective | None = None,
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
    types: type[nn.Module] | Sequence[type[nn.Module]] = DEFAULT_TYPES,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    seed: int = 0,
    amp: bool = False,
    progress: bool = False,
) -> Compressed:
    """Compresses a trained network in place: chooses each layer's (p, b), prunes and quantizes while fine-tuning.

    Afterwards ``model`` is a plain module again that holds the quantized weights.  An error or Ctrl-C leaves it plain,
    too, with the full-precision weights of that moment.

    Where ``torch.distributed`` connects several processes, each calls it with the same arguments and ends with the same
    network: they share each of the loader's batches, the first one searches, and its metric counts.

    model: on any device, in any floating type, in whichever mode; the mode of every module is put back at the end.
    loader: training batches (x, y), or of anything with an ``objective``; iterated once an epoch, must know its
        ``len``.  Its batch size counts, not that of ``train``.
    metric: model -> error in [0, 1] of held-out samples, lower is better; called in evaluation mode without gradients,
        after each epoch; ``train.keep`` says which epoch's weights are kept by it.  None keeps the last one's.
    search: how (p, b) are chosen; by Bayesian optimisation unless it says otherwise.
    settings: instead of a search, layer name or shell pattern -> (p, b); a layer takes the first that matches it.
    train: the fine-tuning's knobs; ``epochs=0`` prunes and quantizes without.
    search_metric: as ``metric``, for the search, which calls it ``search.evaluations`` times a layer.  It should be
        quick and on training samples, as the paper's; a ``SubsetError`` is the quickest.  None takes ``metric``.
    loss: (outputs, targets) -> scalar, the mean over the minibatch; None takes the cross entropy of class scores.
    objective: instead of ``loss``, (model, batch) -> ``StepLoss``.
    include, exclude, types: the layers; see ``clipq.layers.compressible_layers``.
    conventions: readings of the paper that its sources leave open.
    seed: torch's, NumPy's and Python's generators are set from it, the loader's own ones too.
    amp: mixed precision, on a GPU only.
    progress: bars on the terminal.

    Raises:
        ModelError: a network, a layer or a pattern that cannot be compressed as asked; nothing has been changed.
        SettingError: options that exclude each other or are of another type, or a metric that is no error in [0, 1].
        DataError: batches of unknown number, or none, or other ones for each of several processes; targets without a
            number.
        WeightError, TrainingError: weights, other parameters or a loss that are NaN or Inf.
    """
    if torch.is_inference_mode_enabled():
        raise ModelError("network: cannot be trained inside torch.inference_mode()")
    _exclude_each_other(search=search, settings=settings)
    _exclude_each_other(loss=loss, objective=objective)
    _all_functions(metric=metric, search_metric=search_metric, loss=loss, objective=objective)
    _all_of_types(
        "compress", train=(train, TrainConfig), conventions=(conventions, Conventions),
        search=(SearchConfig() if search is None else search, SearchConfig),
        settings=({} if settings is None else settings, Mapping),
    )  # fmt: skip
    _check_seed(seed)
    plain = plain_model(model)
    layers = compressible_layers(plain, include, exclude, types)
    check_state(plain, (layer.name for layer in layers))
    if train.epochs:
        _check_trainable(plain, loader, train)
    warn_of_ties(((layer.name, layer.weight) for layer in layers), conventions)
    search = search or SearchConfig()
    chosen = given_settings(layers, search) if settings is None else _given_settings(layers, settings)
    error: Metric = search_error(search, metric, search_metric) if chosen is None else lambda model: 0.0
    evaluations: list[Evaluation] = []
    with modes_put_back(plain):
        seed_everything(seed)
        if chosen is None:
            bar = SearchBar(n_evaluations(search) * len(layers)) if progress else None
            chosen, evaluations = distributed.on_writer(
                lambda: search_settings(
                    plain, layers, error, search, conventions=conventions, seed=seed, on_evaluation=bar
                )
            )
        try:
            trained = ws_train(
                plain, layers, chosen, LoaderEpochs(loader, seed), train, conventions=conventions, seed=seed, amp=amp,
                validate=None if metric is None else epoch_error(metric),
                objective=objective or _objective(loss),
                progress=ProgressBars("CLIP-Q") if progress else NoProgress(),
            )  # fmt: skip
        finally:
            plain.zero_grad(set_to_none=True)
    return Compressed(trained.net, chosen, trained.history, evaluations)


def save(
    net: QuantizedNet,
    path: str | os.PathLike[str],
    coder: Coder = "best",
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
) -> int:
    """Writes a compressed network atomically, a ``.clipq`` file once it was decoded to the same; gives its bytes.

    path: a name that ends in ``.mat`` makes the struct for MATLAB (docs/format.md), which has the streams of the coder
        ``fixed``; any other a ``.clipq`` file.
    coder: ``fixed``, the paper's; ``entropy``; or ``best``, the smaller one for each layer.

    Raises:
        SettingError: not a network, an unknown coder, options of another type, or a tensor that the file cannot hold.
        WriteError: it cannot be written; what was there before is unchanged.
    """
    net = _network("save", net)
    _all_of_types("save", path=(path, (str, os.PathLike)), conventions=(conventions, Conventions))
    if Path(path).suffix.lower() == ".mat":
        return write_mat(net, path, conventions)
    return write_verified(net, encode_sparse_quantized_net_v2(net, coder, conventions), path)


def load(source: Source) -> QuantizedNet:
    """The compressed network in a ``.clipq`` or ``.mat`` file, or in its bytes; no model is needed.

    Raises:
        SettingError: neither a path nor bytes.
        ClipqFormatError: a subclass of it that says what is wrong with the file, and where.
        OSError: the file cannot be read.
    """
    return decode_sparse_quantized_net_v2(source)


def load_into(model: Model, source: QuantizedNet | Source) -> Model:
    """Loads a compressed network into ``model``, which stays on its device and in its types; gives ``model``.

    Raises:
        SettingError: not a compressed network, a path or bytes.
        ModelError: entries that are missing, unexpected or of another shape, all of them named; nothing was loaded.
        ClipqFormatError, OSError: as ``load``.
    """
    plain = plain_model(model)
    net = load(source) if isinstance(source, SOURCES) else _network("load_into", source)
    state = net.state_dict()
    own = entries_of(plain)
    faults = [f"missing in the file: {name}" for name in own if name not in state]
    faults += [f"unexpected in the file: {name}" for name in state if name not in own]
    faults += [_misfit(name, state[name], own[name]) for name in state if name in own]
    faults += _torn(state, own)
    if any(faults):
        raise ModelError("network and file do not fit: " + "; ".join(fault for fault in faults if fault))
    plain.load_state_dict(state)
    return model


def _misfit(name: str, stored: torch.Tensor, own: Any) -> str:
    """What hinders loading an entry; empty if nothing does."""
    if is_uninitialized(own):
        return ""  # takes the shape that it is given
    if not isinstance(own, torch.Tensor):
        return f"{name}: expected a tensor in the network, got {type(own).__name__}"
    if own.shape != stored.shape:
        return f"{name}: {tuple(stored.shape)} in the file, {tuple(own.shape)} in the network"
    if own.is_inference() and not torch.is_inference_mode_enabled():
        return f"{name}: made in inference mode in the network, outside of which nothing can be copied into it"
    if is_expanded(own):
        return f"{name}: an expanded view in the network, which nothing can be copied into (see torch.Tensor.clone)"
    return f"{name}: on the meta device in the network (see torch.nn.Module.to_empty)" if own.is_meta else ""


def _torn(state: Mapping[str, torch.Tensor], own: Mapping[str, Any]) -> Iterator[str]:
    """Entries that share one tensor in the network and differ in the file."""
    first: dict[int, str] = {}
    for name in filter(state.__contains__, own):
        other = first.setdefault(id(own[name]), name)
        if state[name] is not state[other] and tensor_to_bytes(state[name]) != tensor_to_bytes(state[other]):
            yield f"{other} and {name}: one tensor in the network, two in the file"


def _network(where: str, given: Any) -> QuantizedNet:
    if not isinstance(given, QuantizedNet):
        hint = ": give its .net" if isinstance(given, Compressed) else ""
        raise SettingError(f"{where}: expected a QuantizedNet, got {type(given).__name__}{hint}")
    return given


def _all_functions(**options: Any) -> None:
    for name, value in options.items():
        if value is not None and not callable(value):
            raise SettingError(f"compress: {name}: expected a function, got {value!r}")


def _all_of_types(where: str, **options: tuple[Any, type | tuple[type, ...]]) -> None:
    """Each option with the type that it must have."""
    for name, (value, kind) in options.items():
        if not isinstance(value, kind):
            names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise SettingError(f"{where}: {name}: expected a {names}, got {value!r}")


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, Integral) or seed < 0:
        raise SettingError(f"compress: seed: expected a whole number >= 0, got {seed!r}")


def _check_trainable(model: nn.Module, loader: Iterable[Any], train: TrainConfig) -> None:
    check_loader(loader)
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("network: every parameter is frozen (requires_grad is False); expected train.epochs = 0")
    if train.optimizer == "adam" or train.weight_decay or train.clip_grad_norm:
        sparse = [name for name, module in model.named_modules() if has_sparse_gradients(module)]
        if sparse:
            raise ModelError(
                f"layers {', '.join(sparse)}: gradients are sparse, expected optimizer sgd with weight_decay and "
                "clip_grad_norm of 0; set sparse to False, or freeze the layer"
            )


def _exclude_each_other(**options: Any) -> None:
    if all(value is not None for value in options.values()):
        raise SettingError(f"compress: expected one of {' and '.join(options)}, got both")


def _given_settings(layers: Sequence[CompressibleLayer], given: Mapping[str, Theta]) -> dict[str, LayerSetting]:
    strange = [key for key in given if not isinstance(key, str)]
    if strange:
        raise SettingError(f"settings: expected layer names or shell patterns as keys, got {strange[0]!r}")
    chosen, used, patterns = {}, set(), Patterns(given)
    for layer in layers:
        key = patterns.first(layer.name)
        if key is None:
            raise ModelError(f"settings: no (p, b) for layer {layer.name}; given for: {', '.join(given) or 'none'}")
        chosen[layer.name] = _theta(key, given[key])
        used.add(key)
    unused = [key for key in given if key not in used]
    if unused:
        raise ModelError(
            f"settings: for no layer: {', '.join(unused)}; the layers: {', '.join(layer.name for layer in layers)}"
        )
    return chosen


def _theta(key: str, given: Theta) -> LayerSetting:
    if isinstance(given, LayerSetting):
        return given
    if not isinstance(given, Sequence) or len(given) != 2:
        raise SettingError(f"settings: {key}: expected (p, b), got {given!r}")
    return LayerSetting(*given)


def _objective(loss: Callable[[Any, Any], torch.Tensor] | None) -> Objective | None:
    """The objective of batches (x, y) with the user's loss; None where there is none."""
    if loss is None:
        return None

    def objective(model: nn.Module, batch: Any) -> StepLoss:
        x, y = inputs_and_labels(batch)
        n, value = _count(y), loss(model(x), y)
        if not isinstance(value, torch.Tensor):
            raise SettingError(f"loss: expected a scalar tensor, the mean over the samples, got {value!r:.200}")
        return StepLoss(value, float("nan"), n)

    return objective


def _count(targets: Any) -> int:
    """The samples of a batch."""
    try:
        return len(targets)
    except TypeError:
        kind = "a 0-d tensor" if isinstance(targets, torch.Tensor) else type(targets).__name__
        raise DataError(
            f"batch: expected targets with an entry a sample, got {kind}; give compress an objective instead of a loss"
        ) from None
