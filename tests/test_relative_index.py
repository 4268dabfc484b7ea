import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipq.relative_index import MAX_INDEX_BITS, RelativeIndex, entry_counts, expand, relative_index, zero_runs


def _by_hand(codes: list[int], index_bits: int) -> list[tuple[int, int]]:
    """The entries (gap, code) as the definition walks over the weights, one by one."""
    entries, run = [], 0
    for code in codes:
        if code == 0:
            run += 1
            continue
        while run >= 2**index_bits:
            entries.append((2**index_bits - 1, 0))
            run -= 2**index_bits
        entries.append((run, code))
        run = 0
    return entries


def test_the_figure_of_deep_compression() -> None:
    """Han et al. 2016, Figure 2: 3-bit gaps, weights at 1, 4 and 15; the last is reached over a filler zero.

    The figure counts a gap from the position before; here a gap is the number of zeros between, one less.
    """
    codes = np.zeros(16, np.uint8)
    codes[[1, 4, 15]] = [3, 2, 1]
    index = relative_index(codes, 3)
    assert index.gaps.tolist() == [1, 2, 7, 2]
    assert index.codes.tolist() == [3, 2, 0, 1]
    assert (index.n_entries, index.n_fillers) == (4, 1)


sparse_codes = st.lists(st.one_of(st.just(0), st.just(0), st.just(0), st.integers(0, 255)), max_size=80)


@given(sparse_codes, st.integers(0, MAX_INDEX_BITS))
def test_entries_follow_the_definition_and_expand_to_the_codes(codes: list[int], index_bits: int) -> None:
    array = np.array(codes, np.uint8)
    index = relative_index(array, index_bits)
    assert list(zip(index.gaps.tolist(), index.codes.tolist(), strict=True)) == _by_hand(codes, index_bits)
    assert expand(index, len(codes)).tolist() == codes


@given(sparse_codes)
def test_counts_are_those_of_the_entries_at_every_width(codes: list[int]) -> None:
    array = np.array(codes, np.uint8)
    counts = entry_counts(zero_runs(array))
    assert counts == [relative_index(array, w).n_entries for w in range(len(counts))]
    assert counts[-1] == np.count_nonzero(array)
    assert counts[:-1] == [c for c in counts[:-1] if c > counts[-1]]


def test_a_run_wider_than_the_widest_index() -> None:
    run = 2**MAX_INDEX_BITS + 5
    codes = np.zeros(run + 1, np.uint8)
    codes[run] = 9
    index = relative_index(codes, MAX_INDEX_BITS)
    assert index.gaps.tolist() == [2**MAX_INDEX_BITS - 1, 5]
    assert entry_counts(zero_runs(codes))[MAX_INDEX_BITS] == 2
    assert np.array_equal(expand(index, codes.size), codes)


@pytest.mark.parametrize(
    ("gaps", "codes", "n", "message"),
    [
        ([3, 3], [1, 1], 7, "within the layer's 7 weights, got the position 7"),
        ([2, 0], [0, 1], 9, "fillers to have gap 3"),
        ([3], [0], 9, "a kept weight after them"),
        ([0], [1], 0, "within the layer's 0 weights"),
    ],
)
def test_streams_that_contradict_themselves(gaps: list[int], codes: list[int], n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(RelativeIndex(2, np.array(gaps, np.uint32), np.array(codes, np.uint8)), n)
