"""Run a whole training run for `lzero train`: the score on held-out tasks, training, the score again.

config ──▶ tasks, trainer, engine, sandboxes ──▶ loop.train ──▶ Report
                  │
                  └ refuse what cannot be used, before a file is written
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol, cast

import msgspec

from lzero.agent.compose import opened_scenes
from lzero.config import Config
from lzero.data.sources import leaks, reading_notes
from lzero.engine.kinds import kind_of
from lzero.errors import ConfigError, DataError
from lzero.eval.evaluate import Evaluator
from lzero.protocols import Engine, TaskSource
from lzero.rollout.compose import build, eval_tasks, open_scorer, open_stream, train_tasks
from lzero.rollout.curriculum import check_curriculum
from lzero.rollout.failures import TaskFailures, by_task, kinds_in
from lzero.rollout.inputs import compare_inputs, run_inputs
from lzero.rollout.scoring import Scorer
from lzero.store import Record, RunDirectory, check_new, read_records
from lzero.store.inputs import Input, write_inputs
from lzero.threads import computing_alone
from lzero.train.checkpoint import Progress
from lzero.train.checks import check_settings, inert_settings
from lzero.train.collapse import collapse_warnings
from lzero.train.learner.local import LocalLearner, computed
from lzero.train.learner.ranks import RankLearner
from lzero.train.loop import Outcome, train
from lzero.train.policy import compute_spec
from lzero.train.preflight import memory
from lzero.train.preflight.cluster import check_cluster
from lzero.train.ranks.starting import opened_trainer
from lzero.train.ranks.trainer import RankTrainer
from lzero.train.resume import check_config, checkpoint_to_resume
from lzero.train.seeding import seeded
from lzero.train.trackers import Track, check_trackers, open_trackers
from lzero.train.trainer import Trainer
from lzero.types import Json, Update

logger = logging.getLogger(__name__)


class Watcher(Protocol):
    """Observer of a run, such as a display."""

    def say(self, sentence: str) -> None:
        """Show the current activity."""

    def note(self, sentence: str) -> None:
        """Show a note that stays."""

    def updated(self, update: Update) -> None:
        """Show an update that was made."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Result of a run. If `after` is None, it was stopped early, and `--resume` continues it."""

    run: RunDirectory
    progress: Progress
    before: tuple[Record, ...] | None
    """Records of the initial policy on held-out tasks; None if the run was stopped before."""
    after: tuple[Record, ...] | None
    num_episodes: int
    """Number of training episodes that were scored, over the whole run."""
    failures: dict[str, int]
    """Failed attempts by kind, over the whole run, those with a successful retry included."""
    failing: tuple[TaskFailures, ...]
    """Tasks with the most failed attempts, among those that metrics.jsonl names."""
    seconds: float


async def run_training(
    config: Config, *, run: RunDirectory | None, watcher: Watcher, stop: asyncio.Event, accept_changes: bool = False
) -> Report:
    """Train as `config` says, in a new run directory or, with `run`, from the newest checkpoint of that run.

    `accept_changes`: resume even if the inputs (tasks, corpus, prompt, model) have changed. `stop` ends the run where it can resume next.
    Raises an LzeroError before a run directory is made if the configuration, the tasks, the model or the sandbox cannot be used.
    """
    start = time.monotonic()
    scorer = _checked(config, run)
    training, held_out = _sources(config)
    notes = inert_settings(config) + source_notes(config, training, held_out)
    async with AsyncExitStack() as stack:
        stack.enter_context(seeded(config.run))
        stack.enter_context(computing_alone())
        if run is not None:
            stack.enter_context(run.claimed())
        checkpoint = checkpoint_to_resume(run) if run else None
        if checkpoint:
            check_config(checkpoint, config)
        await check_cluster(config)
        scenes = await stack.enter_async_context(opened_scenes(config))  # before a large model is loaded
        inputs = run_inputs(config, training, held_out, scenes.environment)
        if run is not None:
            notes += compare_inputs(run.path, inputs, checkpoint=checkpoint, accept=accept_changes)
        for note in notes:
            watcher.note(note)
        watcher.say("loading the model and starting the sandboxes")
        trainer, progress = await stack.enter_async_context(opened_trainer(config, checkpoint=checkpoint))
        opened = await stack.enter_async_context(build(config, scenes=scenes, scorer=scorer))
        engine = cast(Engine, opened.engine.engine)
        await scenes.rehearse(training.task(0))
        notes += await _memory_notes(trainer, watcher)
        if run is None:
            run = RunDirectory.create(config)
            stack.enter_context(run.claimed())
        _begin(run, inputs, update=progress.update)
        stack.enter_context(opened.recorded(run))
        stream = open_stream(config, opened.runner, training, state=progress.stream, run=run)
        evaluator = Evaluator(runner=opened.runner.beside(), source=held_out, config=config, in_training=True)
        history = run.read_metrics()
        with run.logged(), open_trackers(config, run.path, update=progress.update, history=history) as track:
            for note in notes:
                logger.warning("%s", note)
            logger.info("attention of the trained model: %s", trainer.attention)
            learner = _learner(trainer, engine, run)
            stack.push_async_callback(learner.close)
            stack.push_async_callback(stream.close)
            updates = train(
                learner,
                progress,
                config=config,
                stream=stream,
                run=run,
                evaluate=partial(_evaluate, evaluator=evaluator, run=run, watcher=watcher, track=track),
                on_update=partial(_tell, history=history, watcher=watcher, track=track),
                stop=stop,
            )
            outcome = await learner.unless_lost(updates)
    return _report(run, outcome, seconds=time.monotonic() - start)


def _checked(config: Config, run: RunDirectory | None) -> Scorer:
    """Return the scorer of a run whose settings, trackers, reward and directory can be used. Raises ConfigError, StoreError."""
    if not kind_of(config).TRAINS:
        raise ConfigError(
            f'engine.kind = "{config.engine.kind}" cannot be trained: name a kind that samples from model.path'
        )
    check_settings(config)
    check_trackers(config)
    if run is None:
        check_new(config)
    return open_scorer(config)


def _begin(run: RunDirectory, inputs: Mapping[str, Input], *, update: int) -> None:
    """Write the configuration and the fingerprints of the inputs, and remove records of later updates. Raises StoreError."""
    run.keep_changes()
    write_inputs(run.path, inputs)
    run.rewind(update)


async def _evaluate(version: int, *, evaluator: Evaluator, run: RunDirectory, watcher: Watcher, track: Track) -> float:
    """Return the held-out score of a policy version: the recorded one, or else that of a new evaluation."""
    recorded = run.score(version)
    if recorded is not None:
        return recorded
    watcher.say(f"evaluating version {version} of the policy on {evaluator.num_tasks} held-out tasks")
    evaluations = await evaluator.record(run, update=version)
    for evaluation in evaluations:
        track(evaluation.phase, version, evaluation.metrics)
    watcher.say(f"version {version} scores {evaluations[0].score:.3f} on held-out tasks")
    return evaluations[0].score


def _tell(update: Update, *, history: list[dict[str, Json]], watcher: Watcher, track: Track) -> None:
    """Report an update to the trackers and the watcher, and warn of signs of a collapse."""
    number = update.policy_version - 1
    history.append({"phase": "train", "update": number, **update.metrics})
    track("train", number, update.metrics)
    watcher.updated(update)
    for sign in collapse_warnings(history):
        logger.warning("%s", sign)
        watcher.note(str(sign))


def _sources(config: Config) -> tuple[TaskSource, TaskSource]:
    """Return training tasks and held-out tasks. Raises ConfigError or DataError."""
    training, held_out = train_tasks(config), eval_tasks(config)
    check_curriculum(config.rollout, training)
    shared = leaks(training, held_out)
    if shared:
        examples = ", ".join(f"{task.id} ({task.question!r})" for _, task in shared[:3])
        raise DataError(
            f"{len(shared)} held-out questions of {config.tasks.eval} are training questions of {config.tasks.train} too: "
            f"{examples} …; take them out of one of the two files (`lzero check` lists them)"
        )
    if complaint := kind_of(config).complaint(config, training.task(0)):
        raise ConfigError(complaint)
    return training, held_out


def _learner(trainer: Trainer, engine: Engine, run: RunDirectory) -> LocalLearner:
    """Return the learner for this trainer."""
    return RankLearner(trainer, engine, run) if isinstance(trainer, RankTrainer) else LocalLearner(trainer, engine, run)


async def _memory_notes(trainer: Trainer, watcher: Watcher) -> list[str]:
    """Test the memory of an update if `train.memory_test` asks for it, and return what was found. Raises ConfigError."""
    if not memory.is_wanted(trainer.config, compute_spec(trainer.model).device.type):
        return []
    watcher.say("testing the memory of an update on the longest possible batch")
    note = await computed(partial(memory.check_memory, trainer))
    watcher.note(note)
    return [note]


def source_notes(config: Config, training: TaskSource, held_out: TaskSource) -> list[str]:
    """Return a sentence for each source of whose rows some were converted, or fields were left out."""
    named = {"train": (config.tasks.train, training), "eval": (config.tasks.eval, held_out)}
    found = {f"tasks.{key}: {spec}": reading_notes(source) for key, (spec, source) in named.items()}
    return [f"{where}: {fields}" for where, fields in found.items() if fields]


def _records(run: RunDirectory, version: int) -> tuple[Record, ...] | None:
    """Return the records of a policy version's greedy evaluation; None if there was none."""
    records = tuple(read_records(run.path, phase="eval", update=version))
    return records or None


def _report(run: RunDirectory, outcome: Outcome, *, seconds: float) -> Report:
    lines = run.read_metrics()
    counts = [line["rollout/episodes"] for line in lines if line["phase"] == "train"]
    return Report(
        run=run,
        progress=outcome.progress,
        before=_records(run, 0),
        after=_records(run, outcome.progress.update) if outcome.finished else None,
        num_episodes=sum(int(count) for count in counts if isinstance(count, float)),
        failures=kinds_in(lines),
        failing=_failing(lines),
        seconds=seconds,
    )


def _failing(lines: Sequence[Mapping[str, Json]]) -> tuple[TaskFailures, ...]:
    found = (msgspec.convert(line.get("failing_tasks", []), list[TaskFailures]) for line in lines)
    return by_task(chain.from_iterable(found)).worst
