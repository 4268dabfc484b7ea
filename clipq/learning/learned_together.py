"""The layers of a network on an accelerator, pruned and quantized together: once for a pass through the network.

An accelerator takes as long to start an operation as to do it on a hundred thousand weights, so a layer at a time is
slow.  Weights change between two passes only: the first layer that is used learns all that have changed, or were used
since they were last learned.  Each result is given out once, and none outlives a backward pass, so that a change that
autograd does not know of, such as an optimizer's that writes to ``weight.data``, is never missed in training.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from clipq.conventions import Conventions
from clipq.learning.device_weights import DeviceLayers, learn_together

if TYPE_CHECKING:
    from clipq.weight_sharing import WeightSharing


class _Result(NamedTuple):
    """Of the layers that were learned together, which one; state: what it was learned from."""

    state: tuple
    learned: DeviceLayers
    layer: int


class LearnedTogether:
    """Parametrizations that are used in the same passes.

    A copy, of a network or one that is pickled, starts anew, with those that are used through it.
    """

    def __init__(self, conventions: Conventions) -> None:
        self.conventions = conventions
        self._weights: WeakKeyDictionary[WeightSharing, torch.Tensor] = WeakKeyDictionary()
        self._results: WeakKeyDictionary[WeightSharing, _Result] = WeakKeyDictionary()
        self._lock = Lock()  # replicas on several devices run in threads

    def __reduce__(self) -> tuple[Any, ...]:
        return LearnedTogether, (self.conventions,)

    def add(self, sharing: WeightSharing, W: torch.Tensor) -> None:
        """Lets W be learned with the others before it is first used."""
        self._weights[sharing] = W

    def forget(self) -> None:
        """Lets go of all weights."""
        self._weights.clear()
        self.expire()

    def expire(self) -> None:
        """Lets go of what has been learned, but not been used."""
        with self._lock:
            self._results.clear()

    def expire_after_backward(self, grad: torch.Tensor) -> None:
        """A hook of what a backward pass goes through; activations that it computes again may use results in it."""
        torch.autograd.Variable._execution_engine.queue_callback(self.expire)

    def take(self, sharing: WeightSharing, W: torch.Tensor) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
        """The quantized weights, and what gives their codes, of W's shape."""
        with self._lock:
            self._weights[sharing] = W
            if not self._is_ready(sharing, W):
                self._learn(W)
            _, learned, layer = self._results.pop(sharing)
        span, codes, shape = learned.span(layer), learned.codes.view(-1), W.shape
        return learned.quantized.view(-1)[span].view(shape), lambda: codes[span].view(shape)

    def _is_ready(self, sharing: WeightSharing, W: torch.Tensor) -> bool:
        return sharing in self._results and self._results[sharing].state == state_of(sharing, W)

    def _is_due(self, sharing: WeightSharing, W: torch.Tensor, like: torch.Tensor) -> bool:
        """Whether W may be learned ahead, together with ``like``."""
        together = (W.device, W.dtype) == (like.device, like.dtype) and not W.is_inference()
        return together and not self._is_ready(sharing, W)

    def _learn(self, like: torch.Tensor) -> None:
        """All that are not ready, of one type and device."""
        due = [(sharing, W) for sharing, W in self._weights.items() if W is like or self._is_due(sharing, W, like)]
        flat, settings = [W.detach().reshape(-1) for _, W in due], [sharing.setting for sharing, _ in due]
        with torch.no_grad():
            learned = learn_together(flat, settings, self.conventions)
        for i, (sharing, W) in enumerate(due):
            self._results[sharing] = _Result(state_of(sharing, W), learned, i)


def state_of(sharing: WeightSharing, W: torch.Tensor) -> tuple:
    """Differs where the result may: with another setting, tensor, memory or content, as long as W is kept.

    Always for inference tensors, which do not tell when they are written to.  Also on another stream, where the result
    is not there yet, and with or without gradients: weights are often exchanged for a validation.
    """
    version = object() if W.is_inference() else W._version
    stream = torch.cuda.current_stream(W.device).cuda_stream if W.is_cuda else 0
    tensor = (id(W), W.data_ptr(), W.shape, W.stride(), W.dtype, W.device, version)
    return sharing.setting, tensor, stream, torch.is_grad_enabled()
