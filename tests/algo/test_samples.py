import hypothesis
import hypothesis.strategies as st
import pytest
from builders import make_completion, make_episode, make_step
from msgspec import structs

from lzero.algo.samples import to_samples
from lzero.types import Episode, Failure, Sampling, Step


def step(keep: int, new_ids: tuple[int, ...], action: tuple[int, ...], version: int = 7) -> Step:
    completion = make_completion(action, logprobs=[-0.1 * token for token in action], version=version)
    return make_step(completion, new_ids=new_ids, keep=keep)


def episode(*steps: Step) -> Episode:
    return make_episode(*steps, sampling=Sampling(temperature=0.7))


def test_steps_whose_prompt_extends_the_last_sequence_are_one_sample() -> None:
    (sample,) = to_samples(episode(step(0, (1, 2), (3, 4), version=7), step(4, (5,), (6,), version=8)))
    assert sample.token_ids == (1, 2, 3, 4, 5, 6)
    assert sample.mask == (0, 0, 1, 1, 0, 1)
    assert sample.step_index == (-1, -1, 0, 0, -1, 1)
    assert sample.logprobs == pytest.approx((0, 0, -0.3, -0.4, 0, -0.6))
    assert sample.versions == (-1, -1, 7, 7, -1, 8)
    assert sample.temperature == 0.7
    assert sample.episode_id == "task/0"


def test_a_context_rendered_afresh_starts_a_new_sample_that_keeps_what_the_prompt_keeps() -> None:
    first, second = to_samples(episode(step(0, (1, 2), (3, 4)), step(2, (7,), (8,)), step(4, (9,), (5,))))
    assert first.token_ids == (1, 2, 3, 4)
    assert first.step_index == (-1, -1, 0, 0)
    assert second.token_ids == (1, 2, 7, 8, 9, 5)
    assert second.mask == (0, 0, 0, 1, 0, 1)
    assert second.step_index == (-1, -1, -1, 1, -1, 2)
    assert second.logprobs[:3] == (0.0, 0.0, 0.0)
    assert second.versions[:3] == (-1, -1, -1)


def test_a_prompt_that_keeps_nothing_starts_a_new_sample() -> None:
    first, second = to_samples(episode(step(0, (1, 2), (3,)), step(0, (1, 2), (4,))))
    assert (first.token_ids, second.token_ids) == ((1, 2, 3), (1, 2, 4))
    assert (first.step_index, second.step_index) == ((-1, -1, 0), (-1, -1, 1))


def test_a_completion_drawn_under_two_versions_keeps_both() -> None:
    mixed = structs.replace(make_completion((3, 4, 5)), versions=((2, 1), (3, 2)))
    assert to_samples(episode(make_step(mixed, new_ids=(1,))))[0].versions == (-1, 2, 3, 3)


def test_an_episode_without_steps_has_no_samples() -> None:
    assert to_samples(episode()) == []


def test_a_failed_episode_is_never_trained_on() -> None:
    failure = Failure(kind="repl", what="gone", where="step 0")
    failed = structs.replace(episode(step(0, (1,), (2,))), status="failed", failure=failure)
    with pytest.raises(ValueError, match="task/0 failed"):
        to_samples(failed)


def test_a_prompt_cannot_keep_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="step 1: keeps 4 tokens of a sequence of 3"):
        to_samples(episode(step(0, (1, 2), (3,)), step(4, (5,), (6,))))


tokens = st.lists(st.integers(0, 50), min_size=1, max_size=4).map(tuple)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 40), tokens, tokens), min_size=1, max_size=6))
def test_every_step_is_found_once_with_its_whole_prompt_before_it(
    drawn: list[tuple[int, tuple[int, ...], tuple[int, ...]]],
) -> None:
    steps: list[Step] = []
    prompts: list[tuple[int, ...]] = []
    last: tuple[int, ...] = ()
    for kept, new_ids, action in drawn:
        keep = min(kept, len(last))
        prompts.append(last[:keep] + new_ids)
        steps.append(step(keep, new_ids, action))
        last = prompts[-1] + action
    samples = to_samples(episode(*steps))
    for index, (prompt, (_, _, action)) in enumerate(zip(prompts, drawn, strict=True)):
        (home,) = [sample for sample in samples if index in sample.step_index]
        start = home.step_index.index(index)
        assert home.token_ids[:start] == prompt
        assert home.token_ids[start : start + len(action)] == action
    assert sum(sum(sample.mask) for sample in samples) == sum(len(action) for _, _, action in drawn)
