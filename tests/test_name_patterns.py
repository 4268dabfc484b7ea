"""Patterns stand for what they would if each were held against each name."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from clipq.name_patterns import Patterns

names = st.lists(st.sampled_from(["a", "b", "weight", "0", "x[1]"]), min_size=1, max_size=3).map(".".join)
patterns = names | st.sampled_from(["*", "a*", "?.weight", "*.b.*", "[ab].0", "x[1]*"])


def stands_for(pattern: str, weight: str) -> bool:
    own = weight, weight.rpartition(".")[0]
    return any(name == pattern or fnmatchcase(name, pattern) for name in own)


@given(st.lists(patterns, max_size=6), st.lists(names, max_size=5))
def test_the_first_that_stands_for_a_weight_and_those_that_stand_for_none(given: list[str], weights: list[str]) -> None:
    some = Patterns(given)
    for weight in weights:
        expected = next((pattern for pattern in given if stands_for(pattern, weight)), None)
        assert some.first(weight) == expected
        assert some.match(weight) == (expected is not None)
    unmatched = [p for p in dict.fromkeys(given) if not any(stands_for(p, weight) for weight in weights)]
    assert list(some.unmatched(weights)) == unmatched
