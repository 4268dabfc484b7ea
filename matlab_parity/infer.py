"""Which reading of the paper does an implementation follow?  Found from inputs and outputs alone.

Every reading (every setting of the open questions) predicts the outputs; those that contradict what was observed are
excluded, each by a case.  Readings that are left and cannot be told apart by the observed cases are set side by side
with an input that would tell them apart, or with the output that would have to be captured, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np

from clipq.conventions import Conventions
from clipq.patience import patience
from matlab_parity.layer_inputs import LAYER_FIELDS, LayerInput, settings_of
from matlab_parity.near_misses import ByOutput, NearMiss, by_output_alone, closest
from matlab_parity.observation import CODEC_OUTPUTS, Observation, from_the_end, read_observations
from matlab_parity.probes import OUTPUTS, candidates, learn, search


@dataclass(frozen=True, eq=False)
class Inference:
    """What the observations say.

    fields: the open questions that were asked.  survivors: the readings that reproduce every case.
    excluded: each other reading -> the first case, and the quantity in it, that it contradicts.
    groups: the survivors, divided by the inputs in ``probes``; readings in one group no input could tell apart by the
        outputs observed.  needed: for such a group, the outputs not observed that do differ.
    alone, closest: where there are no survivors, what ``near_misses`` says.
    last_of_equals: where there are none, the readings that reproduce every case but for this: of equal weights the last
        ones are pruned, as by ``sort(..., 'descend')``, and not the first.
    """

    fields: tuple[str, ...]
    observations: tuple[str, ...]
    survivors: tuple[Conventions, ...]
    excluded: Mapping[Conventions, tuple[str, str]]
    probes: tuple[LayerInput, ...] = ()
    groups: tuple[tuple[Conventions, ...], ...] = ()
    needed: Mapping[tuple[Conventions, ...], tuple[str, ...]] | None = None
    alone: ByOutput = field(default_factory=dict)
    closest: tuple[NearMiss, ...] = ()
    last_of_equals: tuple[Conventions, ...] = ()

    def reproduced(self, field: str) -> list[str]:
        """The options of a question with which some reading reproduces everything."""
        return [o for o in Conventions.options(field) if any(getattr(c, field) == o for c in self.survivors)]

    def excluded_by(self, field: str, option: str) -> tuple[str, str] | None:
        """The case and quantity that exclude this option; None where a reading with it survives.

        Of the readings with the option, the one that differs from a survivor in nothing else speaks, or else the
        last one excluded.
        """
        if option in self.reproduced(field):
            return None
        others = [name for name in self.fields if name != field]
        reasons = [(c, why) for c, why in self.excluded.items() if getattr(c, field) == option]
        near = [
            why
            for c, why in reasons
            if any(all(getattr(c, n) == getattr(s, n) for n in others) for s in self.survivors)
        ]
        return near[-1] if near else reasons[-1][1]


def infer(path: Path, seed: int = 0) -> Inference:
    """What the cases in a ``.mat`` file say: those of ``read_observations``, with its errors."""
    asked, observations = read_observations(path)
    if asked == LAYER_FIELDS:
        return infer_layer(observations, seed)
    found = _eliminated(asked, observations)
    if not found.survivors:
        return found
    needed = {found.survivors: _not_given(observations, found.survivors)} if len(found.survivors) > 1 else {}
    return replace(found, groups=(found.survivors,), needed=needed)


def infer_layer(observations: Sequence[Observation], seed: int = 0) -> Inference:
    """The same for observations of ``ws_learn_one_layer``."""
    found = _eliminated(LAYER_FIELDS, observations)
    if not found.survivors:
        first = [c for c in found.excluded if c.clip_ties == "first"]
        return replace(found, last_of_equals=eliminate([from_the_end(o) for o in observations], first)[0])
    seen = [n for n in OUTPUTS if all(n in o.outputs and not np.isnan(o.outputs[n]).any() for o in observations)]
    rng = np.random.default_rng(seed)
    with patience(f"matlab_parity looks for inputs that tell {len(found.survivors)} readings apart"):
        probes, groups = search(found.survivors, seen, rng, tries=4, patience=3)
        inputs = list(islice(candidates(rng), 24))
        needed = {tuple(group): _needed(group, inputs) for group in groups if len(group) > 1}
    return replace(found, probes=tuple(probes), groups=tuple(map(tuple, groups)), needed=needed)


def _eliminated(asked: tuple[str, ...], observations: Sequence[Observation]) -> Inference:
    """The readings that are left; where none is, those that come near."""
    every = settings_of(asked)
    names = tuple(observation.name for observation in observations)
    with patience(f"matlab_parity holds {len(every)} readings against the cases"):
        survivors, excluded = eliminate(observations, every)
        if survivors:
            return Inference(asked, names, survivors, excluded)
        alone = by_output_alone(observations, every)
        nearest = closest(observations, every, alone, {case for case, _ in excluded.values()})
    return Inference(asked, names, survivors, excluded, alone=alone, closest=nearest)


def eliminate(
    observations: Sequence[Observation], every: Sequence[Conventions]
) -> tuple[tuple[Conventions, ...], dict[Conventions, tuple[str, str]]]:
    """The readings that no observation contradicts, and for each other one the case and quantity that does.

    Small cases first: they cost little and exclude most.
    """
    left, excluded = list(every), {}
    for observation in sorted(observations, key=lambda o: o.size):
        contradictions = {c: observation.contradicts(c) for c in left}
        excluded.update({c: (observation.name, found[0]) for c, found in contradictions.items() if found})
        left = [c for c in left if not contradictions[c]]
    return tuple(left), excluded


def changes(conventions: Conventions, names: Sequence[str]) -> str:
    """How a reading differs from the defaults."""
    changed = [f"{n}={getattr(conventions, n)}" for n in names if getattr(conventions, n) != getattr(Conventions(), n)]
    return ", ".join(changed) or "the defaults"


def identifier(name: str) -> str:
    """A field's id, such as A01."""
    return str(next(f.metadata["id"] for f in fields(Conventions) if f.name == name))


def _not_given(observations: Sequence[Observation], group: Sequence[Conventions]) -> tuple[str, ...]:
    """The outputs of the codec in which the group's readings differ on some case; none of them was given."""
    first, *others = group
    return tuple(
        name
        for name in CODEC_OUTPUTS
        if any(
            not np.array_equal(o.predict(first)[0][name], o.predict(c)[0][name]) for o in observations for c in others
        )
    )


def _needed(group: Sequence[Conventions], inputs: Sequence[LayerInput]) -> tuple[str, ...]:
    """The outputs by which some of the inputs divides the group."""
    different: set[str] = set()
    for probe in inputs:
        first, *others = [learn(probe, conventions) for conventions in group]
        different |= {
            name
            for name in set(OUTPUTS) - different
            if any(not np.array_equal(getattr(first, name), getattr(other, name)) for other in others)
        }
    return tuple(name for name in OUTPUTS if name in different)
