"""Make the agent and the task of `lzero run`."""

from typing import Any

from lzero.agent import NBAgent, make_task
from lzero.cli.run import Question
from lzero.config import NANO, Config, EnvironmentConfig, LocalEngineConfig, load_config
from lzero.environments.search import SEARCH_RESULTS
from lzero.errors import ConfigError
from lzero.protocols import Tool
from lzero.rollout.compose import eval_tasks
from lzero.types import ABILITIES, Task

BRING_ONE = (
    "No --model is given, so the bundled nano model answers a question of the built-in world, which is all it knows. To use another model: "
    "--model NAME for OpenAI (OPENAI_API_KEY); --model NAME --base-url URL for vLLM, SGLang, Ollama and others; --model DIRECTORY for "
    "a Hugging Face model."
)
_SECTIONS = ("agent", "repl", "tools", "model", "engine", "environment")
"""Sections of which all keys have an effect here."""
_KEYS = ("run.seed",)
_KEYS_OF_NANO = ("run.seed", "tasks.eval", "tasks.hops")


def plays_nano(question: Question, config: Config) -> bool:
    """Return whether neither the command line nor the configuration names a model."""
    return not question.model and config.model.path == NANO and config.engine.kind == LocalEngineConfig().kind


def read_config(question: Question) -> Config:
    """Return the configuration. Raises ConfigError, also for a change without effect and an unknown ability."""
    if question.ability and question.ability not in ABILITIES:
        raise ConfigError(f"--ability {question.ability} is unknown: use one of {', '.join(ABILITIES)}")
    changes = question.set or ()
    config = load_config(question.config, changes)
    acting = _KEYS_OF_NANO if plays_nano(question, config) else _KEYS
    for change in changes:
        key = change.partition("=")[0]
        if key.partition(".")[0] not in _SECTIONS and key not in acting:
            raise ConfigError(f"--set {change} has no effect in `lzero run`: the key belongs to training")
    return config


def open_agent(question: Question, config: Config) -> tuple[NBAgent, Task]:
    """Return the agent, not started yet, and its task. Raises ConfigError, DataError."""
    if plays_nano(question, config):
        return _nano(question, config)
    if not question.text:
        raise ConfigError('no question is given: lzero run "…" --model …')
    task = make_task(question.text, question.file or (), ability=question.ability)
    tools: list[str | Tool] = [*config.agent.tools, *(question.tool or ())]
    agent_config = config.agent.model_copy(update={"tools": ()})
    config = config.model_copy(update={"agent": agent_config, "environment": _environment(question, config)})
    model = question.model or (config.model.path if config.engine == LocalEngineConfig() else None)
    agent = NBAgent(
        model,
        tools=tools,
        mcp=question.mcp or (),
        base_url=question.base_url,
        temperature=question.temperature,
        seed=config.run.seed,
        config=config,
        **_agent_keys(question),
    )
    return agent, task


def _agent_keys(question: Question) -> dict[str, Any]:
    """Return the keys of [agent] that options of the command set."""
    keys = {"max_steps": question.max_steps, "max_tokens": question.max_tokens, "memory": question.memory}
    return {key: value for key, value in (keys | {"answer_style": question.answer}).items() if value}


def _environment(question: Question, config: Config) -> EnvironmentConfig:
    """Return [environment] with the corpus of the flag. Raises ConfigError if the flag has no effect."""
    environment = config.environment
    if environment.use != EnvironmentConfig().use:
        if question.corpus:
            raise ConfigError(f'--corpus {question.corpus} has no effect with environment.use = "{environment.use}"')
        return environment
    options = {"results": SEARCH_RESULTS, **environment.options} | (
        {"corpus": question.corpus} if question.corpus else {}
    )
    return environment.model_copy(update={"options": options})


def _nano(question: Question, config: Config) -> tuple[NBAgent, Task]:
    """Return the bundled model, as the demo trains it, and a task of its world. Raises ConfigError for flags without effect."""
    names = ("file", "tool", "mcp", "corpus", "base_url", "ability", "max_steps", "max_tokens", "memory", "answer")
    if idle := [f"--{name.replace('_', '-')}" for name in names if getattr(question, name)]:
        raise ConfigError(
            f"{', '.join(idle)} would have no effect without --model: the bundled nano model knows only its own world"
        )
    task = eval_tasks(config).task(config.run.seed)
    agent = NBAgent(
        NANO,
        temperature=question.temperature,
        seed=config.run.seed,
        config=config,
        **config.agent.model_dump(exclude={"tools"}),
    )
    return agent, task
