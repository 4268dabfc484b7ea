"""Whether a network as a whole can be compressed and stored: what is wrong is said before hours of training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import nn

from clipq.clipq_file import name_bytes
from clipq.errors import ModelError, SettingError
from clipq.tensor_bytes import type_name

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain_model(model: nn.Module) -> nn.Module:
    """``model`` itself, or the module inside one that ``torch.compile`` gave.

    Raises:
        ModelError: no module, a scripted one, one with a data-parallel wrapper or a compiled module in it.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ModelError(f"network: expected an eager torch.nn.Module, got {type(model).__name__}")
    plain = model._modules.get("_orig_mod") or model
    for name, module in plain.named_modules():
        if isinstance(module, _PARALLEL):
            raise ModelError(
                f"network: {name or 'it'} is wrapped in {type(module).__name__}; expected the plain module "
                "(its attribute .module), to be wrapped afterwards"
            )
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise ModelError(f"network: {name or 'it'} is compiled; expected a plain module, to be compiled afterwards")
    return plain


def is_uninitialized(value: Any) -> bool:
    """Whether this is a lazy module's parameter or buffer that has no shape yet."""
    return isinstance(value, nn.UninitializedParameter | nn.UninitializedBuffer)


def entries_of(model: nn.Module) -> dict[str, Any]:
    """The state dict with the network's own tensors, not views of them: also where a hook has put copies into it.

    Raises:
        ModelError: the network's ``state_dict`` takes other arguments than torch's.
    """
    try:
        state = model.state_dict(keep_vars=True)
    except TypeError as fault:
        raise ModelError(f"network: expected a state_dict that takes keep_vars=True, as torch's: {fault}") from fault
    own = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return state | {name: tensor for name, tensor in own if name in state}


def check_state(model: nn.Module, names: Iterable[str]) -> None:
    """Refuses a network whose state dict a file cannot hold.

    names: weights that must be among its entries.

    Raises:
        ModelError: an entry without values yet (lazy, or on the meta device), one that is no dense tensor with all of
            its elements, or with a name that the file cannot hold; weights that the state dict leaves out or calls
            otherwise.
    """
    state = entries_of(model)
    missing = [name for name in names if name not in state]
    if missing:
        raise ModelError(
            f"layers {', '.join(missing)}: not in the network's state dict under these names, as a hook of it has it; "
            "exclude them, or take the hook off"
        )
    for name, value in state.items():
        if is_uninitialized(value):
            raise ModelError(f"{name}: not initialized yet; run one batch through the network first")
        try:
            name_bytes(name)
            type_name(name, value)
        except SettingError as fault:
            raise ModelError(str(fault)) from fault
