"""One question for NB-Agent: set up, watched in the terminal, and kept, however it ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lzero.agent.nb_agent import NBAgent, make_task
from lzero.agent.outputs import clean
from lzero.agent.save import NOTEBOOK_FILE, save_run
from lzero.agent.session import Session
from lzero.agent.watch import Relay
from lzero.cli.steps import StepPrinter
from lzero.config import Config, load_config
from lzero.errors import ConfigError, WorkspaceError
from lzero.store import EPISODE_FILE, SavedEpisode, describe, new_directory, write_beneath
from lzero.types import Budgets, Task

NANO = "nano"
ABILITIES = ("qa", "math", "data", "search", "files")
_OF_TRAINING = ("rollout", "reward", "algo", "train", "eval", "sft")
SEARCH_RESULTS = 5
"""Of one search in a corpus, where no configuration says; the default of that is the nano's."""


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
    if question.out is not None and (question.out / EPISODE_FILE).exists():
        raise ConfigError(f"{question.out} holds an episode already: name another directory with --out")
    console = Console()
    agent, task = _nano(question, config) if plays_nano(question) else _agent(question, config)
    settings = agent.settings
    budgets = Budgets(max_steps=settings.max_steps, max_tokens=settings.max_tokens, cell_s=settings.cell_s)
    async with agent:
        console.print(Text(task.question, style="bold"))
        with StepPrinter(console, budgets) as printer:
            watcher = _Collecting(printer, task, question.workspace_out is not None)
            try:
                printer.print_answer(await agent.run(task, watcher=watcher))
            finally:
                printer.close()
                if agent.episode is not None:
                    _keep(question, config, agent, task, watcher, console)
    return agent.episode is not None and agent.episode.status != "failed"


class _Collecting(Relay):
    """And takes, at the end, the files that the agent has made out of its workspace."""

    def __init__(self, printer: StepPrinter, task: Task, wanted: bool) -> None:
        super().__init__(printer)
        self._given = {Path(file).name: Path(file) for file in task.files}
        self._wanted = wanted
        self.files: dict[str, bytes] = {}
        self.left_there: list[str] = []
        """Why each of the others could not be taken."""

    async def on_end(self, session: Session) -> None:
        if not self._wanted:
            return
        for file in await session.files():
            try:
                data = await session.read(file.path)
            except WorkspaceError as error:
                self.left_there.append(str(error))
                continue
            if file.path not in self._given or data != self._given[file.path].read_bytes():
                self.files[file.path] = data


def _keep(question: Question, config: Config, agent: NBAgent, task: Task, taken: _Collecting, console: Console) -> None:
    assert agent.episode is not None
    saved = SavedEpisode(
        task=task,
        episode=agent.episode,
        model=question.model or config.model.path,
        config={"agent": agent.settings.model_dump(mode="json"), "repl": config.repl.model_dump(mode="json")},
        tools=tuple(map(describe, agent.tools)),
    )
    directory = question.out or new_directory("run")
    save_run(directory, saved)
    if question.workspace_out is not None:
        left_out = write_beneath(question.workspace_out, taken.files)
        num_kept = len(taken.files) - len(left_out)
        noun = "file" if num_kept == 1 else "files"
        console.print(Text(f"{num_kept} {noun} of its workspace in {question.workspace_out}", style="dim"))
        for why in (*taken.left_there, *(f"{name!r} cannot be written here" for name in left_out)):
            console.print(Text(f"left out: {clean(why)}", style="red"))
    console.print(Text(f"kept in {directory} (lzero show, lzero replay; {NOTEBOOK_FILE} for Jupyter)", style="dim"))


def _config_of(question: Question) -> Config:
    """Raises ConfigError for a change that is training's alone, and for a wrong ability."""
    if question.ability and question.ability not in ABILITIES:
        raise ConfigError(f"--ability {question.ability}: there are {', '.join(ABILITIES)}")
    for change in question.changes:
        if change.partition(".")[0] in _OF_TRAINING:
            raise ConfigError(f"--set {change} would not act: that section is training's")
    return load_config(question.config, question.changes)


def _agent(question: Question, config: Config) -> tuple[NBAgent, Task]:
    from lzero.rollout.build import open_corpus_search, open_tools

    task = make_task(question.text, question.files, ability=question.ability)
    named = config.agent.model_copy(update={"tools": (*config.agent.tools, *question.tools)})
    tools = [*open_tools(config.model_copy(update={"agent": named}))]
    config = config.model_copy(update={"agent": named.model_copy(update={"tools": ()})})
    if corpus := question.corpus or config.tasks.corpus:
        tasks = config.tasks
        if "search_results" not in tasks.model_fields_set:
            tasks = tasks.model_copy(update={"search_results": SEARCH_RESULTS})
        tools.append(open_corpus_search(corpus, tasks))
    agent = NBAgent(
        question.model or config.model.path,
        tools=tools,
        mcp=question.mcp,
        base_url=question.base_url,
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
    return NBAgent(
        NANO, tools=[search], seed=config.run.seed, config=config, **config.agent.model_dump(exclude={"tools"})
    ), task
