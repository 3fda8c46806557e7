import hypothesis
import hypothesis.strategies as st
import pytest

from lzero.algo.samples import to_samples
from lzero.types import Budgets, Completion, Episode, Failure, Parsed, Prompt, Sampling, Step


def step(keep: int, new_ids: tuple[int, ...], action: tuple[int, ...], version: int = 7) -> Step:
    return Step(
        prompt=Prompt(keep=keep, new_ids=new_ids),
        completion=Completion(
            token_ids=action,
            logprobs=tuple(-0.1 * token for token in action),
            text="",
            stop_reason="stop",
            versions=((version, len(action)),),
        ),
        parsed=Parsed(think="", code=None, well_formed=False),
        execution=None,
    )


def episode(*steps: Step, temperature: float = 0.7) -> Episode:
    return Episode(
        id="task/0",
        task_id="task",
        index=0,
        seed=1,
        sampling=Sampling(temperature=temperature),
        budgets=Budgets(max_steps=8, max_tokens=100, cell_s=1.0),
        steps=steps,
        status="finished",
    )


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
    mixed = Completion(
        token_ids=(3, 4, 5), logprobs=(-1.0, -1.0, -1.0), text="", stop_reason="eos", versions=((2, 1), (3, 2))
    )
    template = step(0, (1,), (3,))
    drawn = Step(prompt=template.prompt, completion=mixed, parsed=template.parsed, execution=None)
    assert to_samples(episode(drawn))[0].versions == (-1, 2, 3, 3)


def test_an_episode_without_steps_has_no_samples() -> None:
    assert to_samples(episode()) == []


def test_a_failed_episode_is_never_trained_on() -> None:
    failed = Episode(
        id="task/1",
        task_id="task",
        index=1,
        seed=1,
        sampling=Sampling(),
        budgets=Budgets(max_steps=8, max_tokens=100, cell_s=1.0),
        steps=(step(0, (1,), (2,)),),
        status="failed",
        failure=Failure(kind="repl", what="gone", where="step 0"),
    )
    with pytest.raises(ValueError, match="task/1 failed"):
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
