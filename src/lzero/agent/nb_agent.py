"""NB-Agent for a person: a model, some tools, a question.

    @tool
    def opening_hours(museum: str) -> str:
        \"\"\"When a museum is open, in words.\"\"\"
        …

    async with NBAgent("gpt-5-mini", tools=["web_search", "read_page", opening_hours]) as agent:
        async for step in agent.stream("Which museum in Lyon is open longest on Sundays?"):
            print(step.parsed.think)
        print(agent.episode.answer)

It is what training trains, with settings that suit a large model.
"""

import asyncio
import functools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from lzero.agent.broker import SubmitFinalAnswer
from lzero.agent.compose import OpenedAgent, open_agent, open_tools, opened_scenes
from lzero.agent.episode_repl import check_files
from lzero.agent.file_cache import FileCache
from lzero.agent.prompt import system_prompt
from lzero.agent.recorded import OWN
from lzero.agent.save import save_run
from lzero.agent.setting import Ticket, episode_of
from lzero.agent.watch import ForwardingWatcher, Watcher
from lzero.config import NANO, AgentConfig, ChatEngineConfig, Config, EngineConfig, LocalEngineConfig, make_config
from lzero.engine.kinds import OpenedEngine, kind_of
from lzero.errors import ConfigError, LzeroError, StoreError
from lzero.extras import need
from lzero.protocols import ChatEngine, ReplPool, Scene, Tool, stub_of
from lzero.store import SavedEpisode
from lzero.text import unbroken
from lzero.types import Episode, Failure, Sampling, Step, Task, ToolCall

FOR_A_PERSON: dict[str, Any] = {
    "prompt": "full",
    "memory": "soft",
    "notepad": True,
    "max_steps": 20,
    "max_tokens": 32_000,
    "response_tokens": 4_096,
    "summary_tokens": 1_024,
    "output_chars": 8_000,
    "cell_s": 60.0,
    "work_s": 3_600.0,
}
"""Values that differ from the defaults of `AgentConfig`, which are those of the nano model."""
DEADLINE_S = 24 * 3600.0
REQUEST_TIMEOUT_S = 600.0


class NBAgent:
    """Agent for a person: `async with NBAgent(model, tools=[…]) as agent: episode = await agent.run(question)`. One question at a time.

    `model`: the name of a model at an OpenAI-compatible endpoint, a Hugging Face directory, or a `ChatEngine`. `tools`: objects (`@tool`
    makes them), or names ("web_search", "read_page", …; `lzero.tools.catalog` lists them). `settings`: keys of `AgentConfig`: max_steps,
    max_tokens, memory, answer_style, prompt, ….
    """

    def __init__(
        self,
        model: str | ChatEngine | None = None,
        *,
        tools: Sequence[str | Tool] = (),
        mcp: Sequence[str] = (),
        base_url: str = "",
        temperature: float = 1.0,
        seed: int | None = None,
        pool: ReplPool | None = None,
        config: Config | None = None,
        **settings: Any,
    ) -> None:
        """Configure the agent, without starting anything. Raises ConfigError for settings, tools and keys that cannot work.

        `model`: None for the one that [engine] or [model] of `config` names. `mcp`: servers with more tools ("stdio:COMMAND …", or a URL).
        `base_url`: the endpoint; OPENAI_BASE_URL, or OpenAI's own, if empty. `seed`: None draws one for each run. `pool`: your own started
        pool, which stays open. `config`: its sections [environment], [repl] and [tools] have an effect, and the keys that [agent] sets.
        """
        given = config or Config()
        if model is None and given.engine == LocalEngineConfig() and given.model.path == NANO:
            raise ConfigError(
                'no model: name it, as in NBAgent("gpt-5-mini"), or pass a config whose [engine] or [model] does'
            )
        if given.agent.tools:
            raise ConfigError(
                f"agent.tools = {list(given.agent.tools)} has no effect here: pass tools to NBAgent(tools=[…])"
            )
        self.settings = _agent_config(
            given.agent.model_dump(include=given.agent.model_fields_set - {"tools"}) | settings
        )
        self._config = _with_model(given.model_copy(update={"agent": self.settings}), model, base_url)
        self._model = model
        self._sampling = Sampling(temperature=temperature)
        self._seed = seed
        self._pool = pool
        self._mcp = tuple(mcp)
        if pool is None and not self._config.repl.is_elsewhere and self.settings.work_s > self._config.repl.lifetime_s:
            raise ConfigError(
                f"agent.work_s = {self.settings.work_s:g} is more than repl.lifetime_s = {self._config.repl.lifetime_s:g}, after which the "
                "session ends: lower the one, or raise the other"
            )
        self.tools = open_tools(tools, self._config, key="tools")
        """The agent's tools. Those of MCP servers are added at the start; an environment may add more for each task."""
        system_prompt(self.settings, self.tools)  # so that an unusable template is an error before a model is loaded
        self._given_tools = self.tools
        self._stack = AsyncExitStack()
        self._ready: OpenedAgent | None = None
        self._task: Task | None = None
        self._files = FileCache()
        self._scene_tools: tuple[Tool, ...] = ()
        self.episode: Episode | None = None
        """The last episode, complete or as far as it came."""

    async def __aenter__(self) -> Self:
        """Start the sandbox, the environment, the MCP servers and, if it is a local one, the model. Raises LzeroError."""
        model = self._model
        async with AsyncExitStack() as stack:
            if self._mcp:
                servers = _mcp_tools(self._mcp, self._given_tools, self._config.tools.env_file)
                self.tools = (*self._given_tools, *await stack.enter_async_context(servers))
            scenes = await stack.enter_async_context(opened_scenes(self._config, tools=self.tools))
            self._ready = await stack.enter_async_context(
                open_agent(
                    self._config,
                    scenes,
                    deadline_s=DEADLINE_S,
                    request_timeout_s=REQUEST_TIMEOUT_S,
                    session_s=self.settings.work_s,
                    make_engine=None if model is None or isinstance(model, str) else lambda _: _given(model),
                    pool=self._pool,
                )
            )
            self._files = self._ready.setting.files
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ready = None
        await self._stack.aclose()

    async def run(
        self, task: Task | str, *, files: Sequence[str | Path] = (), watcher: Watcher | None = None
    ) -> Episode:
        """Make one attempt at a task, or at a question about `files`, and return the episode. Raises ConfigError, DataError.

        If an endpoint or a tool breaks, the episode is `failed`, and `failure` says why.
        """
        if self._ready is None:
            async with self:
                return await self.run(task, files=files, watcher=watcher)
        seed = secrets.randbits(32) if self._seed is None else self._seed
        task = make_task(task, files) if isinstance(task, str) else task
        task = msgspec.structs.replace(task, files=tuple(str(Path(file).absolute()) for file in task.files))
        self.episode = None
        if self._pool is None and not self._config.repl.is_elsewhere:  # other pools have their own limits
            check_files(list(map(Path, task.files)), max_bytes=self._config.repl.file_mb << 20)
        keeping = _Keeping(watcher or Watcher())
        ticket = Ticket(id=task.id, index=0, seed=seed, sampling=self._sampling, watcher=keeping)
        self._task = task
        why = "interrupted"
        try:
            self.episode = await self._ready.play(task, ticket, seed=seed)
        except Exception as error:
            why = unbroken(str(error)) if isinstance(error, LzeroError) else f"an unexpected {type(error).__name__}"
            raise
        finally:
            self._scene_tools = keeping.tools
            self.episode = self.episode or episode_of(
                task,
                ticket,
                self.settings,
                steps=tuple(keeping.steps),
                answer=keeping.answer,
                failure=Failure(kind="lost", what=why, where=f"step {len(keeping.steps)}"),
            )
        return self.episode

    def save(self, directory: str | Path, *, files: Mapping[str, bytes] | None = None) -> tuple[str, ...]:
        """Save the last episode, however it ended: `episode.jsonl`, `notebook.ipynb`, and `files` below `files/`, as `lzero run` does.

        Copies of the task's files go below `given/`. Returns the paths of `files`, and of copies, that could not be written. Raises
        StoreError, also if nothing has been run.
        """
        if self.episode is None or self._task is None:
            raise StoreError(f"cannot save to {directory}: the agent has not run")
        saved = SavedEpisode(
            task=self._task,
            episode=self.episode,
            model=kind_of(self._config).model_name(self._config),
            config={
                "agent": self.settings.model_dump(mode="json"),
                "repl": self._config.repl.model_dump(mode="json"),
            },
            tools=tuple(map(stub_of, (*self._scene_tools, *self.tools))),
        )
        return save_run(Path(directory), saved, files, given=self._files)

    async def stream(self, task: Task | str, *, files: Sequence[str | Path] = ()) -> AsyncGenerator[Step, None]:
        """Yield the steps of `run` as they happen; `episode` holds the whole afterwards. Closing the generator ends the episode."""
        steps: asyncio.Queue[Step | None] = asyncio.Queue()
        running = asyncio.ensure_future(self.run(task, files=files, watcher=_Queueing(steps)))
        running.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            while (step := await steps.get()) is not None:
                yield step
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class _Queueing(Watcher):
    def __init__(self, steps: "asyncio.Queue[Step | None]") -> None:
        self._steps = steps

    def on_step(self, step: Step) -> None:
        self._steps.put_nowait(step)


class _Keeping(ForwardingWatcher):
    """Keeps the steps and the answer, in case the episode is broken off."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__(watcher)
        self.tools: tuple[Tool, ...] = ()
        self.steps: list[Step] = []
        self.answer: str | None = None

    def on_scene(self, scene: Scene) -> None:
        self.tools = tuple(scene.tools)
        super().on_scene(scene)

    def on_call(self, call: ToolCall) -> None:
        if call.name == SubmitFinalAnswer.name and call.error is None and self.answer is None:
            self.answer = str(call.arguments["answer"])
        super().on_call(call)

    def on_step(self, step: Step) -> None:
        self.steps.append(step)
        super().on_step(step)


def make_task(question: str, files: Sequence[str | Path] = (), *, ability: str = "") -> Task:
    """Return a task for a question without a known answer. Raises DataError for files that do not exist.

    `ability`: by default "files" if there are files, otherwise "qa".
    """
    check_files([Path(file) for file in files])
    return Task(
        id=f"question-{secrets.token_hex(4)}",
        question=unbroken(question),
        answers=(),
        ability=ability or ("files" if files else "qa"),
        files=tuple(str(Path(file).absolute()) for file in files),
    )


def _agent_config(settings: dict[str, Any]) -> AgentConfig:
    values = {**FOR_A_PERSON, **settings}
    if isinstance(values["max_tokens"], int):  # a small window is shared out, too
        for key, part in (("response_tokens", 4), ("summary_tokens", 16)):
            if key not in settings:
                values[key] = max(1, min(FOR_A_PERSON[key], values["max_tokens"] // part))
    if values["memory"] != "soft" and "summary_tokens" not in settings:
        del values["summary_tokens"]
    return make_config({"agent": values}).agent


def _with_model(config: Config, model: str | ChatEngine | None, base_url: str) -> Config:
    """Return the configuration with this model. Raises ConfigError."""
    update: dict[str, Any] = {"rollout": config.rollout.model_copy(update={"concurrency": 1})}
    if model is not None and not isinstance(model, str):
        return config.model_copy(update=update | {"engine": ChatEngineConfig(model=model.model)})
    if isinstance(model, str):
        # With a base_url the model is the server's: servers often name a model by its directory.
        here = not base_url and (model == NANO or Path(model).expanduser().is_dir())
        update["engine"] = LocalEngineConfig() if here else _endpoint(config.engine, model, base_url)
        if here:
            dtype = config.model.dtype if model == NANO or "dtype" in config.model.model_fields_set else "bfloat16"
            update["model"] = config.model.model_copy(update={"path": model, "dtype": dtype})
        elif "path" not in config.model.changed() or config.model.path == model:
            update["model"] = config.model.model_copy(update={"path": NANO})
    elif base_url:
        raise ConfigError(f"base_url = {base_url!r} has no effect without the name of a model")
    made = config.model_copy(update=update)
    if kind_of(made).TRAINS:
        need("train", what=f"model {made.model.path!r}, which samples in this process,")
    return made


def _endpoint(engine: EngineConfig, model: str, base_url: str) -> ChatEngineConfig:
    """Return the section of a model at an endpoint, with address and key of the configuration's if that is one."""
    if not isinstance(engine, ChatEngineConfig):
        return ChatEngineConfig(model=model, url=base_url)
    return engine.model_copy(update={"model": model, "url": base_url or engine.url})


def _given(engine: ChatEngine) -> OpenedEngine:
    return OpenedEngine(engine=engine, tokenizer=None, concurrency=1)


@asynccontextmanager
async def _mcp_tools(servers: Sequence[str], tools: Sequence[Tool], env_file: str) -> AsyncIterator[tuple[Tool, ...]]:
    from lzero.tools.keys import find_variable
    from lzero.tools.mcp_servers import open_servers, read_specs

    specs = [spec for server in servers for spec in read_specs(server)]
    taken = {*OWN, *(tool.name for tool in tools)}
    lookup = functools.partial(find_variable, env_file=env_file)
    async with open_servers(specs, taken=taken, lookup=lookup) as found:
        yield found
