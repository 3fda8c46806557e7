"""Sizes of the episodes of a run: assumed from budgets, given, or taken from a recorded run."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lzero.algo.layout import Packing, fastest_packing
from lzero.config import Config
from lzero.errors import ConfigError
from lzero.text import counted
from lzero.types import Episode, Json, Step

STEPS_SHARE, REPLY_SHARE, OUTPUT_SHARE = 0.6, 0.15, 0.5
"""Assumed means, as shares of the budgets: steps, tokens of a reply, characters of an output."""
CHARS_PER_TOKEN = 4.0
PROMPTS = {"brief": 120, "full": 1800}
"""Assumed tokens of the first prompt, by agent.prompt: template, tools and question."""
CELL_S, WEB_S = 0.1, 1.0
"""Assumed seconds of a cell with its tool calls, without and with calls of a service."""
SERVICES = {"web_search", "read_page", "look"}
DROPPED = 0.3
"""Assumed share of episodes whose groups are dropped, if the filter drops any."""
LONGEST = 2.0
"""Assumed duration of the longest episodes, in mean ones."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Mean sizes of an episode, and the share of episodes that no update trains on."""

    steps: float
    prompt_tokens: float
    """Tokens of the first prompt, which the episodes of a task share."""
    reply_tokens: float
    output_tokens: float
    """Tokens of a cell's output with its turn."""
    cell_s: float
    """Seconds of a cell with its tool calls."""
    dropped: float = 0.0
    """Share of the tried episodes that the filter drops."""
    shared: float = 0.0
    """Share of the tokens of a batch that a layout computes once instead of repeatedly."""
    padding: float = 0.0
    """Padding, as a share of the computed tokens."""
    longest: float = LONGEST
    """Duration of the longest episodes of a batch, in mean ones."""
    source: str = "assumed from the budgets"

    @property
    def action_tokens(self) -> float:
        return self.steps * self.reply_tokens

    @property
    def tokens(self) -> float:
        """Tokens of a whole episode, the last output left out."""
        return self.prompt_tokens + self.action_tokens + max(0.0, self.steps - 1) * self.output_tokens

    @property
    def context(self) -> float:
        """Mean number of tokens that a sampled one attends to."""
        return self.prompt_tokens + (self.tokens - self.prompt_tokens) / 2


def attends_by_kernel(config: Config, device: str) -> bool:
    """Return whether a learner on this device, such as "cpu" or "cuda:1", attends by a kernel of lzero: by default it does on a GPU."""
    attention = config.train.attention
    return device != "cpu" if attention == "auto" else attention != "mask"


def packing_on(config: Config, device: str) -> Packing:
    """Return how a learner on this device lays out its rows, if its model supports that."""
    packing = config.train.packing
    if packing != "auto":
        return packing
    return fastest_packing(device.partition(":")[0], has_kernel=attends_by_kernel(config, device))


def assumed(config: Config, *, device: str = "cuda") -> Workload:
    """Return the sizes of episodes that a plan assumes if nothing is known about them. `device`: where the learner computes."""
    agent, rollout = config.agent, config.rollout
    steps = max(1.0, STEPS_SHARE * agent.max_steps)
    prompt = min(PROMPTS.get(agent.prompt, PROMPTS["full"]), 0.5 * agent.max_tokens)
    output = OUTPUT_SHARE * agent.output_chars / CHARS_PER_TOKEN
    reply = REPLY_SHARE * agent.response_tokens
    room = agent.max_tokens - prompt
    shrunk = min(1.0, room / max(1.0, steps * (reply + output)))
    drops = rollout.filter != "none" and rollout.episodes_per_task > 1
    tokens = prompt + shrunk * (steps * reply + (steps - 1) * output)
    return Workload(
        steps=steps,
        prompt_tokens=prompt,
        reply_tokens=reply * shrunk,
        output_tokens=output * shrunk,
        cell_s=min(WEB_S if SERVICES & set(agent.tools) else CELL_S, agent.cell_s),
        dropped=DROPPED * (rollout.drop_uniform if rollout.filter == "l0" else 1.0) if drops else 0.0,
        shared=(1 - 1 / rollout.episodes_per_task) * prompt / tokens if packing_on(config, device) == "tree" else 0.0,
        longest=max(1.0, min(LONGEST, agent.max_steps / steps)),
    )


def recorded(metrics: Sequence[Mapping[str, Json]], episodes: Sequence[Episode]) -> Workload:
    """Return the sizes of a run's episodes: means over its updates (metrics.jsonl), and over `episodes` of one of them.

    Raises ConfigError for a run without updates, or without episodes that made a step.
    """
    updates = [line for line in metrics if line.get("phase") == "train"]
    played = [episode for episode in episodes if episode.steps and episode.failure is None]
    if not updates or not played:
        raise ConfigError("the run has no update with episodes to take sizes from: name a run that has")

    def mean(name: str) -> float:
        values = [float(value) for line in updates if isinstance(value := line.get(name), (int, float))]
        return statistics.fmean(values) if values else 0.0

    steps = [step for episode in played for step in episode.steps]
    later = [len(step.prompt.new_ids) for episode in played for step in episode.steps[1:]]
    seconds = [sum(map(_seconds, episode.steps)) for episode in played]
    reply_tokens = mean("rollout/tokens_per_step")
    sampled = mean("rollout/episodes") * mean("rollout/steps_per_episode") * reply_tokens
    return Workload(
        steps=mean("rollout/steps_per_episode"),
        prompt_tokens=statistics.fmean(len(episode.steps[0].prompt.new_ids) for episode in played),
        reply_tokens=reply_tokens,
        output_tokens=statistics.fmean(later) if later else 0.0,
        cell_s=statistics.fmean(step.timings.get("work", 0.0) for step in steps),
        dropped=max(0.0, 1.0 - mean("train/action_tokens") / max(1.0, sampled)),
        shared=mean("train/shared"),
        padding=mean("train/padding"),
        longest=max(seconds) / max(1e-9, statistics.fmean(seconds)),
        source=f"the means of {counted(len(updates), 'update')} of a recorded run",
    )


def _seconds(step: Step) -> float:
    return step.timings.get("engine", 0.0) + step.timings.get("work", 0.0)
