"""Where no reading reproduces every case: which outputs some reading does reproduce, and which readings are closest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from clipq.conventions import Conventions
from matlab_parity.observation import Observation

#: The readings that reproduce an output in every case, by output.
ByOutput = Mapping[str, tuple[Conventions, ...]]


@dataclass(frozen=True)
class NearMiss:
    """A reading, and each case that contradicts it with the quantities in which it does."""

    reading: Conventions
    contradicted_by: tuple[tuple[str, tuple[str, ...]], ...]


def by_output_alone(observations: Sequence[Observation], every: Sequence[Conventions]) -> ByOutput:
    """For each output the readings that reproduce it in every case, whatever they make of the others."""
    outputs = dict.fromkeys(name for observation in observations for name in observation.outputs)
    reproduced = {c: set(outputs) for c in every}
    for observation in sorted(observations, key=lambda o: o.size):
        for c in every:
            if reproduced[c]:
                first, *others = observation.differences(c)
                reproduced[c] -= set(first).intersection(*others)
    return {name: tuple(c for c in every if name in reproduced[c]) for name in outputs}


def closest(
    observations: Sequence[Observation],
    every: Sequence[Conventions],
    alone: ByOutput,
    telling: Collection[str],
    top: int = 3,
    most: int = 40,
) -> tuple[NearMiss, ...]:
    """Of the readings that reproduce most outputs in every case those that the fewest cases contradict.

    The ``most`` smallest cases and the ``telling`` ones choose the ``top`` readings; every case is asked of these.
    """
    n_outputs = Counter(c for readings in alone.values() for c in readings)
    likely = [c for c in every if n_outputs[c] == max(n_outputs.values(), default=0)]
    ordered = sorted(observations, key=lambda o: o.size)
    few = [o for i, o in enumerate(ordered) if i < most or o.name in telling]
    nearest = sorted(likely, key=lambda c: sum(bool(o.contradicts(c)) for o in few))[:top]
    misses = [NearMiss(c, tuple((o.name, o.contradicts(c)) for o in ordered if o.contradicts(c))) for c in nearest]
    return tuple(sorted(misses, key=lambda miss: len(miss.contradicted_by)))
