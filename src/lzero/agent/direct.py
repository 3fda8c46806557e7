"""The agent "direct": the model answers at once, without tools, code or a session."""

import logging

from lzero.agent.episode import asked
from lzero.agent.one_reply import INSTRUCTION, OneReply
from lzero.agent.setting import Setting, Ticket
from lzero.protocols import Scene
from lzero.types import Episode, Task

logger = logging.getLogger(__name__)


class DirectAgent:
    """Asks the model once; its reply is the answer. Implements `Agent`."""

    def __init__(self, setting: Setting, *, instruction: str = INSTRUCTION) -> None:
        """`instruction`: the line after the question; "" for none."""
        self._setting = setting
        self._instruction = instruction
        self._warned = False

    async def __call__(self, task: Task, scene: Scene, ticket: Ticket) -> Episode:
        if task.files and not self._warned:
            self._warned = True
            logger.warning(
                'task %s has files, which agent.use = "direct" does not read; other tasks may have some, too', task.id
            )
        question = asked(task, scene.observation)
        return await OneReply(task, ticket, self._setting, question=question, instruction=self._instruction).settle()
