"""Every reading of the paper that its sources leave open, for ``ASSUMPTIONS.md``: A01 to A11 are the fields of
``Conventions``, the later ones options of the search, of training and of what is compressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from clipq.conventions import Conventions


@dataclass(frozen=True)
class Assumption:
    """One open question.

    where: the attribute that answers it, ``module:Class.field``.
    options: what it can be, the default first.
    settle: what would decide it.
    variants: label -> overrides of an experiment (``section.key`` -> text), whose effect is measured against the
        defaults.  searched: whether (p, b) must be searched anew for it, or are those of the defaults.
    """

    id: str
    where: str
    question: str
    options: tuple[str, ...]
    evidence: str
    settle: str
    variants: Mapping[str, Mapping[str, str]]
    searched: bool


#: How each field of Conventions could be decided.
_BY_INFERENCE = "one run of the original's ws_learn_one_layer.m on the stored probes: `compare --infer`"
_SETTLE = {
    "A01": _BY_INFERENCE,
    "A02": _BY_INFERENCE,
    "A03": _BY_INFERENCE,
    "A04": _BY_INFERENCE + "; the probes have ties",
    "A05": _BY_INFERENCE,
    "A06": _BY_INFERENCE + "; the probes have weights on edges",
    "A07": "as A05, with the levels captured: the quantized weights alone cannot show it",
    "A08": "the streams of the original's encoder on the stored codes: `compare --infer`",
    "A09": "as A08, with the number of bits that the original reports",
    "A10": "the original's ws_train.m, or its logs in the release's results folder",
    "A11": "as A10",
}
#: Fields that only the search sees.
_SEARCHED = {"count_codebook", "search_order", "search_context"}

_KNOBS = (
    Assumption(
        "A12", "clipq.search_config:SearchConfig.lambda_", "What is lambda in eps - lambda c_i?",
        ("1",), "S: the objective's form; - for the value", "the original's ws_train.m, or the paper's full text",
        {"0.3": {"search.lambda_": "0.3"}, "3": {"search.lambda_": "3"}}, True,
    ),
    Assumption(
        "A13", "clipq.train_config:TrainConfig", "Solver, learning rate, batch size and iterations of the fine-tuning?",
        ("each experiment states its own",), "-", "the release's solver prototxt files",
        {"lr 0.0033": {"train.lr": "0.0033"}, "lr 0.03": {"train.lr": "0.03"}}, False,
    ),
    Assumption(
        "A14", "clipq.search_config:SearchConfig.p_step", "Over which p and b does the search go?",
        ("p = 0, 0.03, .., 0.99 and b = 2 .. 8",), "-", "the original's ws_train.m",
        {"b <= 4": {"search.b_max": "4"}, "p step 0.01": {"search.p_step": "0.01"}}, True,
    ),
    Assumption(
        "A15", "clipq.search_config:SearchConfig.subset", "On how many training images is eps measured?",
        ("5000",), "S: a subset of the training images", "the original's ws_train.m",
        {"1000": {"search.subset": "1000"}}, True,
    ),
    Assumption(
        "A16", "clipq.experiment:LayersConfig.include", "Which layers are compressed?",
        ("all convolutions and inner products, the first and the last included",),
        "S: a hardware paper (Cheng, Lin, Shih, 2022) does so in every layer of a 9-layer network",
        "the release's results folder", {}, False,
    ),
    Assumption(
        "A17", "clipq.quantized_net:QuantizedNet.tensors", "How are biases and batch normalization stored?",
        ("as they are, float32",), "-", "the original's encode_sparse_quantized_net_v2.m", {}, False,
    ),
    Assumption(
        "A18", "clipq.search:search", "Is the network fine-tuned within eps(theta)?",
        ("no",), "S: good values within 20-30 evaluations", "the original's ws_train.m", {}, False,
    ),
)  # fmt: skip


def assumptions() -> list[Assumption]:
    """All of them, in the order of their ids."""
    return [*(_of_field(f.name, f.metadata) for f in fields(Conventions)), *_KNOBS]


def _of_field(name: str, metadata: Mapping[str, str]) -> Assumption:
    default = str(getattr(Conventions(), name))
    others = [option for option in Conventions.options(name) if option != default]
    return Assumption(
        id=metadata["id"],
        where=f"clipq.conventions:Conventions.{name}",
        question=metadata["question"],
        options=(default, *others),
        evidence=metadata["evidence"],
        settle=_SETTLE[metadata["id"]],
        variants={option: _overrides(name, option) for option in others},
        searched=name in _SEARCHED,
    )


def _overrides(name: str, option: str) -> dict[str, str]:
    needed = {"conventions.clip_count": "round"} if option == "quantile" else {}
    return {**needed, f"conventions.{name}": option}
