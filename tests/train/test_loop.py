"""The whole loop on a bandit: the policy answers a fixed prompt with four tokens and is paid for ids below 128."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import torch
from builders import TINY, make_episode, make_run, make_step, save_tiny
from torch import Tensor
from whole_runs import is_of_the_machine

from lzero.algo.credit import Advantages, Estimator, Trajectory
from lzero.config import Config, load_config
from lzero.engine.local.engine import LocalEngine
from lzero.errors import CreditError, StoreError, TrainError
from lzero.models import build_tokenizer, load_model, load_tokenizer, new_model, save_model
from lzero.rollout.batch import Collected
from lzero.seeds import derive_seed
from lzero.store import Record, RunDirectory, read_episodes
from lzero.train.checkpoint import Progress, newest_checkpoint, read_manifest
from lzero.train.learner.local import LocalLearner
from lzero.train.loop import Outcome, train
from lzero.train.seeding import seeded
from lzero.train.skipped import read_skipped
from lzero.train.trainer import Trainer
from lzero.types import Episode, Json, Reward, Sampling, Task, Update

pytestmark = pytest.mark.integration
PROMPT = (5, 6, 7)
NUM_EPISODES = 32
PAID_BELOW = 128


class Bandit:
    """A stream without agent, sandbox or source."""

    max_lag = 0

    def __init__(self, engine: LocalEngine, *, next_task: Json = 0) -> None:
        assert isinstance(next_task, int)
        self.engine = engine
        self.next_task = next_task
        self.started = asyncio.Event()
        self.hangs = False
        self.breaks_at: frozenset[int] = frozenset()
        """Updates whose sampled log-probabilities are no numbers."""
        self.fails_at: int | None = None
        """The update that gets no batch."""

    @property
    def state(self) -> dict[str, Json]:
        return {"next_task": self.next_task}

    def published(self, version: int) -> None:
        assert version == self.engine.version

    def limit(self, lag: int) -> None: ...

    async def saved(self, state: Mapping[str, Json]) -> None: ...

    async def close(self) -> None: ...

    async def take(self, update: int) -> Collected:
        self.started.set()
        if self.hangs:
            await asyncio.Event().wait()
        if update == self.fails_at:
            raise TrainError("33 of the last 64 episodes failed")
        position, self.next_task = self.next_task, self.next_task + 1
        episodes = await asyncio.gather(*(self.episode(position, index) for index in range(NUM_EPISODES)))
        record = Record(
            task=Task(id=f"bandit-{position}", question="?", answers=("!",)),
            episodes=tuple(episodes),
            rewards=tuple(self.reward(episode) for episode in episodes),
        )
        score = sum(reward.score for reward in record.rewards if reward) / NUM_EPISODES
        group = record.group()
        if update in self.breaks_at:
            group = msgspec.structs.replace(group, episodes=tuple(map(broken, group.episodes)))
        return Collected(groups=(group,), records=(record,), metrics={"rollout/score": score})

    async def episode(self, position: int, index: int) -> Episode:
        name = f"bandit-{position}/{index}"
        sampling = Sampling(max_tokens=4, seed=derive_seed(position, index))
        completion = await self.engine.sample(PROMPT, sampling, request_id=name, affinity=name, deadline_s=60.0)
        await self.engine.forget(name)
        return make_episode(make_step(completion, new_ids=PROMPT), name=name, index=index, sampling=sampling)

    @staticmethod
    def reward(episode: Episode) -> Reward:
        token_ids = episode.steps[0].completion.token_ids
        paid = sum(token < PAID_BELOW for token in token_ids) / len(token_ids)
        return Reward(score=paid, per_step=(paid,), parts={"qa": (paid,)})


def broken(episode: Episode) -> Episode:
    (step,) = episode.steps
    logprobs = (float("nan"),) * len(step.completion.logprobs)
    completion = msgspec.structs.replace(step.completion, logprobs=logprobs)
    return msgspec.structs.replace(episode, steps=(msgspec.structs.replace(step, completion=completion),))


def config_of(tmp_path: Path, *overrides: str) -> Config:
    model = tmp_path / "model"
    if not model.exists():
        save_tiny(model)
    fixed = [
        "agent.max_tokens=64",
        "run.deterministic=true",
        "model.device=cpu",
        "train.lr=0.05",
        "train.checkpoint_every=3",
    ]
    return load_config(overrides=[f"model.path={model}", *fixed, *overrides])


def new_run(directory: Path) -> RunDirectory:
    return make_run(directory)


@asynccontextmanager
async def local_engine(config: Config) -> AsyncIterator[LocalEngine]:
    model = load_model(config.model.path, dtype="float32", device="cpu")
    tokenizer = load_tokenizer(config.model.path)
    engine = LocalEngine(model, tokenizer, max_tokens=64, num_slots=NUM_EPISODES, deterministic=True)
    try:
        yield engine
    finally:
        await engine.close()


async def run_bandit(
    config: Config, directory: Path, *, stop_after: int | None = None
) -> tuple[Outcome, list[Update], dict[str, Tensor]]:
    """Train on the bandit, or resume the run in `directory`; stop after `stop_after` updates."""
    with seeded(config.run):
        resumes = directory.exists()
        run = RunDirectory.open(directory) if resumes else new_run(directory)
        trainer, progress = Trainer.build(config, checkpoint=newest_checkpoint(run.checkpoints) if resumes else None)
        run.rewind(progress.update)
        updates: list[Update] = []
        stop = asyncio.Event()

        def on_update(update: Update) -> None:
            updates.append(update)
            if update.policy_version == stop_after:
                stop.set()

        async with local_engine(config) as engine:
            bandit = Bandit(engine, next_task=progress.stream.get("next_task", 0))
            learner = LocalLearner(trainer, engine, run)
            outcome = await train(
                learner, progress, config=config, stream=bandit, run=run, on_update=on_update, stop=stop
            )
        return outcome, updates, {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def untimed(metrics: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in metrics.items() if not is_of_the_machine(name)}


async def test_the_policy_learns_what_is_paid(tmp_path: Path) -> None:
    outcome, updates, _ = await run_bandit(config_of(tmp_path, "train.updates=16"), tmp_path / "run")
    scores = [update.metrics["rollout/score"] for update in updates]
    assert scores[0] < 0.6
    assert scores[-1] > 0.95
    assert outcome.finished
    assert outcome.progress == Progress(update=16, stream={"next_task": 16})
    assert all(update.metrics["train/logprob_gap_max"] < 1e-4 for update in updates)
    assert updates[0].metrics["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert updates[-1].metrics["train/kl"] > 0.1


@pytest.mark.timeout(400)  # the first adapter imports peft, which takes ten seconds of an idle core
async def test_an_adapter_learns_what_is_paid_and_its_reference_stays(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", sizes=replace(TINY, init_std=0.5))  # an adapter needs features to work with
    _, updates, _ = await run_bandit(config_of(tmp_path, "train.updates=16", "lora.rank=4"), tmp_path / "run")
    scores = [update.metrics["rollout/score"] for update in updates]
    assert scores[-1] > scores[0] + 0.3
    assert all(update.metrics["train/logprob_gap_max"] < 1e-4 for update in updates)
    assert updates[0].metrics["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert updates[-1].metrics["train/kl"] > 0.1


async def test_recording_a_batch_holds_up_no_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, write = [], RunDirectory.write_records

    def noted(run: RunDirectory, *arguments: Any, **options: Any) -> None:
        threads.append(threading.current_thread())
        write(run, *arguments, **options)

    monkeypatch.setattr(RunDirectory, "write_records", noted)
    await run_bandit(config_of(tmp_path, "train.updates=1"), tmp_path / "run")
    assert threading.current_thread() not in threads
    assert len(threads) == len(list(read_episodes(tmp_path / "run"))) // NUM_EPISODES == 1


async def test_several_optimiser_steps_an_update_drift_from_the_sampler_and_are_no_gap(tmp_path: Path) -> None:
    settings = ("train.updates=2", "algo.loss=ppo", "train.epochs=2", "train.minibatches=2")
    _, updates, _ = await run_bandit(config_of(tmp_path, *settings), tmp_path / "run")
    for metrics in (update.metrics for update in updates):
        assert max(metrics["train/ratio_max"], metrics["train/ratio_inverse_max"]) > 1.01
        assert metrics["train/logprob_gap_max"] < 1e-4


CRITIC = ("algo.estimator=gae", "critic.kind=model", "critic.lr=0.01", "critic.warmup_updates=1")
ADAPTER = ("lora.rank=4", "algo.estimator=gae", "critic.kind=head")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("settings", [(), CRITIC, ADAPTER], ids=["", "critic", "adapter"])
async def test_a_stopped_run_resumes_as_if_it_had_never_stopped(settings: tuple[str, ...], tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=6", *settings)
    whole, all_updates, weights = await run_bandit(config, tmp_path / "whole")
    first, some_updates, _ = await run_bandit(config, tmp_path / "parts", stop_after=4)
    assert not first.finished
    assert first.checkpoint.name == "update-000004"
    second, other_updates, resumed_weights = await run_bandit(config, tmp_path / "parts")
    assert second.finished
    assert second.progress == whole.progress
    again = [untimed(update.metrics) for update in some_updates + other_updates]
    assert again == [untimed(update.metrics) for update in all_updates]
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)
    lines = [
        [untimed(line) for line in RunDirectory.open(tmp_path / name).read_metrics()] for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    episodes = [list(read_episodes(tmp_path / name)) for name in ("whole", "parts")]
    assert episodes[0] == episodes[1]


async def test_a_run_whose_newest_checkpoint_is_broken_goes_on_from_the_one_before(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=6")
    _, all_updates, weights = await run_bandit(config, tmp_path / "whole")
    outcome, _, _ = await run_bandit(config, tmp_path / "parts", stop_after=5)
    broken = outcome.checkpoint / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    _, other_updates, resumed_weights = await run_bandit(config, tmp_path / "parts")
    assert [update.policy_version for update in other_updates] == [4, 5, 6]
    assert [untimed(update.metrics) for update in other_updates] == [
        untimed(update.metrics) for update in all_updates[3:]
    ]
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)


async def test_a_checkpoint_of_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=1")
    outcome, _, _ = await run_bandit(config, tmp_path / "run")
    tokenizer = build_tokenizer()
    save_tiny(tmp_path / "model", tokenizer, sizes=replace(TINY, hidden_size=32))
    shapes = r"model\.embed_tokens\.weight has shape \(259, 16\) in the checkpoint and \(259, 32\) in the model; .* and \d+ more"
    with pytest.raises(StoreError, match=f"belongs to another model than the one in .*: {shapes}"):
        Trainer.build(config, checkpoint=outcome.checkpoint)
    tokenizer.add_tokens(["<new>"])
    save_model(new_model(TINY, build_tokenizer(), seed=0), tokenizer, tmp_path / "model")
    with pytest.raises(StoreError, match="token '<new>' has id none in the checkpoint and 259 in the model"):
        Trainer.build(config, checkpoint=outcome.checkpoint)


async def test_stop_cancels_the_episodes_under_way_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=6")
    run = new_run(tmp_path / "run")
    trainer, progress = Trainer.build(config)
    stop = asyncio.Event()
    async with local_engine(config) as engine:
        bandit = Bandit(engine)
        bandit.hangs = True
        running = asyncio.create_task(
            train(LocalLearner(trainer, engine, run), progress, config=config, stream=bandit, run=run, stop=stop)
        )
        await bandit.started.wait()
        stop.set()
        outcome = await asyncio.wait_for(running, timeout=30)
    assert not outcome.finished
    assert outcome.progress == Progress()
    assert outcome.checkpoint == newest_checkpoint(run.checkpoints)
    assert run.read_metrics() == []


async def test_evaluations_come_between_updates_as_often_as_asked(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=6", "eval.every=2")
    run = new_run(tmp_path / "run")
    trainer, progress = Trainer.build(config)
    evaluated: list[int] = []

    async def evaluate(version: int) -> float:
        evaluated.append(version)
        return 0.5

    async with local_engine(config) as engine:
        await train(
            LocalLearner(trainer, engine, run),
            progress,
            config=config,
            stream=Bandit(engine),
            run=run,
            evaluate=evaluate,
        )
    assert evaluated == [0, 2, 4, 6]


async def test_an_update_that_is_not_finite_is_left_out_and_kept_and_the_third_in_a_row_ends_the_run(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path, "train.updates=6", "algo.importance_cap=2")
    run = new_run(tmp_path / "run")
    trainer, progress = Trainer.build(config)
    async with local_engine(config) as engine:
        bandit = Bandit(engine)
        bandit.breaks_at = frozenset({0, 2, 3, 4})
        with pytest.raises(TrainError, match=r"update 4: .* 3 in a row"):
            await train(LocalLearner(trainer, engine, run), progress, config=config, stream=bandit, run=run)
    assert [line["train/skipped"] for line in run.read_metrics()] == [1.0, 0.0, 1.0, 1.0]
    for update, kept in enumerate((1, 0, 1, 1, 1)):
        steps = read_skipped(run.path, update=update)
        assert [len(step.batch) for step in steps] == [NUM_EPISODES] * kept
    checkpoint = newest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    assert read_manifest(checkpoint).progress == Progress(update=3, stream={"next_task": 3}, skipped_in_a_row=1)


async def test_a_penalty_in_the_reward_that_is_not_finite_skips_the_step_and_keeps_its_batch(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=6", "algo.kl_in=reward", "algo.kl=k1")
    run = new_run(tmp_path / "run")
    trainer, progress = Trainer.build(config)
    assert trainer.reference is not None
    trainer.reference.get_output_embeddings().weight.data.fill_(float("nan"))
    async with local_engine(config) as engine:
        with pytest.raises(TrainError, match=r"update 2: .* 3 in a row"):
            await train(LocalLearner(trainer, engine, run), progress, config=config, stream=Bandit(engine), run=run)
    assert [line["train/skipped"] for line in run.read_metrics()] == [1.0, 1.0]
    for update in range(3):
        (step,) = read_skipped(run.path, update=update)
        assert len(step.batch) == NUM_EPISODES


async def test_a_run_that_gets_no_batch_ends_with_a_checkpoint_of_what_was_reached(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=6", "train.checkpoint_every=10")
    run = new_run(tmp_path / "run")
    trainer, progress = Trainer.build(config)
    async with local_engine(config) as engine:
        bandit = Bandit(engine)
        bandit.fails_at = 2
        with pytest.raises(TrainError, match="33 of the last 64"):
            await train(LocalLearner(trainer, engine, run), progress, config=config, stream=bandit, run=run)
    checkpoint = newest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    assert read_manifest(checkpoint).progress == Progress(update=2, stream={"next_task": 2})


class FailsInThirdUpdate(Estimator):
    """An estimator of a user's own, with a fault that shows late."""

    calls: ClassVar[int] = 0

    def advantages(self, trajectories: Sequence[Trajectory]) -> Advantages:
        FailsInThirdUpdate.calls += 1
        return [(1.0 / (3 - FailsInThirdUpdate.calls),) * len(trajectory.rewards) for trajectory in trajectories]


async def test_a_run_whose_estimator_fails_ends_with_a_checkpoint_of_what_was_reached(tmp_path: Path) -> None:
    own = f"algo.estimator={__name__}:{FailsInThirdUpdate.__name__}"
    config = config_of(tmp_path, "train.updates=6", "train.checkpoint_every=10", own)
    run = new_run(tmp_path / "run")
    trainer, progress = Trainer.build(config)
    async with local_engine(config) as engine:
        with pytest.raises(CreditError, match=r"FailsInThirdUpdate raised ZeroDivisionError: .* \(test_loop.py, line"):
            await train(LocalLearner(trainer, engine, run), progress, config=config, stream=Bandit(engine), run=run)
    checkpoint = newest_checkpoint(run.checkpoints)
    assert checkpoint is not None
    assert read_manifest(checkpoint).progress == Progress(update=2, stream={"next_task": 2})


async def test_shuffled_rewards_teach_nothing_of_the_real_ones(tmp_path: Path) -> None:
    config = config_of(tmp_path, "train.updates=8", "algo.shuffle_rewards=true")
    _, updates, _ = await run_bandit(config, tmp_path / "run")
    assert abs(updates[-1].metrics["rollout/score"] - updates[0].metrics["rollout/score"]) < 0.25


async def test_a_batch_in_which_no_episode_took_a_step_stops_the_run_with_the_reason(tmp_path: Path) -> None:
    trainer, _ = Trainer.build(config_of(tmp_path))
    with pytest.raises(TrainError, match=r"no episode .* made a step"):
        trainer.samples(())


def test_deterministic_algorithms_are_on_only_while_a_deterministic_run_lasts() -> None:
    with seeded(load_config(overrides=["run.deterministic=true"]).run):
        assert torch.are_deterministic_algorithms_enabled()
        first = torch.rand(3)
    assert not torch.are_deterministic_algorithms_enabled()
    with seeded(load_config().run):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.rand(3), first)
