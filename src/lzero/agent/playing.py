"""Play one episode in its scene.

scene opens ─▶ agent(task, scene, ticket) ─▶ outcome ─▶ scene closes
  │ fails, hangs                               │ is not JSON, fails
  ▼                                            ▼
a failed episode of the kind environment
"""

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from lzero.agent.agents import Agent
from lzero.agent.scenes import Scenes
from lzero.agent.setting import Ticket, episode_of
from lzero.config import AgentConfig
from lzero.errors import SceneError
from lzero.types import Episode, Failure, Task


@dataclass(frozen=True, kw_only=True)
class EpisodePlayer:
    """Plays episodes of any task: `episode = await play(task, ticket, seed=7)`."""

    scenes: Scenes
    agent: Agent
    config: AgentConfig

    async def __call__(self, task: Task, ticket: Ticket, *, seed: int) -> Episode:
        """Return the episode with its outcome, as failed if lzero, the environment or the agent's code broke it.

        `seed`: the scene's, the same for all episodes of a group. Raises ConfigError and DataError as the agent does.
        """
        stage = self.scenes.stage(task, seed=seed)
        try:
            scene = await stage.open()
            ticket.watcher.on_scene(scene)
            episode = await self.agent(task, scene, ticket)
            if episode.failure is not None:
                with suppress(SceneError):  # the first failure is the one to tell
                    await stage.close(wanted=False)
                return episode
            outcome = await stage.close(wanted=True)
        except SceneError as error:
            failure = Failure(kind="environment", what=str(error), where=stage.doing)
            return episode_of(task, ticket, self.config, failure=failure)
        finally:
            await stage.leave()
        return episode if outcome is None else msgspec.structs.replace(episode, outcome=outcome)
