"""Labels of layers in figures: short, and as different as the names."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.figure_names import ROOM, layer_labels, shortened

BLOCKS = [
    f"unet.{side}_blocks.{block}.attentions.{i}.transformer_blocks.0.{layer}.weight"
    for side, block, i, layer in itertools.product(("down", "up"), range(3), range(12), ("attn1.to_q", "ff.net.2"))
]


def test_names_that_fit_are_whole():
    names = ["layer4.22.conv3.weight", "a" * ROOM, "b.in_proj_weight"]
    labels = layer_labels(names, names)
    assert list(labels.values()) == ["layer4.22.conv3", "a" * ROOM, "b.in_proj_weight"] and shortened(labels) == ""


def test_blocks_whose_names_end_alike_are_told_apart():
    labels = layer_labels(BLOCKS, BLOCKS)
    assert labels[BLOCKS[0]] == "un.do.0.at.0.tr.0.attn1.to_q"
    assert len(set(labels.values())) == len(BLOCKS) and max(map(len, labels.values())) <= ROOM
    assert shortened(labels)


def test_a_label_does_not_depend_on_what_else_is_shown():
    name = "encoder.layers.11.intermediate_dense.weight"
    names = [name, "encoder.layers.11.interesting_dense.weight"]
    assert layer_labels([name], names)[name] == layer_labels(names, names)[name] == "en.la.11.intermediate_dense"


def test_a_number_stays_apart_from_the_beginning_before_it():
    """``a1b2`` cut to ``a1`` and its number would be the name of another."""
    end = "." + "x" * (ROOM - 4)
    names = [f"{part}{end}" for part in ("a1b2", "a12", "a1b", "a1")]
    assert len(set(layer_labels(names, names).values())) == 4


PARTS = st.sampled_from(["a", "ab", "a1", "abc12", "b", "blocks", "12", "block_of_attention3", "block_of_attention"])


@given(st.sets(st.lists(PARTS, min_size=1, max_size=7).map(".".join), max_size=30))
def test_different_names_have_different_labels(paths: set[str]):
    names = sorted(paths)
    assert len(set(layer_labels(names, names).values())) == len(names)


@pytest.mark.parametrize("length", [ROOM + 1, 5000])
def test_one_part_that_is_too_long_loses_its_start(length: int):
    name = "1" * (length - 1) + "2"
    assert layer_labels([name], [name]) == {name: "…" + name[1 - ROOM :]}
