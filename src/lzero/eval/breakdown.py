"""Break an evaluation down: other scores of its answers, its score by kind of task, what a question costs, how episodes end.

    found = breakdown(evaluation.records)
    found.scores["f1"].mean, found.by["hops"]["2"].interval, found.costs["steps"], found.endings

Everything follows from the records of an evaluation, so it can be computed for a stored one, too. Pure functions.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from msgspec import Struct

from lzero.eval.statistics import interval, mean
from lzero.rewards.scores import KNOWN, find_score, fitting
from lzero.rewards.simpleqa import GRADES, published_scores
from lzero.store import Record
from lzero.types import Episode, Step, Task

MAX_VALUES = 8
"""The most different difficulties that stay apart; more are put into BINS ranges of equal width."""
BINS = 5
MAX_PARTS = 50
"""The most parts by one property: those of most tasks. The tasks of the others are one part, OTHERS. Failed episodes do not change the
choice, so evaluations of the same tasks choose the same parts. A part whose episodes all failed is left out."""
OTHERS = "others"
METRICS = ("ability", "hops", "difficulty")
"""Properties of tasks whose parts are metrics."""


class Part(Struct, frozen=True, kw_only=True, dict=True):
    """Mean scores of some tasks, one for each."""

    values: tuple[float, ...]

    @property
    def num_tasks(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return mean(self.values)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean over tasks."""
        return interval(self.values)


class Breakdown(Struct, frozen=True, kw_only=True):
    """Parts of an evaluation. Each covers the episodes that did not fail, but for `endings`, which has all."""

    scores: dict[str, Part]
    """Score of the answers by name ("em", "f1", …), over the tasks for which it has a meaning. Costly scores are left out."""
    by: dict[str, dict[str, Part]]
    """"ability", "hops", "difficulty" or "source" → value → core score. A property with one value is left out."""
    costs: dict[str, float]
    """Means for an episode: "steps", "prompt_tokens", "tokens" (sampled), "tool_calls", "seconds" (of engine and cells), and "usd" if the
    endpoint tells it of every reply."""
    endings: dict[str, int]
    """Number of episodes: "right", "partly right", "wrong", "no answer, out_of_steps", …, and "failed, tool", … by kind of failure."""
    simpleqa: dict[str, float]
    """SimpleQA's published figures if a judge has graded the answers, else {}."""

    def metrics(self) -> dict[str, float]:
        """Return the parts of a line of metrics.jsonl: `scores/f1`, `by/hops/2`, `cost/usd`, `simpleqa/f`, `time/question_s`, …"""
        new = {f"cost/{name}": self.costs[name] for name in ("prompt_tokens", "usd") if name in self.costs}
        return {
            **{f"scores/{name}": part.mean for name, part in self.scores.items()},
            **{f"by/{name}/{value}": part.mean for name in METRICS for value, part in self.by.get(name, {}).items()},
            **{f"simpleqa/{name}": value for name, value in self.simpleqa.items()},
            **new,
            "time/question_s": self.costs["seconds"],
        }


def breakdown(records: Sequence[Record]) -> Breakdown:
    """Break the records of an evaluation down. Raises ValueError if no episode has a score."""
    scored = [record for record in records if record.scored]
    if not scored:
        raise ValueError("no episode has a score")
    return Breakdown(
        scores=_scores(scored),
        by=_by(records),
        costs=_costs([episode for record in scored for episode, _ in record.scored]),
        endings=dict(Counter(ending for record in records for ending in _endings(record))),
        simpleqa=_grades(scored),
    )


def _scores(records: Sequence[Record]) -> dict[str, Part]:
    scores = {name: find_score(name) for name, known in KNOWN.items() if known.is_quick}
    values: dict[str, list[float]] = {name: [] for name in scores}
    for record in records:
        for name in set(fitting(record.task)) & set(scores):
            found = [scores[name](episode.answer or "", record.task) for episode, _ in record.scored]
            values[name].append(mean(found))
    return {name: Part(values=tuple(own)) for name, own in values.items() if own}


def _by(records: Sequence[Record]) -> dict[str, dict[str, Part]]:
    properties: dict[str, Callable[[Task], str | None]] = {
        "ability": lambda task: task.ability,
        "hops": lambda task: None if task.hops is None else str(task.hops),
        "difficulty": _difficulty_names([record.task for record in records]),
        "source": lambda task: task.source or None,
    }
    found = {name: _parts(records, value_of) for name, value_of in properties.items()}
    return {name: parts for name, parts in found.items() if len(parts) > 1}


def _parts(records: Sequence[Record], value_of: Callable[[Task], str | None]) -> dict[str, Part]:
    sizes = Counter(value for record in records if (value := value_of(record.task)) is not None)
    if len(sizes) > MAX_PARTS:
        del sizes[OTHERS]  # tasks whose value has this name are among the others
        sizes = Counter(dict(sorted(sizes.items(), key=lambda part: (-part[1], part[0]))[: MAX_PARTS - 1]))
    values: dict[str, list[float]] = {}
    for record in records:
        if record.scores and (value := value_of(record.task)) is not None:
            values.setdefault(value if value in sizes else OTHERS, []).append(mean(record.scores))
    return {value: Part(values=tuple(values[value])) for value in sorted(values, key=_natural)}


def _natural(value: str) -> tuple[float, str]:
    """Return a key that sorts numbers, and ranges that begin with one, by value, and other names after them."""
    try:
        return float(value.partition(" to ")[0]), value
    except ValueError:
        return float("inf"), value


def _difficulty_names(tasks: Sequence[Task]) -> Callable[[Task], str | None]:
    """Return what names the difficulty of a task: the number itself, or one of BINS ranges if there are many different ones."""
    found = sorted({task.difficulty for task in tasks if task.difficulty is not None})
    if len(found) <= MAX_VALUES:
        return lambda task: None if task.difficulty is None else f"{task.difficulty:g}"
    width = found[-1] / BINS - found[0] / BINS
    edges = [found[0] + index * width for index in range(BINS + 1)]

    def name(task: Task) -> str | None:
        if task.difficulty is None:
            return None
        index = bisect_right(edges, task.difficulty, 1, BINS)
        return f"{edges[index - 1]:.3g} to {edges[index]:.3g}"

    return name


def _costs(episodes: Sequence[Episode]) -> dict[str, float]:
    steps = [step for episode in episodes for step in episode.steps]
    number = len(episodes)
    costs = {
        "steps": len(steps) / number,
        "prompt_tokens": sum(map(_prompt_tokens, steps)) / number,
        "tokens": sum(step.completion.num_tokens for step in steps) / number,
        "tool_calls": sum(len(step.tool_calls) for step in steps) / number,
        "seconds": sum(step.timings.get(name, 0.0) for step in steps for name in ("engine", "repl")) / number,
    }
    usages = [step.completion.usage for step in steps]
    prices = [None if usage is None else usage.cost_usd for usage in usages]
    known = [price for price in prices if price is not None]
    return costs | ({"usd": sum(known) / number} if known and len(known) == len(prices) else {})


def _prompt_tokens(step: Step) -> int:
    usage = step.completion.usage
    return step.prompt.keep + len(step.prompt.new_ids) if usage is None else usage.prompt_tokens


def _endings(record: Record) -> Iterable[str]:
    for episode, reward in zip(record.episodes, record.rewards, strict=True):
        if episode.failure is not None:
            yield f"failed, {episode.failure.kind}"
        elif episode.answer is None:
            yield f"no answer, {episode.status}"
        else:
            score = 0.0 if reward is None else reward.score
            yield "right" if score == 1.0 else "partly right" if score else "wrong"


def _grades(records: Sequence[Record]) -> dict[str, float]:
    rewards = [reward for record in records for _, reward in record.scored]
    if not all(set(GRADES) <= set(reward.parts) for reward in rewards):
        return {}
    correct, incorrect, not_attempted = (sum(1 for reward in rewards if any(reward.parts[grade])) for grade in GRADES)
    return published_scores(correct, incorrect, not_attempted)
