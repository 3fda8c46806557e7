"""Which tokens see each other, as masks, segments and blocks say it."""

import random
from itertools import pairwise

import torch
from builders import make_sample

from lzero.algo.batches import MicroBatch, lay_out, unscored
from lzero.algo.layout import Packing, Row
from lzero.train.attention.flex import BLOCK, block_mask
from lzero.train.attention.segments import Segments, seen_until, square_mask


def micro_batch(sequences: list[tuple[int, ...]], packing: Packing, rows: list[Row]) -> MicroBatch:
    samples = [make_sample([-1] + [0] * (len(ids) - 1), token_ids=ids) for ids in sequences]
    scored = [unscored(sample) for sample in samples]
    return lay_out(scored, [row.advantages for row in scored], rows, packing=packing)


def test_a_token_sees_what_is_before_it_and_still_seen_at_its_place() -> None:
    assert square_mask(torch.tensor([[5, 5, 4, 4, 5], [2, 2, 5, 5, 5]])).int().tolist() == [
        [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]],
        [[[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]],
    ]


def test_sequences_of_a_packed_row_and_rows_of_one_sequence_are_segments() -> None:
    packed = micro_batch([(1, 2, 3), (1, 2)], "packed", [Row(members=(0, 1), length=5)])
    assert seen_until(packed).tolist() == [[3, 3, 3, 5, 5]]
    padded = micro_batch([(1, 2, 3), (1, 2)], "padded", [Row(members=(0,), length=3), Row(members=(1,), length=2)])
    assert seen_until(padded).tolist() == [[3, 3, 3], [3, 3, 3]]
    for micro, ends in ((packed, [0, 3, 5]), (padded, [0, 3, 6])):
        segments = Segments.of(micro)
        assert segments.query_ends.tolist() == segments.key_ends.tolist() == ends
        assert segments.key_places is None
        assert segments.longest == (3, 3)


def test_a_segment_of_a_tree_has_the_keys_of_its_path() -> None:
    sequences = [(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2, 3), (1, 7), (8, 9)]
    tree = micro_batch(sequences, "tree", [Row(members=(0, 1, 2, 3), length=7), Row(members=(4,), length=2)])
    segments = Segments.of(tree)
    assert segments.query_ends.tolist() == [0, 4, 6, 7, 9, 14]
    assert segments.key_places is not None
    ends = segments.key_ends.tolist()
    keys = [segments.key_places[start:end].tolist() for start, end in pairwise(ends)]
    assert keys == [[0, 1, 2, 3], [0, 1, 2, 4, 5], [0, 6], [7, 8], [9, 10, 11, 12, 13]]
    assert segments.longest == (5, 5)


def random_tree(width: int, *, seed: int) -> torch.Tensor:
    """Return `seen_until` of a row in which stretches begin anywhere on the path of the one before."""
    stream = random.Random(seed)
    until, path, length = [width] * width, list[int](), 0
    while length < width:
        kept = stream.randint(0, len(path))
        for token in path[kept:]:
            until[token] = length
        added = min(stream.randint(1, 300), width - length)
        path = path[:kept] + list(range(length, length + added))
        length += added
    return torch.tensor(until)


def test_blocks_are_skipped_where_no_token_sees_another_and_whole_where_all_do() -> None:
    until = torch.stack([random_tree(1000, seed=seed) for seed in range(5)])
    mask = block_mask(until)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    seen = torch.zeros(5, 1024, 1024, dtype=torch.bool)
    seen[:, :1000, :1000] = square_mask(until)[:, 0]
    blocks = seen.unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK).flatten(-2)
    for row, query in [(row, query) for row in range(5) for query in range(8)]:
        part = mask.kv_indices[row, 0, query, : mask.kv_num_blocks[row, 0, query]].tolist()
        whole = mask.full_kv_indices[row, 0, query, : mask.full_kv_num_blocks[row, 0, query]].tolist()
        assert sorted(part + whole) == blocks[row, query].any(-1).nonzero().flatten().tolist()
        assert all(blocks[row, query, key].all() for key in whole)
        assert not any(blocks[row, query, key].all() for key in part if query < 7)
