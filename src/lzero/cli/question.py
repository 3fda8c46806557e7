"""What `lzero run` is asked, and the agent and the task that it makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lzero.agent import NBAgent, make_task
from lzero.agent.corpus import SEARCH_RESULTS
from lzero.config import NANO, Config, load_config
from lzero.errors import ConfigError
from lzero.protocols import Tool
from lzero.rollout.build import eval_tasks, open_corpus_search
from lzero.tools import PassageIndex, Search
from lzero.types import Task

BRING_ONE = (
    "No --model is given, so the bundled nano model answers a question of the built-in world, which is all it knows. To use another model: "
    "--model NAME for OpenAI (OPENAI_API_KEY); --model NAME --base-url URL for vLLM, SGLang, Ollama and others; --model DIRECTORY for "
    "a Hugging Face model."
)
ABILITIES = ("qa", "math", "data", "search", "files")
_SECTIONS = ("agent", "repl", "tools", "model")
"""Whose keys act here, all of them."""
_KEYS = ("run.seed", "tasks.corpus", "tasks.search_results", "tasks.snippet_chars")
_KEYS_OF_NANO = ("run.seed", "tasks.eval", "tasks.hops", "tasks.search_results")


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
    temperature: float
    agent: Mapping[str, Any]
    """Keys of [agent] that flags have set."""
    workspace_out: Path | None
    out: Path | None
    config: Path | None
    changes: tuple[str, ...]


def plays_nano(question: Question, config: Config) -> bool:
    """Whether no model is named, anywhere."""
    return not question.model and config.model.path == NANO


def read_config(question: Question) -> Config:
    """The configuration that the command line asks for. Raises ConfigError, also for a change that would not act, and a wrong ability."""
    if question.ability and question.ability not in ABILITIES:
        raise ConfigError(f"--ability {question.ability} is unknown: use one of {', '.join(ABILITIES)}")
    config = load_config(question.config, question.changes)
    acting = _KEYS_OF_NANO if plays_nano(question, config) else _KEYS
    for change in question.changes:
        key = change.partition("=")[0]
        if key.partition(".")[0] not in _SECTIONS and key not in acting:
            raise ConfigError(f"--set {change} has no effect in `lzero run`: the key belongs to training")
    return config


def open_agent(question: Question, config: Config) -> tuple[NBAgent, Task]:
    """The agent that is asked, not started yet, and its task. Raises ConfigError, DataError."""
    if plays_nano(question, config):
        return _nano(question, config)
    if not question.text:
        raise ConfigError('no question is given: lzero run "…" --model …')
    task = make_task(question.text, question.files, ability=question.ability)
    tools: list[str | Tool] = [*config.agent.tools, *question.tools]
    config = config.model_copy(update={"agent": config.agent.model_copy(update={"tools": ()})})
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
        temperature=question.temperature,
        seed=config.run.seed,
        config=config,
        **question.agent,
    )
    return agent, task


def _nano(question: Question, config: Config) -> tuple[NBAgent, Task]:
    """The bundled model, as the demo trains it, on a task of its world. Raises ConfigError for flags that would not act."""
    flags = {"file": question.files, "tool": question.tools, "mcp": question.mcp, "corpus": question.corpus}
    flags |= {"base-url": question.base_url, "ability": question.ability}
    flags |= {name.replace("_", "-").removesuffix("-style"): value for name, value in question.agent.items()}
    if idle := [f"--{name}" for name, value in flags.items() if value]:
        raise ConfigError(
            f"{', '.join(idle)} would have no effect without --model: the bundled nano model knows only its own world"
        )
    task = eval_tasks(config).task(config.run.seed)
    search = Search(PassageIndex(task.passages), num_results=config.tasks.search_results)
    agent = NBAgent(
        NANO,
        tools=[search],
        temperature=question.temperature,
        seed=config.run.seed,
        config=config,
        **config.agent.model_dump(exclude={"tools"}),
    )
    return agent, task
