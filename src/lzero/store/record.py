"""The record of one task that was tried: all its episodes, trained on or not."""

from typing import Literal

import msgspec
from msgspec import Struct, structs

from lzero.types import Episode, Group, Reward, Task

Phase = Literal["train", "eval", "sampled"]
"""The purpose of episodes: training, greedy evaluation, sampled evaluation."""

DROP_FAILED = "failed"
"""Drop reason of a single episode that failed through lzero, not the agent."""
DROP_STRAGGLER = "straggler"
"""Drop reason of a single straggler, and of a group that lost too many episodes as stragglers."""


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task with all its episodes: `Record(task=…, episodes=(a, b), rewards=(Reward(…), None), dropped="")`, where `b` failed.

    `rewards` holds None for failed episodes only. `dropped` is the reason why the whole group is not trained on ("all_zero", "all_one",
    "too_few", "straggler", "surplus"); "" if it is trained on.
    """

    task: Task
    episodes: tuple[Episode, ...]
    rewards: tuple[Reward | None, ...]
    dropped: str = ""

    def __post_init__(self) -> None:
        for episode, reward in zip(self.episodes, self.rewards, strict=True):
            if (reward is None) != (episode.status == "failed"):
                raise ValueError(f"Episode {episode.id}: status {episode.status!r} with reward {reward!r}")

    @property
    def scored(self) -> tuple[tuple[Episode, Reward], ...]:
        """The episodes that did not fail, each with its reward."""
        pairs = zip(self.episodes, self.rewards, strict=True)
        return tuple((episode, reward) for episode, reward in pairs if reward is not None)

    @property
    def scores(self) -> tuple[float, ...]:
        """Core scores of the episodes that did not fail."""
        return tuple(reward.score for _, reward in self.scored)

    @property
    def drop_reasons(self) -> tuple[str, ...]:
        """Why each episode is not trained on; "" if it is."""
        kinds = (episode.failure and episode.failure.kind for episode in self.episodes)
        return tuple(
            self.dropped if kind is None else DROP_STRAGGLER if kind == "straggler" else DROP_FAILED for kind in kinds
        )

    def group(self) -> Group:
        """Return the group of the episodes that did not fail."""
        return Group(
            task=self.task,
            episodes=tuple(episode for episode, _ in self.scored),
            rewards=tuple(reward for _, reward in self.scored),
        )


def encode_with(record: Record, holder: Struct) -> bytes:
    """Return a struct whose field `record` this is, as JSON, as msgspec encodes it.

    Each episode, which may have megabytes, is encoded by a call of its own: no other thread runs meanwhile.
    """
    episodes = [msgspec.Raw(msgspec.json.encode(episode)) for episode in record.episodes]
    return msgspec.json.encode(structs.asdict(holder) | {"record": structs.asdict(record) | {"episodes": episodes}})
