"""Run the episodes of one training task, and judge whether the group is worth training on."""

import random

import msgspec

from lzero.agent.cutoff import Cutoff
from lzero.config import RolloutConfig
from lzero.protocols import TaskSource
from lzero.rollout.filters import drop_reason
from lzero.rollout.runner import Runner
from lzero.seeds import derive_seed
from lzero.store import Record
from lzero.types import Sampling


class GroupMaker:
    """Makes the group of a task. A group depends on the task, its position in the order of training, the run's seed and the policy."""

    def __init__(self, runner: Runner, source: TaskSource, *, config: RolloutConfig, seed: int) -> None:
        self._runner, self._source, self._config, self._seed = runner, source, config, seed

    async def make(self, position: int, index: int, *, cutoff: Cutoff | None = None) -> Record:
        """Return the judged record of the source's task `index`, at a position. Raises TrainError if too many episodes failed."""
        record = await self._runner.record(
            self._source.task(index),
            name=f"train/{position}",
            num_episodes=self._config.episodes_per_task,
            sampling=Sampling(temperature=self._config.temperature),
            seed=derive_seed(self._seed, "train", position),
            cutoff=cutoff,
        )
        chance = random.Random(derive_seed(self._seed, "drop", position)).random()
        return msgspec.structs.replace(record, dropped=drop_reason(record, chance, self._config))
