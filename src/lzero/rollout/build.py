"""The one place where a run is put together from its configuration.

    async with build(config) as parts:
        collector = Collector(parts.runner, train_tasks(config), config=config.rollout, seed=config.run.seed)
        collected = await collector.collect(0)

torch and transformers are loaded when `build` is called, not when this module is.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from lzero.agent.corpus import corpus_search
from lzero.agent.episode import LIBRARIES, Setting, Ticket, run_episode
from lzero.agent.file_cache import FileCache
from lzero.agent.prompt import system_prompt
from lzero.agent.toolbox import open_tools
from lzero.config import Config, RewardConfig, RolloutConfig, TasksConfig
from lzero.data.attachments import FileLimits
from lzero.errors import ConfigError
from lzero.plugins import load_object
from lzero.protocols import Engine, Policy, RewardFn, TaskSource, Tool
from lzero.rollout.deadline import lzero_s
from lzero.rollout.runner import OpenTask, RunEpisode, Runner
from lzero.rollout.scoring import Scorer
from lzero.tools.search import PassageIndex, Search
from lzero.types import Episode, Json, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

POLICY = "policy:"
"""`model.path = "policy:expert"` is the world's scripted policy of that name, not a model."""

WORLD = "world"
"""`Task.source` of the built-in world's tasks."""

EVAL_SEED = 0
"""Held-out tasks are the same for every run, whatever its seed: scores of runs can be compared."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What runs episodes, and what it samples from. `engine` is a LocalEngine unless the model is a scripted policy."""

    engine: Engine
    runner: Runner
    tools_of: Callable[[Task], tuple[Tool, ...]]
    """Tools of a task's episodes in addition to the agent's own."""
    sandbox: Mapping[str, Json]
    """What shuts the REPLs in: for the record of the run."""


@asynccontextmanager
async def build(
    config: Config,
    *,
    make_engine: "Callable[[PreTrainedTokenizerFast], Engine] | None" = None,
    session_s: float | None = None,
) -> AsyncIterator[Parts]:
    """Everything that runs episodes, closed when the block is left. `make_engine` makes another engine than the configuration's.
    `session_s`: seconds that sessions of repl.servers must live; by default as long as an episode may take.

    Raises ConfigError, ModelError, DataError or SandboxError before anything runs.
    """
    from lzero.agent.conversation import TokenModel
    from lzero.agent.renderer import open_renderer
    from lzero.repl import open_pool

    deadline_s = lzero_s(config)
    scorer, tools = open_user_code(config)
    session_s = config.agent.work_s + deadline_s if session_s is None else session_s
    pool = open_pool(
        config.repl, session_s=session_s
    )  # not started: what is wrong with [repl] is told before a model is loaded
    corpus = None
    if config.tasks.corpus:
        corpus = await asyncio.to_thread(open_corpus_search, config.tasks.corpus, config.tasks)
    tokenizer = open_tokenizer(config)
    renderer = open_renderer(config.agent, tokenizer)
    async with AsyncExitStack() as stack:
        engine, rollout = (make_engine(tokenizer), config.rollout) if make_engine else open_engine(config, tokenizer)
        stack.push_async_callback(engine.close)
        stack.push_async_callback(pool.close)
        await pool.start()
        setting = Setting(
            agent=config.agent,
            model=TokenModel(engine, renderer, config.rollout.request_timeout_s),
            pool=pool,
            deadline_s=deadline_s,
            reply_s=config.rollout.request_timeout_s,
            libraries=LIBRARIES + config.repl.packages,
            files=FileCache(max_file_bytes=FileLimits.of(config.repl).file_bytes),
        )
        tools_of = partial(_tools_of, config=config.tasks, corpus=corpus, tools=tools)
        runner = Runner(_episodes_of(setting, tools_of), scorer, rollout)
        yield Parts(engine=engine, runner=runner, tools_of=tools_of, sandbox=pool.facts())


def open_user_code(config: Config) -> tuple[Scorer, tuple[Tool, ...]]:
    """Import the reward and the tools, and try the prompt template. Raises ConfigError for one that cannot be used."""
    scorer = open_scorer(config)
    tools = open_tools(config.agent.tools, config, key="agent.tools", taken=("search",))
    system_prompt(config.agent, tools)
    return scorer, tools


def open_tokenizer(config: Config) -> "PreTrainedTokenizerFast":
    """The model's; for a scripted policy, the one of the world's words (and of any other text, by its bytes). Raises ModelError."""
    from lzero.data.world import vocabulary
    from lzero.models import build_tokenizer, load_tokenizer, resolve

    if config.model.path.startswith(POLICY):
        return build_tokenizer(vocabulary())
    return load_tokenizer(resolve(config.model.path))


def open_scorer(config: Config) -> Scorer:
    """Make the scorer of L0's reward, or of the one that `reward.function` names. Raises ConfigError."""
    return Scorer(open_reward(config), timeout_s=config.reward.timeout_s)


def open_reward(config: Config) -> RewardFn:
    """L0's reward, or the one that `reward.function` names. Raises ConfigError."""
    from lzero.rewards import make_reward

    name = config.reward.function
    if not name:
        return make_reward(config.reward)
    if config.reward != RewardConfig(function=name, timeout_s=config.reward.timeout_s):
        raise ConfigError(
            f"reward.function = {name!r} replaces L0's reward, so the other keys of [reward], except timeout_s, have no effect: remove them"
        )
    function: RewardFn = load_object(name, key="reward.function")
    if not callable(function):
        raise ConfigError(f"reward.function = {name!r} is {function!r:.80}: name a function of (task, episode)")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"reward.function = {name!r} cannot be called with (task, episode): {error}. Let it take these two arguments"
        ) from None
    except ValueError:
        pass  # a function written in C has no signature to check
    return function


def open_engine(config: Config, tokenizer: "PreTrainedTokenizerFast") -> tuple[Engine, RolloutConfig]:
    """Return the engine, and [rollout] with as many episodes at once as it has memory for.

    Raises ConfigError for an unknown policy, ModelError for a model directory that cannot be used.
    """
    if config.model.path.startswith(POLICY):
        from lzero.engine.scripted import ScriptedEngine

        name = config.model.path.removeprefix(POLICY)
        return ScriptedEngine(
            find_policy(name, option=f"model.path = {config.model.path!r}"), tokenizer
        ), config.rollout
    from lzero.engine.local.engine import LocalEngine
    from lzero.models import load_model, resolve, select_device

    device = select_device(config.model.device)
    model = load_model(resolve(config.model.path), dtype=config.model.dtype, device=device)
    rollout = config.rollout.model_copy(update={"concurrency": fitting_concurrency(config, model)})
    if rollout.concurrency < config.rollout.concurrency:
        logger.warning(
            "keys and values of rollout.concurrency = %d episodes of agent.max_tokens = %d do not fit into memory: %d run at once",
            config.rollout.concurrency,
            config.agent.max_tokens,
            rollout.concurrency,
        )
    engine = LocalEngine(
        model,
        tokenizer,
        max_tokens=config.agent.max_tokens,
        num_slots=rollout.concurrency,
        deterministic=config.run.deterministic,
    )
    return engine, rollout


def fitting_concurrency(config: Config, model: "PreTrainedModel") -> int:
    """Return `rollout.concurrency`, or the smaller number of episodes whose keys and values fit into memory. Raises ModelError."""
    from lzero.engine.local.cache import fitting_slots

    return fitting_slots(model, num_slots=config.rollout.concurrency, max_tokens=config.agent.max_tokens)


def train_tasks(config: Config) -> TaskSource:
    """What training draws from, in an order that follows from the run's seed. Raises DataError."""
    from lzero.data.sources import open_source

    return open_source(config.tasks.train, split="train", seed=config.run.seed, config=config.tasks, repl=config.repl)


def eval_tasks(config: Config) -> TaskSource:
    """Held-out tasks, the same for every run. Raises DataError."""
    from lzero.data.sources import open_source

    return open_source(config.tasks.eval, split="eval", seed=EVAL_SEED, config=config.tasks, repl=config.repl)


def find_policy(name: str, *, option: str) -> Policy:
    """A scripted policy. Raises ConfigError, under the name of the `option` that asked for it, for one that there is not."""
    from lzero.data.world import POLICIES

    if name not in POLICIES:
        nearest = get_close_matches(name, POLICIES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{option}: did you mean {nearest}? There are {', '.join(POLICIES)}")
    return POLICIES[name]


def check_understood(task: Task, *, option: str) -> None:
    """Refuse a scripted policy for a task that it cannot read. Raises ConfigError."""
    if task.source != WORLD:
        raise ConfigError(
            f"{option}: scripted policies understand only the built-in world, not the tasks of {task.source!r}"
        )


def open_corpus_search(corpus: str, config: TasksConfig) -> Search:
    """The tool `search` over a directory of documents or a file of passages, as [tasks] has it. Raises DataError."""
    return corpus_search(corpus, num_results=config.search_results, snippet_chars=config.snippet_chars)


def _tools_of(task: Task, *, config: TasksConfig, corpus: Search | None, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """Return the tools of a task's episodes: `search` only if there are passages to search."""
    if corpus is not None:
        return (corpus, *tools)
    if not task.passages:
        return tuple(tools)
    index = PassageIndex(task.passages)
    return (Search(index, num_results=config.search_results, snippet_chars=config.snippet_chars), *tools)


def _episodes_of(setting: Setting, tools_of: Callable[[Task], tuple[Tool, ...]]) -> OpenTask:
    """Return the function that opens a task: its episodes share one search index."""

    def open_task(task: Task) -> RunEpisode:
        tools = tools_of(task)

        async def run(ticket: Ticket) -> Episode:
            return await run_episode(task, ticket, setting, tools=tools)

        return run

    return open_task
