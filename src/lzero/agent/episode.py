"""One attempt at a task, from its first prompt to its last output.

    start ─▶ sample a reply ─▶ parse ─▶ run its code as a cell ─▶ output turn ─▶ sample …  until an answer is submitted
                                         │  ▲                                              or a budget is used up
                                         ▼  │
                                        tools (on the host)

What the agent does wrong is part of the episode: a reply without code, an error, a cell that is interrupted, and one that kills its
session too (the agent is told so, and goes on in a fresh one without its variables). What *we* break ends the episode as
`failed`, with the steps so far; whether it is tried again is the caller's to decide.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import msgspec

from lzero.agent.broker import Broker
from lzero.agent.outputs import render_output
from lzero.agent.parser import parse
from lzero.agent.prompt import output_turn, system_prompt, task_turn
from lzero.agent.renderer import Renderer
from lzero.config import AgentConfig
from lzero.errors import EngineError, ReplError, ToolError, WorkspaceError
from lzero.protocols import Engine, Repl, ReplPool, Tool
from lzero.seeds import derive_seed
from lzero.types import Budgets, Completion, Episode, Execution, Failure, Prompt, Sampling, Status, Step, Task

STOP = ("</code>",)
"""A reply ends where its code block does."""


async def run_episode(
    task: Task,
    *,
    index: int,
    seed: int,
    episode_id: str,
    agent: AgentConfig,
    sampling: Sampling,
    engine: Engine,
    pool: ReplPool,
    tools: Sequence[Tool],
    renderer: Renderer,
    deadline_s: float,
    request_timeout_s: float,
) -> Episode:
    """Let the policy behind `engine` work on `task` with `tools` and `submit_final_answer`.

    Of `sampling`, temperature and top-p are used; length, stop string and seeds follow from the budgets, the format and `seed`. An
    episode that takes longer than `deadline_s` is our failure ("lost"), as is an error of the engine, the pool or a tool: all of
    them are returned, none is raised. Raises ConfigError for a prompt template that cannot be used.
    """
    sampling = msgspec.structs.replace(sampling, max_tokens=agent.response_tokens, stop=STOP, seed=seed)
    session = _Session(pool, seed)
    attempt = _Attempt(
        agent=agent,
        renderer=renderer,
        policy=_Policy(engine, sampling, affinity=episode_id, request_timeout_s=request_timeout_s),
        broker=Broker(task, tools, session.read),
        session=session,
    )
    prompt = renderer.start(system_prompt(agent, attempt.broker.tools), task_turn(agent, task.question))
    try:
        status, failure = await attempt.settle(prompt, deadline_s)
    finally:
        await engine.forget(episode_id)
    return Episode(
        id=episode_id,
        task_id=task.id,
        index=index,
        seed=seed,
        sampling=sampling,
        budgets=Budgets(max_steps=agent.max_steps, max_tokens=agent.max_tokens, cell_s=agent.cell_s),
        steps=tuple(attempt.steps),
        status=status,
        answer=attempt.broker.answer,
        failure=failure,
    )


@dataclass
class _Attempt:
    """The moving parts of an episode; `steps` and `doing` are what is left of one that fails."""

    agent: AgentConfig
    renderer: Renderer
    policy: "_Policy"
    broker: Broker
    session: "_Session"
    steps: list[Step] = field(default_factory=list)
    doing: str = "starting"

    async def settle(self, first_prompt: tuple[int, ...], deadline_s: float) -> tuple[Status, Failure | None]:
        """How the episode ends, whoever ends it. The session is closed then."""
        try:
            async with self.session, asyncio.timeout(deadline_s):
                return await self.act(first_prompt), None
        except TimeoutError:
            failure = self._failure("lost", f"the episode did not end within {deadline_s:g} s")
        except EngineError as error:
            failure = self._failure("engine", str(error))
        except ReplError as error:
            failure = self._failure("repl", str(error))
        except ToolError as error:
            failure = self._failure("tool", str(error))
        return "failed", failure

    async def act(self, first_prompt: tuple[int, ...]) -> Status:
        """Step until an answer is submitted or a budget is used up; the next prompt always extends the last sequence."""
        prompt = Prompt(keep=0, new_ids=first_prompt)
        ids = first_prompt
        for number in range(self.agent.max_steps):
            tokens_left = self.agent.max_tokens - len(ids)
            if tokens_left < 1:
                return "out_of_tokens"
            step = await self._step(number, prompt, ids, tokens_left)
            self.steps.append(step)
            if self.broker.answer is not None:
                return "finished"
            ids = (*ids, *step.completion.token_ids)
            text = output_turn(
                self._shown(step),
                steps_left=self.agent.max_steps - number - 1,
                tokens_left=self.agent.max_tokens - len(ids),
            )
            prompt = Prompt(keep=len(ids), new_ids=self.renderer.turn(step.completion, text))
            ids = (*ids, *prompt.new_ids)
        return "out_of_steps"

    async def _step(self, number: int, prompt: Prompt, ids: tuple[int, ...], tokens_left: int) -> Step:
        self.doing = "sampling"
        start = time.perf_counter()
        completion = await self.policy.sample(ids, number, tokens_left)
        sampled = time.perf_counter()
        parsed = parse(completion.text)
        execution = None
        if parsed.code is not None:
            self.doing = "running a cell"
            execution = await self.session.run(parsed.code, self.broker, deadline_s=self.agent.cell_s)
        return Step(
            prompt=prompt,
            completion=completion,
            parsed=parsed,
            execution=execution,
            tool_calls=self.broker.take_calls(),
            timings={"engine": sampled - start, "repl": time.perf_counter() - sampled},
        )

    def _shown(self, step: Step) -> str:
        if step.execution is None:
            return step.parsed.problem
        return render_output(step.execution, max_chars=self.agent.output_chars)

    def _failure(self, kind: Literal["engine", "repl", "tool", "lost"], what: str) -> Failure:
        return Failure(kind=kind, what=what, where=f"step {len(self.steps)}, {self.doing}")


@dataclass(frozen=True)
class _Policy:
    """The engine, as one episode asks it."""

    engine: Engine
    sampling: Sampling
    affinity: str
    request_timeout_s: float

    async def sample(self, ids: Sequence[int], number: int, tokens_left: int) -> Completion:
        return await self.engine.sample(
            ids,
            msgspec.structs.replace(
                self.sampling,
                max_tokens=min(self.sampling.max_tokens, tokens_left),
                seed=derive_seed(self.sampling.seed, "step", number),
            ),
            request_id=f"{self.affinity}/{number}",
            affinity=self.affinity,
            deadline_s=self.request_timeout_s,
        )


class _Session:
    """The episode's REPL: opened when the first code wants to run, and afresh when a cell has killed the last one."""

    def __init__(self, pool: ReplPool, seed: int) -> None:
        self._pool = pool
        self._seed = seed
        self._num_opened = 0
        self._repl: Repl | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, code: str, broker: Broker, *, deadline_s: float) -> Execution:
        if self._repl is None:
            seed = derive_seed(self._seed, "repl", self._num_opened)
            self._repl = await self._pool.open(broker.tools, broker.on_call, seed=seed)
            self._num_opened += 1
        execution = await self._repl.run(code, deadline_s=deadline_s)
        if execution.status == "killed":
            await self.close()
        return execution

    async def read(self, path: str) -> bytes:
        """A file of the workspace. Raises WorkspaceError, ReplError."""
        if self._repl is None:
            raise WorkspaceError(f"there is no file {path!r}: the session has not begun")
        return await self._repl.get(path)

    async def close(self) -> None:
        repl, self._repl = self._repl, None
        if repl is not None:
            await repl.close()
