"""Inputs that tell conventions apart: what to run an unknown implementation on so that its reading shows.

Every candidate lies on a lattice of binary fractions, so sums and edges are exact and a difference between two
conventions is a difference of what they do, never of rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from clipq.conventions import Conventions
from clipq.ws_learn_one_layer import LayerQuantization, ws_learn_one_layer
from matlab_parity.layer_inputs import LayerInput

#: What an implementation may show of itself; ``quantized`` it must.
OUTPUTS = ("quantized", "codes", "levels", "c_neg", "c_pos")
RATES = (0.0, 0.15, 0.2, 0.3, 0.35, 0.4, 0.5, 0.55, 0.65)


def candidates(rng: np.random.Generator) -> Iterator[LayerInput]:
    """Endless small layers: spread values, values with many ties, and unequal sides."""
    while True:
        n = int(rng.integers(4, 31))
        W = (
            np.round(rng.normal(size=n) * 64) / 64,
            rng.integers(-6, 7, n) / 4,
            rng.integers(-16, 17, n) / 8,
            np.concatenate([rng.integers(1, 9, n) / 4, -rng.integers(1, 4, max(1, n // 4)) / 4]),
        )[int(rng.integers(4))]
        yield LayerInput("probe", W, float(rng.choice(RATES)), int(rng.choice((2, 3, 3, 4))))


def learn(probe: LayerInput, conventions: Conventions) -> LayerQuantization[np.ndarray]:
    """What Python makes of the input in this reading."""
    return ws_learn_one_layer(probe.W, probe.p, probe.b, conventions, probe.name)


def signature(probe: LayerInput, conventions: Conventions, outputs: Sequence[str]) -> bytes:
    """The named outputs as bytes, equal for two conventions that this input does not tell apart."""
    result = learn(probe, conventions)
    return b"".join(np.asarray(getattr(result, name), order="C").tobytes() for name in outputs)


def split(
    groups: Sequence[Sequence[Conventions]], probe: LayerInput, outputs: Sequence[str]
) -> list[list[Conventions]]:
    """Each group of conventions divided into those that the probe does not tell apart."""
    parts: list[list[Conventions]] = []
    for group in groups:
        by_signature: dict[bytes, list[Conventions]] = {}
        for conventions in group:
            by_signature.setdefault(signature(probe, conventions, outputs), []).append(conventions)
        parts += by_signature.values()
    return parts


def search(
    conventions: Sequence[Conventions],
    outputs: Sequence[str],
    rng: np.random.Generator,
    *,
    tries: int = 14,
    patience: int = 4,
) -> tuple[list[LayerInput], list[list[Conventions]]]:
    """Inputs that divide ``conventions`` as far as the named outputs can show, and the groups that remain.

    Greedy: of every ``tries`` candidates the one that makes the most groups; it ends when every group is one
    setting, or when ``patience`` rounds in a row have divided nothing.
    """
    groups: list[list[Conventions]] = [list(conventions)]
    found: list[LayerInput] = []
    stream, idle = candidates(rng), 0
    while idle < patience and any(len(group) > 1 for group in groups):
        open_groups = [group for group in groups if len(group) > 1]
        trials = [(probe, split(open_groups, probe, outputs)) for probe in islice(stream, tries)]
        probe, parts = max(trials, key=lambda trial: len(trial[1]))
        if len(parts) == len(open_groups):
            idle += 1
            continue
        idle = 0
        found.append(LayerInput(f"probe_{len(found) + 1:02d}", probe.W, probe.p, probe.b))
        groups = [group for group in groups if len(group) == 1] + parts
    return found, groups
