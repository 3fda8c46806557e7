"""Run one attempt at a task, from its first prompt to its last output.

    start ─▶ sample a reply ─▶ parse ─▶ run its code as a cell ─▶ output turn ─▶ sample …  until an answer is submitted
                 ▲                       │  ▲                         │                    or a budget is used up
                 │                       ▼  │                         ▼
                 │                      tools (on the host)     no room left: trim the context
                 └────────────────────────────────────────────────────┘

Mistakes of the agent are part of the episode: a reply without code, an error, an interrupted cell, and a cell that kills its session. The
agent then sees a note, and continues in a fresh session without its variables. Its cells and the tools that they call have `agent.work_s`
seconds in all (`clocks`). A failure of lzero ends the episode as `failed`, with the steps so far; the caller decides whether to retry it.
"""

import asyncio
import logging
import math
import sys
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import msgspec

from lzero.agent.broker import Broker
from lzero.agent.clocks import Clocks
from lzero.agent.context import Context, News
from lzero.agent.cutoff import Cutoff
from lzero.agent.episode_repl import EpisodeRepl
from lzero.agent.outputs import rendered
from lzero.agent.parser import parse
from lzero.agent.prompt import SUMMARY_STOP, shown_notepad, summary_of, system_prompt
from lzero.agent.setting import STOP, Setting, Ticket, episode_of, sampling_of
from lzero.errors import ContentRefused, ContextOverflow, EngineError, PoolFull, ReplError, ServerLost, ToolError
from lzero.protocols import Scene, Tool
from lzero.seeds import derive_seed
from lzero.types import Completion, Episode, Execution, Failure, Parsed, Prompt, Status, Step, Task

logger = logging.getLogger(__name__)

SCARCE = 0.25
"""Share of the agent's time below which the model sees how much is left. Above it, prompts are the same at any speed."""
GRACE_S = 3.0
"""Seconds after the end of the agent's time in which its cell is interrupted and may end. Then its session is closed."""
SANDBOXES_S = 60.0
"""Seconds of lzero's time that are reserved for sandboxes, not queues."""
LEAST_S = 0.01
"""Seconds of the agent's time that are too few for another cell."""


async def run_episode(
    task: Task, ticket: Ticket, setting: Setting, *, tools: Sequence[Tool] = (), observation: str = ""
) -> Episode:
    """Let the model work on `task`, after its first observation, with `tools` and `submit_final_answer`.

    A failure of the engine, the pool or a tool, or a missed deadline of lzero ("lost"), is returned, not raised. Raises ConfigError for a
    prompt template that cannot be used, DataError for files of the task that cannot be read.
    """
    return await _LiveEpisode(task, ticket, setting, tools, asked(task, observation)).settle()


def asked(task: Task, observation: str) -> str:
    """Return the text of the first turn: the question, and the first observation."""
    return f"{task.question}\n\n{observation}" if observation else task.question


class NotebookAgent:
    """The agent "nb": thinks, writes a cell, reads its output, until it submits an answer. Implements `Agent`."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    async def __call__(self, task: Task, scene: Scene, ticket: Ticket) -> Episode:
        tools = (*scene.tools, *self._setting.tools)
        return await run_episode(task, ticket, self._setting, tools=tools, observation=scene.observation)


class _LiveEpisode:
    """An episode in progress. If it fails, `steps` and `doing` go into the failed episode."""

    def __init__(self, task: Task, ticket: Ticket, setting: Setting, tools: Sequence[Tool], question: str) -> None:
        agent = setting.agent
        self._task = task
        self._ticket = ticket
        self._setting = setting
        self._agent = agent
        self._watcher = ticket.watcher
        self._sampling = sampling_of(ticket, agent)
        self._repl = EpisodeRepl(setting.pool, ticket.seed, task.files, cache=setting.files)
        self._clocks = Clocks(agent_s=agent.work_s, spare_s=self._spare_s)
        self._broker = Broker(
            task,
            tools,
            self._repl.read,
            notepad=agent.notepad,
            on_call=ticket.watcher.on_call,
            bugs=setting.bugs,
            clocks=self._clocks,
        )
        self._conversation = setting.model.converse(ticket.id)
        self._context = Context(
            agent,
            self._conversation,
            system=system_prompt(agent, self._broker.described, task, libraries=setting.libraries),
            question=question,
        )
        self._steps: list[Step] = []
        self._steps_left = agent.max_steps
        self._cell: _Cell | None = None
        """The cell that runs or was cancelled."""
        self._doing = "step 0, starting"

    async def settle(self) -> Episode:
        """Run the episode to its end, close its session, and return it."""
        cutoff = self._ticket.cutoff or Cutoff(sys.maxsize)
        status: Status = "failed"
        failure: Failure | None = None
        cut = asyncio.timeout(None)
        deadline_s = self._setting.deadline_s
        try:
            async with cut, self._clocks.lzero.at_most(deadline_s) as deadline:
                try:
                    with cutoff.over(cut):
                        status, failure = await self._outcome(self._act())
                    await self._watcher.on_end(self._repl)
                finally:
                    await self._repl.close()
        except TimeoutError:
            if cut.expired():
                status, failure = await self._outcome(self._cut_off())
            elif deadline.expired():
                failure = self._failure("lost", f"engine, sandbox and queues together took more than {deadline_s:g} s")
            else:
                raise
        finally:
            await self._conversation.close()
        return episode_of(
            self._task,
            self._ticket,
            self._agent,
            steps=tuple(self._steps),
            status="failed" if failure else status,
            answer=self._broker.answer,
            failure=failure,
        )

    async def _outcome(self, acting: Awaitable[Status | Failure]) -> tuple[Status, Failure | None]:
        try:
            ended = await acting
        except EngineError as error:
            ended = self._failure("engine", str(error))
        except ServerLost as error:
            ended = self._failure("pool", str(error))
        except ReplError as error:
            ended = self._failure("repl", str(error))
        except ToolError as error:
            ended = self._failure("tool", str(error))
        return ("failed", ended) if isinstance(ended, Failure) else (ended, None)

    async def _act(self) -> Status:
        """Make steps until an answer is submitted or a budget is used up. Raises any failure."""
        trimmed = False
        news: News | None = None
        for number in range(self._agent.max_steps):
            self._steps_left = self._agent.max_steps - number - 1
            if self._context.room < 1:
                return "out_of_tokens"
            try:
                step = await self._next(number, trimmed, news)
            except ContentRefused as error:
                if news is None:  # the filter refuses the task itself
                    raise
                logger.warning("episode %s is refused: %s", self._ticket.id, error)
                return "refused"
            if step is None:
                return "out_of_tokens"
            self._keep(step)
            if ended := self._ending():
                return ended
            news = News(
                output=await self._shown(step),
                notepad=shown_notepad(self._agent, step.notepad),
                steps_left=self._steps_left,
                seconds_left=self._scarce_s(),
            )
            if not news.steps_left:
                break
            trimmed = not self._context.tell(news)
            if trimmed and self._agent.memory == "none":
                return "out_of_tokens"
            if trimmed:
                self._context.trim(news, summary=await self._summary(number))
        return "out_of_steps"

    async def _next(self, number: int, trimmed: bool, news: News | None) -> Step | None:
        """Make the next step, in a trimmed context if necessary. Return None if the agent's text and output do not fit."""
        try:
            return await self._step(number, trimmed)
        except ContextOverflow as error:
            # lzero's estimate of tokens is too low, or the model's window is smaller than `max_tokens`.
            if news is None:
                raise
            if trimmed or self._agent.memory == "none":
                logger.warning("episode %s is out of tokens: %s", self._ticket.id, error)
                return None
        self._context.trim(news)
        return await self._next(number, True, news)

    async def _step(self, number: int, trimmed: bool) -> Step:
        self._doing = f"step {len(self._steps)}, sampling"
        prompt, completion, sampled_s = await self._sample("step", number, self._context.room, STOP)
        parsed = parse(
            self._conversation.opening + completion.text,
            reasoning=completion.reasoning,
            cut_off=completion.stop_reason == "length",
        )
        step = Step(
            prompt=prompt,
            completion=completion,
            parsed=parsed,
            execution=None,
            notepad=self._broker.notepad,
            trimmed=trimmed,
            timings={"engine": sampled_s, "repl": 0.0, "work": 0.0},
        )
        return step if parsed.code is None else await self._run(step, parsed.code)

    async def _run(self, step: Step, code: str) -> Step:
        """Run the cell of a step on the agent's clock. If this is cancelled while the cell runs, the cell stays in `_cell`.

        An agent that has killed its session waits for another on its own clock, or it could lose its episode in a full pool.
        """
        self._doing = f"step {len(self._steps)}, running a cell"
        self._watcher.on_cell(code)
        clocks = self._clocks
        cell = _Cell(step=step, start=time.perf_counter(), worked_s=clocks.agent.worked_s)
        if not self._repl.was_killed:
            await self._repl.ready(self._broker)
        self._cell = cell
        try:
            with clocks.agents_turn():
                async with clocks.agent.at_most(clocks.left_s + GRACE_S) as deadline:
                    await self._reopened()
                    deadline_s = min(self._agent.cell_s, clocks.left_s)
                    execution = await self._repl.run(code, deadline_s=deadline_s)
        except TimeoutError:
            if not deadline.expired():
                raise
            await self._repl.close()
            execution = self._killed(cell, f"the agent's {clocks.agent_s:g} s are used up")
        self._cell = None
        return self._ended(cell, execution)

    async def _reopened(self) -> None:
        """Open another session if the agent has killed the last one, however long that takes. Raises ReplError."""
        while self._repl.was_killed:
            with suppress(PoolFull):
                await self._repl.ready(self._broker)

    def _ended(self, cell: "_Cell", execution: Execution) -> Step:
        """Return the step of a cell that has ended."""
        timings = {"repl": time.perf_counter() - cell.start, "work": self._clocks.agent.worked_s - cell.worked_s}
        return msgspec.structs.replace(
            cell.step,
            execution=execution,
            tool_calls=self._broker.take_calls(),
            notepad=self._broker.notepad,
            timings={**cell.step.timings, **timings},
        )

    def _killed(self, cell: "_Cell", why: str) -> Execution:
        """Return the outcome of a cell that lzero stops."""
        worked_s = self._clocks.agent.worked_s - cell.worked_s
        return Execution(outputs=(), status="killed", reason=f"time: {why}", duration_s=worked_s)

    async def _cut_off(self) -> Status | Failure:
        """Return the end of an episode whose round is over. Raises any failure.

        If the agent took more time than lzero, the episode is out of time and scored, so being slow does not avoid a score.
        """
        if not self._clocks.is_agents:
            return self._failure("straggler", "cut off: enough of its round's episodes were in")
        if self._cell is not None:
            self._keep(self._ended(self._cell, self._killed(self._cell, "its round is over")))
        return self._ending() or "out_of_time"

    def _ending(self) -> Status | None:
        """Return the status after the last step; None if the episode goes on. Raises ToolError for a tool that broke."""
        if self._broker.broken is not None:
            raise self._broker.broken
        if self._broker.answer is not None:
            return "finished"
        return "out_of_time" if self._clocks.left_s < LEAST_S else None

    def _spare_s(self) -> float:
        """Return the seconds that lzero can spend on queues, without those that later replies and sandboxes may need."""
        replies = (self._steps_left + 1) * self._agent.replies_a_step - 1  # this step's reply is here
        return self._setting.deadline_s - self._clocks.lzero.worked_s - replies * self._setting.reply_s - SANDBOXES_S

    def _scarce_s(self) -> int | None:
        """Return the whole seconds that are left for cells; None while they are plenty."""
        left_s = self._clocks.left_s
        return math.floor(left_s) if left_s < SCARCE * self._agent.work_s else None

    async def _summary(self, number: int) -> str:
        """With memory "soft", sample the model's summary of its steps, and keep it as a step of kind "summarise". Return its text."""
        if self._agent.memory != "soft":
            return ""
        self._doing = f"step {len(self._steps)}, summarising"
        room = self._context.ask_for_summary()
        try:
            prompt, completion, sampled_s = await self._sample("summary", number, room, (SUMMARY_STOP,))
        except (ContextOverflow, ContentRefused):  # the steps are dropped without a summary
            return ""
        self._keep(
            Step(
                kind="summarise",
                prompt=prompt,
                completion=completion,
                parsed=Parsed(think="", code=None, well_formed=False),
                execution=None,
                notepad=self._broker.notepad,
                timings={"engine": sampled_s},
            )
        )
        return summary_of(completion.text)

    async def _sample(
        self, what: str, number: int, max_tokens: int, stop: tuple[str, ...]
    ) -> tuple[Prompt, Completion, float]:
        """Return the prompt, the completion, and the seconds that it took."""
        start, seed = time.perf_counter(), derive_seed(self._ticket.seed, what, number)
        prompt, completion = await self._conversation.reply(
            msgspec.structs.replace(self._sampling, max_tokens=max_tokens, stop=stop, seed=seed),
            request_id=f"{self._ticket.id}/{number}" + ("" if what == "step" else f"-{what}"),
            on_text=self._watcher.on_text,
        )
        return prompt, completion, time.perf_counter() - start

    def _keep(self, step: Step) -> None:
        self._steps.append(step)
        self._watcher.on_step(step)

    async def _shown(self, step: Step) -> str:
        """Return the text about the step that the model sees."""
        shown = step.parsed.problem
        if step.execution is not None:
            output = await rendered(step.execution, max_chars=self._agent.output_chars)
            shown = f"{output}\n[{shown}]" if shown else output
        return shown

    def _failure(self, kind: Literal["engine", "repl", "pool", "tool", "lost", "straggler"], what: str) -> Failure:
        return Failure(kind=kind, what=what, where=self._doing)


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell that was started."""

    step: Step
    start: float
    """Time of the start, by `time.perf_counter`."""
    worked_s: float
    """Seconds of work time that the episode had used before."""
