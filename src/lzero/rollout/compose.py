"""Compose a run of many episodes from its configuration.

async with build(config) as opened:
    stream = SynchronousStream(opened.runner, train_tasks(config), config=config.rollout, seed=config.run.seed)
    collected = await stream.take(0)
"""

import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from lzero.agent.compose import MakeEngine, open_agent, opened_scenes
from lzero.agent.scenes import Scenes
from lzero.apart import SCORER_S
from lzero.config import Config, RewardConfig
from lzero.engine.kinds import OpenedEngine, open_endpoint
from lzero.errors import ConfigError
from lzero.plugins import find_plugin, valid_options
from lzero.protocols import TaskSource
from lzero.rewards.context import RewardFn, takes_context
from lzero.rewards.judge import Judge
from lzero.rewards.l0 import make_is_quick
from lzero.rollout.concurrency import rare_collections
from lzero.rollout.deadline import lzero_s
from lzero.rollout.pipeline import PipelinedStream
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.rollout.stream import SynchronousStream
from lzero.store import RunDirectory
from lzero.store.finished import FinishedGroups
from lzero.types import Json, Sampling

EVAL_SEED = 0
"""Seed of held-out tasks, the same for every run, so that scores of runs can be compared."""
APART = ("math", "reasoning_gym")
"""Scorers that run in a fork, which an answer can hold up for SCORER_S seconds."""
APART_S = SCORER_S + 5
"""The least `reward.timeout_s` with them: one that ends earlier would drop the episode, where the scorer gives 0."""


@dataclass(frozen=True, kw_only=True)
class OpenedRollout:
    """The runner of episodes, and the parts that it uses."""

    runner: Runner
    scenes: Scenes
    engine: OpenedEngine
    sandbox: Mapping[str, Json]
    """The isolation of the REPLs, for the record of the run."""

    @contextmanager
    def recorded(self, run: RunDirectory) -> Iterator[None]:
        """Record sandbox, engine and each verdict of a judge in `run`; after the block, copy the servers' logs there."""
        run.append_facts("sandbox", self.sandbox)
        if self.engine.facts:
            run.append_facts("engine", self.engine.facts)
        self.runner.scorer.keep_verdicts(run.path)
        try:
            yield
        finally:
            for name, log in self.engine.logs.items():
                run.keep_log(f"{name}.log", log)


@asynccontextmanager
async def build(
    config: Config,
    *,
    scenes: Scenes | None = None,
    scorer: Scorer | None = None,
    make_engine: MakeEngine | None = None,
    session_s: float | None = None,
) -> AsyncIterator[OpenedRollout]:
    """Yield everything that runs episodes, and close it after the block; given `scenes` stay open.

    `make_engine`: makes another engine than the configuration's. `session_s`: seconds that sessions of repl.servers must live; by default
    as long as an episode may take. Raises ConfigError, ModelError, DataError, EngineError or SandboxError before anything runs.
    """
    deadline_s = lzero_s(config)
    scorer = scorer or open_scorer(config)
    session_s = config.agent.work_s + deadline_s if session_s is None else session_s
    async with AsyncExitStack() as stack:
        stack.enter_context(rare_collections())
        if scorer.judge is not None:
            stack.push_async_callback(scorer.judge.close)
        if scenes is None:
            scenes = await stack.enter_async_context(opened_scenes(config))
        opening = open_agent(
            config,
            scenes,
            deadline_s=deadline_s,
            request_timeout_s=config.rollout.request_timeout_s,
            session_s=session_s,
            make_engine=make_engine,
        )
        ready = await stack.enter_async_context(opening)
        rollout = config.rollout.model_copy(update={"concurrency": ready.engine.concurrency})
        runner = Runner(ready.play, scorer, rollout)
        yield OpenedRollout(runner=runner, scenes=scenes, engine=ready.engine, sandbox=ready.sandbox)


def open_scorer(config: Config) -> Scorer:
    """Make the scorer of L0's reward, or of the function that `reward.function` names, with the judge of [judge]. Raises ConfigError."""
    function = open_reward(config)
    name, timeout_s = config.reward.function or config.reward.score, config.reward.timeout_s
    if name in APART and timeout_s < APART_S:
        raise ConfigError(
            f"reward.timeout_s = {timeout_s:g} is too short for {name!r}: an answer that is made to be slow would be left out, not "
            f"score 0. Set at least {APART_S:g}"
        )
    options = _reward_options(function, config)
    if config.judge.model and not takes_context(function):
        raise ConfigError(
            f'judge.model = "{config.judge.model}" has no effect: only a reward.function with a parameter called context can ask a judge'
        )
    if getattr(function, "needs_judge", False) and not config.judge.model:
        raise ConfigError(f'reward.function = "{config.reward.function}" asks a judge: set judge.model (and judge.url)')
    if not config.reward.function:
        return Scorer(function, timeout_s=config.reward.timeout_s, is_quick=make_is_quick(config.reward))
    return Scorer(function, timeout_s=config.reward.timeout_s, options=options, judge=open_judge(config))


def open_stream(
    config: Config, runner: Runner, source: TaskSource, *, state: Mapping[str, Json], run: RunDirectory
) -> SynchronousStream | PipelinedStream:
    """Return the source of batches from a checkpoint's state on. Raises ConfigError, StoreError."""
    if config.rollout.max_lag == 0:
        return SynchronousStream(runner, source, config=config.rollout, seed=config.run.seed, state=state)
    return PipelinedStream(
        runner,
        source,
        config=config.rollout,
        seed=config.run.seed,
        state=state,
        updates=config.train.updates,
        finished=FinishedGroups(run.path),
    )


def open_reward(config: Config) -> RewardFn:
    """Return L0's reward, or the function that `reward.function` names. Raises ConfigError."""
    from lzero.rewards import BUILT_IN, make_reward

    name, section = config.reward.function, config.reward
    if not name:
        return make_reward(section)
    if section != RewardConfig(function=name, options=section.options, timeout_s=section.timeout_s):
        raise ConfigError(
            f"reward.function = {name!r} replaces L0's reward, so the other keys of [reward], but for options and timeout_s, have no "
            "effect: remove them"
        )
    function: RewardFn = find_plugin(name, BUILT_IN, key="reward.function")
    if not callable(function):
        raise ConfigError(f"reward.function = {name!r} is {function!r:.80}: name a function of (task, episode)")
    return function


def _reward_options(function: RewardFn, config: Config) -> dict[str, Any]:
    """Return [reward] options, checked by the function's parameters after task, episode and context. Raises ConfigError."""
    name, options = config.reward.function, config.reward.options
    if not name:
        if options:
            raise ConfigError("reward.options has no effect without reward.function: remove it")
        return {}
    wanted = ("task", "episode", "context") if takes_context(function) else ("task", "episode")
    try:
        inspect.signature(function).bind(*wanted, **options)
    except TypeError as error:
        beside = f" and the options {', '.join(options)}" if options else ""
        raise ConfigError(
            f"reward.function = {name!r} cannot be called with ({', '.join(wanted)}){beside}: {error}. Let it take these arguments; a "
            "third parameter that is called context is given, too"
        ) from None
    except ValueError:
        return options  # a function written in C has no signature to check
    return valid_options(
        function, options, setting=f'reward.function = "{name}"', key="reward.options", given=len(wanted)
    )


def open_judge(config: Config) -> Judge | None:
    """Return the judge of [judge]; None if it names none. Nothing is sent to it before a reward asks it. Raises ConfigError."""
    settings = config.judge
    if not settings.model:
        return None
    engine = open_endpoint(settings.model, url=settings.url, key=settings.key, env_file=config.tools.env_file)
    sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens, seed=config.run.seed)
    return Judge(engine, sampling=sampling, deadline_s=settings.timeout_s, at_once=settings.at_once)


def train_tasks(config: Config) -> TaskSource:
    """Return the training tasks, in an order that depends on the run's seed. Raises DataError."""
    from lzero.data.sources import open_source

    return open_source(config.tasks.train, split="train", seed=config.run.seed, config=config.tasks, repl=config.repl)


def eval_tasks(config: Config) -> TaskSource:
    """Return the held-out tasks, the same for every run. Raises DataError."""
    from lzero.data.sources import open_source

    return open_source(config.tasks.eval, split="eval", seed=EVAL_SEED, config=config.tasks, repl=config.repl)
