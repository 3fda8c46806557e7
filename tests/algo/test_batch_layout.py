from collections.abc import Sequence

from builders import make_sample

from lzero.algo.layout import Layout, Packing, Row, num_computed, paths, plan
from lzero.types import Sample

SYSTEM = tuple(range(100, 140))


def sample(*token_ids: int, episode: str = "e") -> Sample:
    return make_sample((-1,) * len(token_ids), name=episode, token_ids=token_ids)


def planned(
    samples: Sequence[Sample], *, max_tokens: int, packing: Packing, whole: bool = False
) -> list[list[tuple[int, ...]]]:
    layout = Layout(max_tokens=max_tokens, packing=packing, whole_episodes=whole)
    micro_batches = plan(samples, layout)
    members = sorted(index for rows in micro_batches for row in rows for index in row.members)
    assert members == list(range(len(samples)))
    assert all(num_computed(rows, layout) <= max_tokens or len(rows) == 1 for rows in micro_batches)
    return [[row.members for row in rows] for rows in micro_batches]


def test_micro_batches_hold_every_sequence_once_within_their_tokens_longest_first() -> None:
    def lengths(*lengths: int, packing: Packing) -> list[list[tuple[int, ...]]]:
        return planned([sample(*(1,) * length) for length in lengths], max_tokens=20, packing=packing)

    assert lengths(3, 10, 4, 4, 9, 1, packing="padded") == [[(1,), (4,)], [(2,), (3,), (0,), (5,)]]
    assert lengths(3, 10, 4, 4, 9, 1, packing="packed") == [[(1, 4)], [(2, 3, 0, 5)]]
    assert lengths(3, 10, 4, 4, 2, 1, packing="packed") == [[(1, 2, 3)], [(0, 4, 5)]]
    assert lengths(30, 5, packing="padded") == [[(0,)], [(1,)]]
    assert lengths(packing="padded") == lengths(packing="packed") == lengths(packing="tree") == []


def test_a_tree_holds_sequences_that_begin_alike() -> None:
    alike = [sample(*SYSTEM, 1, 2), sample(7, 8, 9), sample(*SYSTEM, 1, 3, 4), sample(*SYSTEM, 1, 2)]
    assert planned(alike, max_tokens=1000, packing="tree") == [[(0, 3, 2), (1,)]]
    [[tree, other]] = plan(alike, Layout(max_tokens=1000, packing="tree"))
    assert (tree, other) == (Row(members=(0, 3, 2), length=44), Row(members=(1,), length=3))


def test_a_tree_grows_no_larger_than_a_micro_batch_nor_than_saves_work() -> None:
    alike = [sample(*SYSTEM, number, *range(20)) for number in range(4)]
    assert planned(alike, max_tokens=85, packing="tree") == [[(0, 1)], [(2, 3)]]
    one_token = [sample(1, *(number,) * 1000) for number in range(3)]
    assert planned(one_token, max_tokens=10_000, packing="tree") == [[(0,), (1,), (2,)]]


def test_trees_stand_beside_each_other_where_there_would_be_padding() -> None:
    lengths = [sample(*(number,) * length) for number, length in enumerate((10, 6, 5, 4, 3))]
    assert planned(lengths, max_tokens=1000, packing="tree") == [[(0,), (1, 3), (2, 4)]]
    assert planned(lengths, max_tokens=1000, packing="padded") == [[(0,), (1,), (2,), (3,), (4,)]]


def test_where_attention_costs_what_tokens_see_all_that_is_shared_is_joined_and_a_micro_batch_is_one_row() -> None:
    def lengths(samples: Sequence[Sample], max_tokens: int) -> list[tuple[tuple[int, ...], int]]:
        layout = Layout(max_tokens=max_tokens, packing="tree", square=False)
        [*rows] = [(row.members, row.length) for [row] in plan(samples, layout)]
        return rows

    one_token = [sample(1, *(number,) * 1000) for number in range(3)]
    assert lengths(one_token, 10_000) == [((0, 1, 2), 3001)]
    assert lengths(one_token, 2_500) == [((0, 1), 2001), ((2,), 1001)]
    assert lengths([sample(*(number,) * length) for number, length in enumerate((10, 6, 5))], 16) == [
        ((0, 1), 16),
        ((2,), 5),
    ]


def test_what_must_stay_together_shares_a_micro_batch_and_a_tree_of_its_own() -> None:
    trimmed = [sample(*SYSTEM, 1, episode="a"), sample(*SYSTEM, 2, episode="b"), sample(*SYSTEM, 3, episode="a")]
    assert planned(trimmed, max_tokens=50, packing="tree", whole=True) == [[(0, 2)], [(1,)]]
    assert planned(trimmed, max_tokens=90, packing="padded", whole=True) == [[(0,), (2,)], [(1,)]]


def test_a_path_goes_through_what_was_there_before() -> None:
    sequences = [(1, 2, 3), (1, 2, 3), (1, 2, 4, 5), (1, 6)]
    assert paths(sequences, "tree") == [[0, 1, 2], [0, 1, 2], [0, 1, 3, 4], [0, 5]]
    assert paths(sequences, "packed") == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9], [10, 11]]
