"""One question for NB-Agent: set up, watched in the terminal, and kept, however it ends."""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lzero.agent import NBAgent, make_task
from lzero.agent.corpus import SEARCH_RESULTS
from lzero.agent.episode import budgets_of
from lzero.agent.outputs import clean
from lzero.agent.save import NOTEBOOK_FILE
from lzero.agent.session import Session
from lzero.agent.watch import Relay
from lzero.cli.steps import StepPrinter
from lzero.config import Config, load_config
from lzero.errors import ConfigError, ReplError, WorkspaceError
from lzero.store import EPISODE_FILE, new_directory, write_beneath
from lzero.store.writing import told
from lzero.types import Task

NANO = "nano"
ABILITIES = ("qa", "math", "data", "search", "files")
_SECTIONS = ("agent", "repl", "tools", "model")
"""Whose keys act here, all of them."""
_KEYS = ("run.seed", "tasks.corpus", "tasks.search_results", "tasks.snippet_chars")
_KEYS_OF_NANO = ("run.seed", "tasks.eval", "tasks.hops", "tasks.search_results")
LEFT_OUT_SHOWN = 20
"""Files of the workspace that are told to be left out; there may be thousands."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the command line asks for."""

    text: str
    model: str
    base_url: str
    files: tuple[Path, ...]
    tools: tuple[str, ...]
    mcp: tuple[str, ...]
    corpus: str
    ability: str
    temperature: float | None
    agent: Mapping[str, Any]
    """Keys of [agent] that flags have set."""
    workspace_out: Path | None
    out: Path | None
    config: Path | None
    changes: tuple[str, ...]


def plays_nano(question: Question) -> bool:
    """Whether no model is named, anywhere."""
    return not question.model and _config_of(question).model.path == NANO


async def ask(question: Question) -> bool:
    """Whether the agent's work came to its end, whatever its answer. What it did is kept in any case. Raises LzeroError."""
    config = _config_of(question)
    _check_places(question)
    console = Console()
    agent, task = _nano(question, config) if plays_nano(question) else _agent(question, config)
    async with agent:
        directory = _make_place(question)
        console.print(Text(clean(task.question), style="bold"))
        with _ended_by_signals(), StepPrinter(console, budgets_of(agent.settings)) as printer:
            taken = _Collecting(printer, task, question.workspace_out is not None)
            try:
                printer.print_answer(await agent.run(task, watcher=taken))
            finally:
                left_out = _keep(question, agent, directory, taken)  # before all else: the terminal may be gone
                printer.close()
                _tell(question, agent, directory, (*taken.left_there, *left_out), console)
    episode = agent.episode
    return episode is not None and episode.status != "failed" and bool(episode.steps)


class _Collecting(Relay):
    """And takes, at the end, the files that the agent has made out of its workspace."""

    def __init__(self, printer: StepPrinter, task: Task, wanted: bool) -> None:
        super().__init__(printer)
        self._given = {Path(file).name: Path(file) for file in task.files}
        self._wanted = wanted
        self.files: dict[str, bytes] = {}
        self.left_there: list[str] = []
        """Why others could not be taken."""

    async def on_end(self, session: Session) -> None:
        if not self._wanted:
            return
        try:
            for file in await session.files():
                await self._take(session, file.path)
        except (WorkspaceError, ReplError) as error:  # of all: the answer counts without them
            self.left_there.append(f"what else its workspace holds: {error}")

    async def _take(self, session: Session, path: str) -> None:
        try:
            data = await session.read(path)
        except WorkspaceError as error:
            self.left_there.append(str(error))
            return
        if path not in self._given or not _holds(self._given[path], data):
            self.files[path] = data


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.read_bytes() == data
    except OSError:  # it was there when the agent got it
        return False


def _check_places(question: Question) -> None:
    """Raises ConfigError where what is there already would be lost, or where the agent's files would lie among ours."""
    out, workspace = question.out, question.workspace_out
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: no directory; name a new one")
    if out is not None and (out / EPISODE_FILE).exists():
        raise ConfigError(f"{out} holds an episode already: name another directory with --out")
    if workspace is None:
        return
    if workspace.exists() and (not workspace.is_dir() or any(workspace.iterdir())):
        raise ConfigError(f"--workspace-out {workspace}: not an empty directory; name a new one")
    if (out or Path("runs")).resolve().is_relative_to(workspace.resolve()):
        raise ConfigError(f"--workspace-out {workspace}: the run is kept in there; name a directory of its own")


def _make_place(question: Question) -> Path:
    """The directory that the run is kept in, and no other run. Raises ConfigError, StoreError."""
    if question.workspace_out is not None:
        with told(question.workspace_out):
            question.workspace_out.mkdir(parents=True, exist_ok=True)
    directory = question.out or new_directory("run")
    with told(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            (directory / EPISODE_FILE).touch(exist_ok=False)
        except FileExistsError:
            raise ConfigError(f"{directory} is another run's: name another directory with --out") from None
    return directory


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A terminal that is closed, or who ends us politely, is met as Ctrl-C is: the run is cancelled, and kept."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in signals:
        loop.add_signal_handler(each, running.cancel)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


def _keep(question: Question, agent: NBAgent, directory: Path, taken: _Collecting) -> tuple[str, ...]:
    """Why files of the workspace were not written."""
    if agent.episode is None:  # nothing was begun
        (directory / EPISODE_FILE).unlink()
        directory.rmdir()
        return ()
    agent.save(directory)
    if question.workspace_out is None:
        return ()
    return tuple(f"{name!r} cannot be written here" for name in write_beneath(question.workspace_out, taken.files))


def _tell(question: Question, agent: NBAgent, directory: Path, left_out: Sequence[str], console: Console) -> None:
    """Where it all is."""
    if agent.episode is None:
        return
    if (out := question.workspace_out) is not None:
        num_kept = sum(file.is_file() for file in out.rglob("*"))
        console.print(Text(f"{num_kept} {'file' if num_kept == 1 else 'files'} of its workspace in {out}", style="dim"))
        for why in left_out[:LEFT_OUT_SHOWN]:
            console.print(Text(f"left out: {clean(why)}", style="red"))
        if len(left_out) > LEFT_OUT_SHOWN:
            console.print(Text(f"left out: {len(left_out) - LEFT_OUT_SHOWN} more", style="red"))
    console.print(Text(f"kept in {directory} (lzero show, lzero replay; {NOTEBOOK_FILE} for Jupyter)", style="dim"))


def _config_of(question: Question) -> Config:
    """Raises ConfigError for a change that would not act, and for a wrong ability."""
    if question.ability and question.ability not in ABILITIES:
        raise ConfigError(f"--ability {question.ability}: there are {', '.join(ABILITIES)}")
    config = load_config(question.config, question.changes)
    acting = _KEYS_OF_NANO if not question.model and config.model.path == NANO else _KEYS
    for change in question.changes:
        key = change.partition("=")[0]
        if key.partition(".")[0] not in _SECTIONS and key not in acting:
            raise ConfigError(f"--set {change} would not act here: it is training's")
    return config


def _agent(question: Question, config: Config) -> tuple[NBAgent, Task]:
    from lzero.rollout.build import open_corpus_search, open_tools

    task = make_task(question.text, question.files, ability=question.ability)
    named = config.agent.model_copy(update={"tools": (*config.agent.tools, *question.tools)})
    tools = [*open_tools(config.model_copy(update={"agent": named}))]
    config = config.model_copy(update={"agent": named.model_copy(update={"tools": ()})})
    if corpus := question.corpus or config.tasks.corpus:
        tasks = config.tasks
        if "search_results" not in tasks.model_fields_set:  # its default is the nano's
            tasks = tasks.model_copy(update={"search_results": SEARCH_RESULTS})
        tools.append(open_corpus_search(corpus, tasks))
    agent = NBAgent(
        question.model or config.model.path,
        tools=tools,
        mcp=question.mcp,
        base_url=question.base_url,
        temperature=_temperature(question),
        seed=config.run.seed,
        config=config,
        **question.agent,
    )
    return agent, task


def _nano(question: Question, config: Config) -> tuple[NBAgent, Task]:
    """The bundled model, as the demo trains it, on a task of its world. Raises ConfigError for flags that would not act."""
    flags = {"file": question.files, "tool": question.tools, "mcp": question.mcp, "corpus": question.corpus}
    flags |= {"base-url": question.base_url, "ability": question.ability}
    flags |= {name.replace("_", "-"): value for name, value in question.agent.items()}
    if idle := [f"--{name}" for name, value in flags.items() if value]:
        raise ConfigError(f"{', '.join(idle)} would not act without --model: the bundled nano knows its own world only")
    from lzero.rollout.build import eval_tasks
    from lzero.tools import PassageIndex, Search

    task = eval_tasks(config).task(config.run.seed)
    search = Search(PassageIndex(task.passages), num_results=config.tasks.search_results)
    agent = NBAgent(
        NANO,
        tools=[search],
        temperature=_temperature(question),
        seed=config.run.seed,
        config=config,
        **config.agent.model_dump(exclude={"tools"}),
    )
    return agent, task


def _temperature(question: Question) -> float:
    return 1.0 if question.temperature is None else question.temperature
