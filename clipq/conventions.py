"""The readings of the paper that its sources leave open, each with an id, a default and its evidence.

Neither the original MATLAB release nor the paper's full text was at hand when this port was written.  Where
figures, abstracts and secondary sources do not settle a question, the answer is a field here.  ``P`` marks
evidence in the paper's own words or figures, ``S`` a secondary source, ``-`` none.  ``matlab_parity`` finds the
readings that a given MATLAB implementation follows.

Notation used below, for one side (sign) of a layer, or for the whole layer where ``clip_scope`` says so:
``n`` weights with magnitudes sorted as ``m_1 <= ... <= m_n``; ``m_0 = 0`` and ``m_{n+1} = m_n`` by definition;
``k`` of them are clipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args, get_type_hints

from clipq.errors import SettingError


def _reading(default: Any, id: str, stage: str, question: str, evidence: str) -> Any:
    return field(default=default, metadata={"id": id, "stage": stage, "question": question, "evidence": evidence})


@dataclass(frozen=True)
class Conventions:
    """One reading of the paper.  All defaults together give Figure 2 of the paper exactly.

    Raises:
        SettingError: a value that is not one of the field's options, or two that exclude each other.
    """

    clip_scope: Literal["per_sign", "all_weights"] = _reading(
        "per_sign", "A01", "layer", "Of what is p a fraction: of each sign's weights, or of all weights?",
        "S: p of the positive weights lie below c+, p of the negative ones above c-; one review: p of all weights",
    )  # fmt: skip
    clip_count: Literal["ceil", "round", "floor"] = _reading(
        "ceil", "A02", "layer", "How many weights is p*n?  round is MATLAB's, half away from zero.",
        "-; Figure 2 has p*n = 2 on each side, so all three give it",
    )  # fmt: skip
    clip_value: Literal["last_clipped", "first_kept", "midpoint", "quantile"] = _reading(
        "last_clipped", "A03", "layer",
        "What is the clip, from which the intervals start?  m_k, m_{k+1}, their mean, or MATLAB's quantile "
        "m_k + (p*n + 1/2 - k)(m_{k+1} - m_k), m_1 for k = 0, which needs clip_count = round.",
        "-; all four give Figure 2",
    )  # fmt: skip
    clip_ties: Literal["prune", "keep", "first"] = _reading(
        "prune", "A04", "layer",
        "Where m_k = m_{k+1}: are all weights of that magnitude pruned, are all kept, or are exactly k pruned, "
        "in the order of their linear index, as a stable sort does?  With clip_value = quantile so wherever the clip "
        "is a weight's magnitude: the first two are abs(w) <= c and abs(w) < c.",
        "-",
    )  # fmt: skip
    partition: Literal["per_sign", "joined"] = _reading(
        "per_sign", "A05", "layer",
        "How are 2^b - 1 intervals shared?  2^(b-1) on the negative and 2^(b-1) - 1 on the positive side, each "
        "side split uniformly; or one uniform split of the two non-clipped axes joined end to end.",
        "P: 'partition the non-clipped portion of the 1-D axis'; both give Figure 2",
    )  # fmt: skip
    edge: Literal["outer", "inner", "upper", "lower"] = _reading(
        "outer", "A06", "layer",
        "Does a weight on an edge between two intervals belong to the one further from zero or nearer to it; or to "
        "that of larger values on both sides, as histc and discretize have it, or of smaller ones?",
        "P: with clip_value = first_kept, -1.0 of Figure 2 lies on an edge and in the outer interval, that of smaller "
        "values",
    )  # fmt: skip
    empty_level: Literal["centre", "zero"] = _reading(
        "centre", "A07", "layer", "What level does an interval without weights get?  No weight takes it.",
        "-; zero is what accumarray(...)./max(count,1) leaves",
    )  # fmt: skip
    index_bits: Literal["best", "deep_compression"] = _reading(
        "best", "A08", "codec",
        "How wide is a relative index?  The width of fewest bytes for the layer, or Deep Compression's 8 bits for "
        "convolutions and 5 for fully connected layers.",
        "S: 'standard sparse encoding scheme'; Deep Compression's widths are its own",
    )  # fmt: skip
    count_codebook: Literal["yes", "no"] = _reading(
        "yes", "A09", "codec", "Does s_i(theta), the bits of a compressed layer, include its codebook?",
        "S: Deep Compression's tables count it; CLIP-Q's are silent",
    )  # fmt: skip
    search_order: Literal["forward", "backward", "largest_first"] = _reading(
        "forward", "A10", "search", "In which order are the layers searched?", "-"
    )
    search_context: Literal["quantized", "full_precision"] = _reading(
        "quantized", "A11", "search",
        "While a layer is searched, are those already searched quantized with their setting, or left as they are?",
        "-",
    )  # fmt: skip

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for f in fields(self):
            value, options = getattr(self, f.name), get_args(types[f.name])
            if value not in options:
                raise SettingError(
                    f"convention {f.name} ({f.metadata['id']}): expected one of {options}, got {value!r}"
                )
        if self.clip_value == "quantile" and self.clip_count != "round":
            raise SettingError(
                "conventions clip_value (A03) and clip_count (A02): MATLAB's quantile lies between the k-th and the "
                f"next weight only for k = round(p*n); expected clip_count='round', got {self.clip_count!r}"
            )

    @cached_property
    def learn_by_default(self) -> bool:
        """Whether all readings of how a layer is learned are the defaults."""
        return all(getattr(self, f.name) == f.default for f in fields(self) if f.metadata["stage"] == "layer")

    @classmethod
    def options(cls, name: str) -> tuple[str, ...]:
        """The options of the field ``name``, the default not necessarily first."""
        return get_args(get_type_hints(cls)[name])
