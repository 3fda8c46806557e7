"""L0's reward, with its faults corrected: 0.8·qa + 0.1·format + 0.1·execution (arXiv 2506.23667 and its code).

For an episode of T steps (without summaries), the terms of a step are

    qa         on the last step only: the score of the first submitted answer, by default exact match (F1 and any answer may get shares)
    format     1/T if the reply is well formed
    execution  1/T if the cell finished without error ("clean"); L0's own: (1 − errors/outputs)/T, 0 for a silent cell

so that a flawless episode earns the sum of the weights.
"""

from collections.abc import Callable

from lzero.config import RewardConfig
from lzero.errors import ConfigError
from lzero.rewards.answers import exact_match, f1
from lzero.rewards.scores import KNOWN, AnswerScore, find_score
from lzero.types import Episode, Error, Execution, Reward, Step, Task

QUICK_CHARS = 500


def make_reward(config: RewardConfig) -> Callable[[Task, Episode], Reward]:
    """Return the reward that `config` asks for. Raises ConfigError if the shares of `qa` sum to more than 1, or for an unknown score."""
    if config.has_answer + config.f1 > 1:
        raise ConfigError(
            f"reward.has_answer = {config.has_answer} and reward.f1 = {config.f1} are shares of reward.qa: their sum must be at most 1"
        )
    score_of = _score_of(config)

    def reward(task: Task, episode: Episode) -> Reward:
        num_steps = len(episode.steps)
        num_acts = sum(step.kind == "act" for step in episode.steps)
        score = 0.0 if episode.answer is None else score_of(episode.answer, task)
        qa = config.qa * _qa_share(task, episode.answer, score, config)
        parts = {
            "qa": tuple(qa if index == num_steps - 1 else 0.0 for index in range(num_steps)),
            "format": tuple(config.format * step.parsed.well_formed / (num_acts or 1) for step in episode.steps),
            "execution": tuple(
                config.execution * _execution_share(step, config) / (num_acts or 1) for step in episode.steps
            ),
        }
        per_step = tuple(sum(terms) for terms in zip(*parts.values(), strict=True))
        return Reward(score=score, per_step=per_step, parts=parts)

    return reward


def make_is_quick(config: RewardConfig) -> Callable[[Task, Episode], bool]:
    """Return a function of a task and an episode: whether L0's reward compares so little text that it takes well below a millisecond."""
    score_is_quick = config.score in KNOWN and KNOWN[config.score].is_quick

    def is_quick(task: Task, episode: Episode) -> bool:
        return score_is_quick and len(episode.answer or "") + sum(map(len, task.answers)) <= QUICK_CHARS

    return is_quick


def _score_of(config: RewardConfig) -> AnswerScore:
    if config.score != "em":
        return find_score(config.score)

    def exact(answer: str, task: Task) -> float:
        return float(exact_match(answer, task.answers, match=config.match, numbers=config.numbers))

    return exact


def _qa_share(task: Task, answer: str | None, score: float, config: RewardConfig) -> float:
    if answer is None or not answer.strip():
        return 0.0
    overlap = f1(answer, task.answers, match=config.match, numbers=config.numbers) if config.f1 else 0.0
    return (1 - config.f1 - config.has_answer) * score + config.f1 * overlap + config.has_answer


def _execution_share(step: Step, config: RewardConfig) -> float:
    if step.execution is None:
        return 0.0
    if config.execution_rule == "clean":
        return float(step.execution.status == "ok")
    return _share_of_clean_outputs(step.execution)


def _share_of_clean_outputs(execution: Execution) -> float:
    num_errors = sum(isinstance(output, Error) for output in execution.outputs)
    return 1 - num_errors / len(execution.outputs) if execution.outputs else 0.0
