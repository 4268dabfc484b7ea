"""scikit-learn's handwritten digits: 1,797 images of 8x8 that come with the package."""

from __future__ import annotations

import numpy as np
import torch

from clipq.data.dataset import TensorDataset, TensorPair, every_nth, fingerprint


def load_digits() -> TensorDataset:
    """Pixels in [0, 1] (the stored ones are 0 .. 16).  Of ten images of a class, in their order: seven to train, one to
    val, two to test."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    images, labels = np.asarray(bunch.images), np.asarray(bunch.target)
    val = every_nth(labels, 10, offset=2)
    test = every_nth(labels, 10) | every_nth(labels, 10, offset=1)

    def pair(chosen: np.ndarray) -> TensorPair:
        x = torch.from_numpy(images[chosen].astype(np.float32)[:, None] / 16)
        return TensorPair(x, torch.from_numpy(labels[chosen].astype(np.int64)))

    digest = fingerprint(images, labels, val, test)
    return TensorDataset("digits", pair(~val & ~test), pair(val), pair(test), 10, digest)
