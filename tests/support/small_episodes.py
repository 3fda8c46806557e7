"""Make steps, episodes and samples by hand, with harmless defaults."""

from collections.abc import Sequence

from lzero.types import Budgets, Completion, Episode, Parsed, Prompt, Sample, Sampling, Step


def make_completion(
    token_ids: Sequence[int], *, text: str = "", logprobs: Sequence[float] | None = None, version: int = 0
) -> Completion:
    return Completion(
        token_ids=tuple(token_ids),
        logprobs=(-0.5,) * len(token_ids) if logprobs is None else tuple(logprobs),
        text=text,
        stop_reason="stop",
        versions=((version, len(token_ids)),),
    )


def make_step(completion: Completion, *, new_ids: Sequence[int] = (1, 2), keep: int = 0) -> Step:
    """Return a reply without code to a prompt of `keep` tokens of the last sequence and `new_ids`."""
    return Step(
        prompt=Prompt(keep=keep, new_ids=tuple(new_ids)),
        completion=completion,
        parsed=Parsed(think="", code=None, well_formed=False),
        execution=None,
    )


def make_episode(
    *steps: Step, name: str = "task/0", index: int = 0, sampling: Sampling | None = None, answer: str | None = None
) -> Episode:
    """Return a finished episode of the task in its name, before the last slash."""
    return Episode(
        id=name,
        task_id=name.rpartition("/")[0],
        index=index,
        seed=0,
        sampling=sampling or Sampling(),
        budgets=Budgets(max_steps=8, max_tokens=500, cell_s=1.0),
        steps=steps,
        status="finished",
        answer=answer,
    )


def make_sample(
    step_index: Sequence[int],
    *,
    name: str = "task/0",
    token_ids: Sequence[int] | None = None,
    logprobs: Sequence[float] | None = None,
    temperature: float = 1.0,
) -> Sample:
    """Return a sample of tokens with these steps, −1 for tokens that the policy did not sample."""
    length = len(step_index)
    return Sample(
        episode_id=name,
        token_ids=tuple(token_ids or range(1, length + 1)),
        mask=tuple(int(step >= 0) for step in step_index),
        step_index=tuple(step_index),
        logprobs=tuple(logprobs or (0.0,) * length),
        versions=tuple(min(step, 0) for step in step_index),
        temperature=temperature,
    )
