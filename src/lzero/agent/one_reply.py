"""Answer a task in one reply, without a session: the part that the agents "direct" and "rag" share.

    question, and what was retrieved ─▶ prompt that fits ─▶ reply ─▶ answer

The reply is recorded as the only step of an episode, in exact tokens, so such episodes can be evaluated and trained on like any others.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec

from lzero.agent.broker import ANSWER_CHARS, Broker
from lzero.agent.cutoff import Cutoff
from lzero.agent.episode_repl import EpisodeRepl
from lzero.agent.prompt import file_prompt, worded
from lzero.agent.setting import Setting, Ticket, episode_of
from lzero.errors import ContextOverflow, EngineError, ToolError
from lzero.protocols import Tool
from lzero.seeds import derive_seed
from lzero.types import Completion, Episode, Failure, Parsed, Prompt, Status, Step, Task

logger = logging.getLogger(__name__)

INSTRUCTION = "Answer with a name, a number, a date or a short phrase, and nothing else."
"""The last line of the question, unless an option replaces it."""
ANSWER_LINES = ("answer", "final answer", "the answer")
"""Beginnings, before a colon, of a line that states the answer of a longer reply."""
_REPLY_SHARE = 4
"""A reply gets at least one of this many shares of `agent.max_tokens`, or `agent.response_tokens` if these are fewer."""

Retrieve = Callable[[Broker], Awaitable[str]]
"""Returns the text that the model reads before the question. Raises ToolError."""


def answer_in(reply: str) -> str:
    """Return the answer in a reply: the text after its last "Answer:", in the same or the next line, or else all of it without the thought.

    "" if there is none.

    >>> answer_in("<think>Paris is in France.</think>Paris")
    'Paris'
    >>> answer_in("The film is from 1994.\\n**Answer:** 1994")
    '1994'
    """
    said = _without_thought(reply)
    following = ""
    for line in reversed(said.splitlines()):
        name, colon, answer = line.partition(":")
        if colon and name.strip(" *_#").casefold() in ANSWER_LINES:
            return (answer.strip(" *_") or following)[:ANSWER_CHARS]
        following = line.strip(" *_") or following
    return said.strip()[:ANSWER_CHARS]


def _without_thought(reply: str) -> str:
    if "</think>" in reply:
        return reply.rpartition("</think>")[2]
    return "" if reply.lstrip().startswith("<think>") else reply


class OneReply:
    """An episode of one reply in progress."""

    def __init__(self, task: Task, ticket: Ticket, setting: Setting, *, question: str, instruction: str) -> None:
        self._task = task
        self._ticket = ticket
        self._setting = setting
        self._agent = setting.agent
        self._system = file_prompt(setting.agent, task)
        self._question = "\n".join(filter(None, (worded(setting.agent, question), instruction)))
        self._sampling = msgspec.structs.replace(ticket.sampling, seed=derive_seed(ticket.seed, "step", 0))
        self._repl = EpisodeRepl(setting.pool, ticket.seed, ())  # never opened
        self._conversation = setting.model.converse(ticket.id)
        self._steps: list[Step] = []
        self._answer: str | None = None
        self._doing = "starting"

    async def settle(self, *, tools: Sequence[Tool] = (), retrieve: Retrieve | None = None) -> Episode:
        """Return the ended episode. `retrieve` uses `tools` through a broker, which records its calls.

        A failure of the engine or a tool, or a missed deadline, is returned, not raised.
        """
        status: Status = "failed"
        failure: Failure | None = None
        cut = asyncio.timeout(None)
        watcher = self._ticket.watcher
        broker = Broker(self._task, tools, self._repl.read, on_call=watcher.on_call, bugs=self._setting.bugs)
        try:
            async with cut, asyncio.timeout(self._setting.deadline_s) as deadline:
                with (self._ticket.cutoff or Cutoff(sys.maxsize)).over(cut):
                    try:
                        status = await self._act(broker, retrieve)
                    except EngineError as error:
                        failure = self._failure("engine", str(error))
                    except ToolError as error:
                        failure = self._failure("tool", str(error))
                await watcher.on_end(self._repl)
        except TimeoutError:
            if cut.expired():
                failure = self._failure("straggler", "cut off: enough of its round's episodes were in")
            elif deadline.expired():
                failure = self._failure(
                    "lost", f"engine and queues together took more than {self._setting.deadline_s:g} s"
                )
            else:
                raise
        finally:
            await self._conversation.close()
        return self._episode("failed" if failure else status, failure)

    async def _act(self, broker: Broker, retrieve: Retrieve | None) -> Status:
        found = ""
        if retrieve is not None:
            self._doing = "retrieving"
            found = await retrieve(broker)
        room = self._start(found)
        if room < 1:
            return "out_of_tokens"
        self._doing = "sampling"
        start = time.perf_counter()
        try:
            prompt, completion = await self._conversation.reply(
                msgspec.structs.replace(self._sampling, max_tokens=room),
                request_id=f"{self._ticket.id}/0",
                on_text=self._ticket.watcher.on_text,
            )
        except ContextOverflow as error:  # an endpoint whose tokens lzero can only estimate
            logger.warning("episode %s is out of tokens: %s", self._ticket.id, error)
            return "out_of_tokens"
        return self._keep(prompt, completion, broker, time.perf_counter() - start)

    def _start(self, found: str) -> int:
        """Begin the conversation with as much of the beginning of `found` as fits. Return the most tokens that the reply may have."""
        conversation, agent = self._conversation, self._agent
        conversation.start(self._system, self._turn(found))
        reply = min(agent.response_tokens, agent.max_tokens // _REPLY_SHARE)
        while found and (excess := conversation.num_tokens + reply - agent.max_tokens) > 0:
            tokens = max(1, conversation.count_tokens(found))
            # Shrink by at least a tenth: the estimate of an endpoint's tokens may be wrong.
            found = found[: min(len(found) * 9 // 10, len(found) * max(0, tokens - excess) // tokens)]
            conversation.start(self._system, self._turn(f"{found} …" if found else ""))
        return min(agent.response_tokens, agent.max_tokens - conversation.num_tokens)

    def _turn(self, found: str) -> str:
        return f"Passages:\n{found}\n\nQuestion: {self._question}" if found else self._question

    def _keep(self, prompt: Prompt, completion: Completion, broker: Broker, sampled_s: float) -> Status:
        """Keep the step and its answer. A reply that is cut off has the answer that it holds so far, if its thought has ended."""
        text = self._conversation.opening + completion.text
        answer = answer_in(text)
        cut_off = completion.stop_reason == "length"
        thought = text.rpartition("</think>")[0].rpartition("<think>")[2]
        step = Step(
            prompt=prompt,
            completion=completion,
            parsed=Parsed(
                think=(thought or completion.reasoning).strip(),
                code=None,
                well_formed=bool(answer) and not cut_off,
                problem="" if answer else "there is no answer",
            ),
            execution=None,
            tool_calls=broker.take_calls(),
            timings={"engine": sampled_s, "repl": 0.0, "work": 0.0},
        )
        self._steps.append(step)
        self._answer = answer or None
        self._ticket.watcher.on_step(step)
        return "out_of_tokens" if cut_off else "finished"

    def _episode(self, status: Status, failure: Failure | None) -> Episode:
        episode = episode_of(
            self._task,
            self._ticket,
            self._agent,
            steps=tuple(self._steps),
            status=status,
            answer=self._answer,
            failure=failure,
        )
        return msgspec.structs.replace(
            episode,
            sampling=msgspec.structs.replace(episode.sampling, stop=()),
            budgets=msgspec.structs.replace(episode.budgets, max_steps=1),
        )

    def _failure(self, kind: Literal["engine", "tool", "lost", "straggler"], what: str) -> Failure:
        return Failure(kind=kind, what=what, where=self._doing)
