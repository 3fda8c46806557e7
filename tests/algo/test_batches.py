import pytest
import torch
from builders import make_sample

from lzero.algo.batches import Scored, collate, lay_out, step_advantages, unscored
from lzero.algo.layout import Layout, Row
from lzero.types import Sample


def sample(token_ids: tuple[int, ...], mask: tuple[int, ...], *, temperature: float = 1.0) -> Sample:
    step_index = [on - 1 for on in mask]
    logprobs = [-0.5 * on for on in mask]
    return make_sample(step_index, name="e", token_ids=token_ids, logprobs=logprobs, temperature=temperature)


def scored(token_ids: tuple[int, ...], mask: tuple[int, ...], *, temperature: float = 1.0) -> Scored:
    return Scored(
        sample=sample(token_ids, mask, temperature=temperature),
        advantages=tuple(0.25 * on * token for on, token in zip(mask, token_ids, strict=True)),
        reference_logprobs=tuple(-1.0 * on * token for on, token in zip(mask, token_ids, strict=True)),
        old_logprobs=tuple(-0.5 * on for on in mask),
    )


def test_a_row_is_padded_on_the_right_and_its_action_tokens_are_found() -> None:
    micro = lay_out(
        [scored((1, 2, 3, 4), (0, 1, 0, 1)), scored((5, 6), (0, 1), temperature=0.5)],
        [(0.0, 0.25, 0.0, 0.25), (0.0, 0.5)],
        [Row(members=(0,), length=4), Row(members=(1,), length=2)],
    )
    assert micro.weights.tolist() == [0.25, 0.25, 0.5]
    assert micro.position_ids is None
    assert micro.seen_until is None
    assert micro.token_ids.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert micro.targets.tolist() == [2, 4, 6]
    assert micro.predictors.tolist() == [0, 2, 4]
    assert micro.token_ids.flatten()[micro.predictors].tolist() == [1, 3, 5]
    assert micro.advantages.tolist() == [0.5, 1.0, 1.5]
    assert micro.reference_logprobs.tolist() == [-2.0, -4.0, -6.0]
    assert micro.logprobs.tolist() == [-0.5, -0.5, -0.5]
    assert micro.temperatures.tolist() == [1.0, 1.0, 0.5]


def test_what_sequences_share_stands_once_in_a_tree_and_each_sees_only_its_own() -> None:
    rows = [scored((1, 2, 3, 4), (0, 0, 1, 1)), scored((1, 2, 5), (0, 0, 1)), scored((7, 8), (0, 1))]
    micro = lay_out(
        rows,
        [(0.0, 0.0, 0.25, 0.25), (0.0, 0.0, 0.3), (0.0, 0.2)],
        [Row(members=(0, 1), length=5), Row(members=(2,), length=2)],
        packing="tree",
    )
    assert micro.token_ids.tolist() == [[1, 2, 3, 4, 5], [7, 8, 0, 0, 0]]
    assert micro.position_ids is not None
    assert micro.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert micro.seen_until is not None
    assert micro.seen_until.tolist() == [[5, 5, 4, 4, 5], [2, 2, 5, 5, 5]]
    assert micro.targets.tolist() == [3, 4, 5, 8]
    assert micro.predictors.tolist() == [1, 2, 1, 5]
    assert micro.weights.tolist() == [0.25, 0.25, 0.3, 0.2]


def test_every_action_token_carries_its_steps_advantage() -> None:
    merged = make_sample((-1, -1, 1, 1, -1, 2))
    assert step_advantages(merged, (9.0, 0.7, -0.7)) == (0.0, 0.0, 0.7, 0.7, 0.0, -0.7)


def test_a_batch_counts_the_action_tokens_of_the_whole_update() -> None:
    rows = [scored((1, 2, 3), (0, 1, 1)), scored((4, 5), (0, 1)), scored((6, 7, 8, 9), (0, 0, 0, 1))]
    for max_tokens in (1, 4, 6, 100):
        batch = collate(rows, Layout(max_tokens=max_tokens))
        assert batch.num_action_tokens == 4
        assert sum(len(micro.targets) for micro in batch.micro_batches) == 4
        assert batch.num_tokens == 9
        assert batch.num_computed == sum(micro.token_ids.numel() for micro in batch.micro_batches)
    assert collate(rows, Layout(max_tokens=1)).num_computed == 9
    assert collate(rows, Layout(max_tokens=100)).num_computed == 12


def test_a_sample_that_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with an action token"):
        collate([unscored(sample((1, 2), (1, 0)))], Layout(max_tokens=10))
    with pytest.raises(ValueError, match="temperature"):
        collate([unscored(sample((1, 2), (0, 1), temperature=0.0))], Layout(max_tokens=10))
    with pytest.raises(ValueError, match="no action token"):
        collate([unscored(sample((1, 2), (0, 0)))], Layout(max_tokens=10))
    with pytest.raises(ValueError, match="different lengths"):
        Scored(sample=sample((1, 2), (0, 1)), advantages=(0.0,), reference_logprobs=(0.0, 0.0), old_logprobs=(0.0, 0.0))


def test_a_row_to_imitate_has_one_advantage_where_the_policy_acted() -> None:
    row = unscored(sample((1, 2, 3), (0, 1, 1)), advantage=1.0)
    assert row.advantages == (0.0, 1.0, 1.0)
    assert row.reference_logprobs == (0.0, 0.0, 0.0)


def test_a_micro_batch_keeps_its_types_on_a_device() -> None:
    micro = lay_out([scored((1, 2), (0, 1))], [(0.0, 1.0)], [Row(members=(0,), length=2)]).to(torch.device("cpu"))
    assert micro.token_ids.dtype == micro.targets.dtype == micro.predictors.dtype == torch.int64
    assert micro.advantages.dtype == torch.float64
