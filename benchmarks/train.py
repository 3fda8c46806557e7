"""What an update costs: `python benchmarks/train.py [--json] [--rounds 3] [--groups 2]`.

The nano model, on this machine's CPU, through the update of `lzero.train.loop`: samples, score, advantages, update.

    rows       8-step append-only episodes of the agent, merged, against the same with a row a step, as L0 trains
    packing    the same episodes, and episodes of one step, in trees and packed, against padded
    share      a real run of the built-in world: the time in which no token is sampled, no cell runs, and no model passes, and
               how long an update waits for the checkpoint of the one before
    TRL        its GRPOTrainer on the same model, prompts and reward: single-turn episodes (if it is installed)

Contenders take turns, and ratios are medians over the turns: all meet the same machine. On one that others use, too, set
OMP_NUM_THREADS=1: two threads of an operation wait for each other.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent import Instant
from figures import Figure, at_least, at_most, table
from msgspec import structs
from train_share import share_outside
from train_trl import EPISODES_A_GROUP, KL, LR, NEW_TOKENS, Seconds, Trl, score

from lzero.agent.conversation import TokenModel
from lzero.agent.episode import run_episode
from lzero.agent.renderer import Renderer
from lzero.agent.setting import Setting, Ticket
from lzero.algo.layout import plan
from lzero.config import make_config
from lzero.engine.local.engine import LocalEngine
from lzero.models import load_model, load_tokenizer, resolve, save_model
from lzero.repl import LocalPool
from lzero.rollout.compose import train_tasks
from lzero.seeds import derive_seed
from lzero.threads import computing_alone
from lzero.train.publish import Publisher
from lzero.train.trainer import Trainer
from lzero.train.transfer.in_process import InProcessTransfer
from lzero.types import Budgets, Episode, Group, Parsed, Prompt, Reward, Sampling, Step, Task

STEPS = 8
REACH_TOKENS, REACH_WALL, REACH_SHARE, REACH_CHECKPOINT, REACH_UPDATE, REACH_WHOLE = 4, 3, 10, 50, 1.5, 2
BUDGET = "\n[6 steps and 384 tokens left]"
"""As the agent tells it."""
REPLY = "<think>A thought.</think>\n<code>\nx = {}\nprint(x)\n</code>"
CODES = ("1", "6 * 7", "'a longer text ' * 3", "sum(range(100))", "[n for n in range(12)]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender")
    parser.add_argument("--groups", type=int, default=2, help="groups of 4 episodes against a row a step")
    parser.add_argument("--prompts", type=int, default=32, help="groups of 4 episodes against TRL")
    arguments = parser.parse_args()
    # TRL first: what this thread has computed with several threads by then would slow our engine's down (lzero.threads).
    with computing_alone():
        single_turns = against_trl(arguments.prompts, arguments.rounds) if find_spec("trl") else []
    figures = against_rows(arguments.groups, arguments.rounds) + share(arguments.rounds) + single_turns
    print(json.dumps([asdict(figure) for figure in figures]) if arguments.json else table(figures))


def against_rows(num_groups: int, rounds: int) -> list[Figure]:
    merged = asyncio.run(agents_groups(num_groups))
    apart = tuple(row_a_step(group) for group in merged)
    short = tuple(first_steps(group) for group in merged)
    contenders = {
        (name, packing): (groups, new_trainer(packing))
        for packing in ("tree", "padded", "packed")
        for name, groups in (("merged", merged), ("apart", apart), ("short", short))
    }
    tokens = {key: distinct_tokens(trainer, groups) for key, (groups, trainer) in contenders.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in contenders}
    for _ in range(rounds):
        for key, (groups, trainer) in contenders.items():
            started = time.perf_counter()
            learn(trainer, groups)
            seconds[key].append(time.perf_counter() - started)

    def times(one: tuple[str, str], other: tuple[str, str]) -> float:
        return statistics.median(mine / its for mine, its in zip(seconds[one], seconds[other], strict=True))

    ours, rows = ("merged", "tree"), ("apart", "padded")
    return [
        at_least("tokens of a row a step against ours (8 steps)", tokens[rows] / tokens[ours], "×", REACH_TOKENS),
        at_least("  wall time of the update", times(rows, ours), "×", REACH_WALL),
        Figure("  tokens, merged without sharing", tokens[rows] / tokens["merged", "padded"], "×"),
        Figure("  wall time, merged without sharing", times(rows, ("merged", "padded")), "×"),
        Figure("  tokens computed by ours", tokens[ours], ""),
        Figure("  seconds of that update", statistics.median(seconds[ours]), "s"),
        *(
            Figure(f"padded against {packing}, wall time, {what}", times((name, "padded"), (name, packing)), "×")
            for packing in ("tree", "packed")
            for name, what in (("merged", "8 steps"), ("short", "one step"), ("apart", "a row a step"))
        ),
    ]


async def agents_groups(number: int) -> tuple[Group, ...]:
    """Episodes of the agent whose model answers at once, in real sandboxes; rewards drawn at random."""
    tokenizer, stream = load_tokenizer(resolve("nano")), random.Random(0)
    agent = make_config({"agent": {"max_steps": STEPS, "max_tokens": 4096, "response_tokens": 256}}).agent
    groups = []
    async with LocalPool() as pool:
        for index in range(number):
            task = Task(id=str(index), question="What is six times seven?", answers=("42",))
            episodes = []
            for place in range(EPISODES_A_GROUP):
                reply = tokenizer.encode(REPLY.format(stream.choice(CODES)), add_special_tokens=False)
                model = TokenModel(Instant(reply), Renderer(tokenizer), 60.0)
                setting = Setting(agent=agent, model=model, pool=pool, deadline_s=600.0)
                ticket = Ticket(id=f"{index}/{place}", index=place, seed=place, sampling=Sampling())
                episodes.append(await run_episode(task, ticket, setting, tools=()))
            assert all(len(episode.steps) == STEPS for episode in episodes)
            groups.append(rewarded(task, episodes, stream))
    return tuple(groups)


def rewarded(task: Task, episodes: Sequence[Episode], stream: random.Random) -> Group:
    rewards = tuple(
        Reward(score=0.0, per_step=tuple(stream.random() for _ in episode.steps), parts={}) for episode in episodes
    )
    return Group(task=task, episodes=tuple(episodes), rewards=rewards)


def row_a_step(group: Group) -> Group:
    """The same steps, each with its whole prompt: no two of them share a sequence."""
    episodes = []
    for episode in group.episodes:
        context: tuple[int, ...] = ()
        steps = []
        for step in episode.steps:
            assert step.prompt.keep == len(context), "the episodes only append"
            context += step.prompt.new_ids
            steps.append(structs.replace(step, prompt=Prompt(keep=0, new_ids=context)))
            context += step.completion.token_ids
        episodes.append(structs.replace(episode, steps=tuple(steps)))
    return structs.replace(group, episodes=tuple(episodes))


def first_steps(group: Group) -> Group:
    episodes = tuple(structs.replace(episode, steps=episode.steps[:1]) for episode in group.episodes)
    rewards = tuple(structs.replace(reward, per_step=reward.per_step[:1]) for reward in group.rewards)
    return structs.replace(group, episodes=episodes, rewards=rewards)


def new_trainer(
    packing: str, algo: Mapping[str, Any] = MappingProxyType({}), *, lr: float = 1e-3, model: Path | str = "nano"
) -> Trainer:
    sections = {
        "train": {"packing": packing, "lr": lr},
        "model": {"path": str(model), "device": "cpu"},
        "algo": dict(algo),
    }
    return Trainer.build(make_config(sections))[0]


def distinct_tokens(trainer: Trainer, groups: Sequence[Group]) -> float:
    """What a pass computes on, padding apart."""
    rows = chain.from_iterable(plan(trainer.samples(groups), trainer.layout))
    return float(sum(row.length for row in rows))


def learn(trainer: Trainer, groups: Sequence[Group]) -> None:
    """As `lzero.train.loop` does."""
    samples = trainer.samples(groups)
    scores = trainer.score(samples)
    credited = trainer.credit(groups, samples, scores, update=0)
    trainer.update(trainer.scored(samples, scores, credited), update=0)


def share(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(share_outside(Path(directory), updates=rounds))
    return [
        at_most("share of an update outside sampling, cells and passes", 100 * found.whole, "%", REACH_SHARE),
        Figure("  of its training phase, outside the model's passes", 100 * found.training, "%"),
        Figure("  seconds of such an update", found.seconds, "s"),
        at_most("longest wait of an update for a checkpoint", found.checkpoint_ms, "ms", REACH_CHECKPOINT),
    ]


def against_trl(num_prompts: int, rounds: int) -> list[Figure]:
    """Single-turn episodes: our engine and update, and GRPOTrainer's, in turns."""
    turns: list[tuple[Seconds, Seconds]] = []
    prompts = single_turn(num_prompts)
    directory = tempfile.TemporaryDirectory()
    model = that_ends_a_reply(Path(directory.name))
    trl, ours = Trl(model, prompts, updates=rounds + 2), SingleTurn(model, prompts)
    try:
        for turn in range(rounds + 1):
            theirs, own = trl.update(), asyncio.run(ours.update(turn))
            if turn:  # the first one warms up
                turns.append((theirs, own))
    finally:
        trl.close()
        asyncio.run(ours.close())
        directory.cleanup()
    updates = [theirs.update_s / own.update_s for theirs, own in turns]
    wholes = [(theirs.sampling_s + theirs.update_s) / (own.sampling_s + own.update_s) for theirs, own in turns]
    return [
        at_least("TRL's update phase against ours, single-turn", statistics.median(updates), "×", REACH_UPDATE),
        at_least("  whole update, sampling included", statistics.median(wholes), "×", REACH_WHOLE),
        Figure("  seconds of TRL's sampling", statistics.median(theirs.sampling_s for theirs, _ in turns), "s"),
        Figure("  seconds of ours", statistics.median(own.sampling_s for _, own in turns), "s"),
        Figure("  seconds of TRL's update phase", statistics.median(theirs.update_s for theirs, _ in turns), "s"),
        Figure("  seconds of ours", statistics.median(own.update_s for _, own in turns), "s"),
        Figure("  tokens TRL sampled", statistics.mean(theirs.tokens for theirs, _ in turns), ""),
        Figure("  tokens we sampled", statistics.mean(own.tokens for _, own in turns), ""),
    ]


def single_turn(number: int) -> list[str]:
    """Questions of the world as the nano model is asked them."""
    source, tokenizer = train_tasks(make_config({})), load_tokenizer(resolve("nano"))
    return [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": source.task(place).question + BUDGET}],
                add_generation_prompt=True,
                tokenize=False,
            )
        )
        for place in range(number)
    ]


def that_ends_a_reply(directory: Path) -> Path:
    """The nano model, for whom the agent's stop string is an end of turn: TRL and we end a reply by the same tokens."""
    tokenizer = load_tokenizer(resolve("nano"))
    model = load_model(resolve("nano"), dtype="float32", device="cpu")
    ends = [token for token in range(len(tokenizer)) if str(tokenizer.decode([token])).endswith("</code>")]
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]
    save_model(model, tokenizer, directory / "model")
    return directory / "model"


class SingleTurn:
    """Prompts to completions by the local engine, and an update on them, by the losses that TRL's GRPO has."""

    def __init__(self, model: Path, prompts: Sequence[str]) -> None:
        self._trainer = new_trainer("auto", {"estimator": "grpo", "kl_coef": KL}, lr=LR, model=model)
        tokenizer = self._trainer.tokenizer
        self._prompts = [tuple(tokenizer.encode(prompt, add_special_tokens=False)) for prompt in prompts]
        num_slots = len(prompts) * EPISODES_A_GROUP
        sampler = load_model(model, dtype="float32", device="cpu")
        self._engine = LocalEngine(sampler, tokenizer, max_tokens=512, num_slots=num_slots)
        self._publisher = Publisher(
            self._trainer.model,
            self._engine,
            InProcessTransfer(self._engine),
            max_tokens=512,
            compute=self._engine.compute,
        )

    async def update(self, turn: int) -> Seconds:
        started = time.perf_counter()
        groups = await asyncio.gather(*(self._group(turn, place) for place in range(len(self._prompts))))
        sampled = time.perf_counter()
        await self._engine.compute(partial(learn, self._trainer, groups))
        await self._publisher.publish(version=turn + 1)
        return Seconds(
            sampling_s=sampled - started,
            update_s=time.perf_counter() - sampled,
            tokens=sum(len(one.steps[0].completion.token_ids) for group in groups for one in group.episodes),
        )

    async def _group(self, turn: int, place: int) -> Group:
        episodes = await asyncio.gather(*(self._episode(turn, place, index) for index in range(EPISODES_A_GROUP)))
        rewards = []
        for episode in episodes:
            value = score(episode.steps[0].completion.text)
            rewards.append(Reward(score=value, per_step=(value,), parts={}))
        task = Task(id=str(place), question="", answers=())
        return Group(task=task, episodes=tuple(episodes), rewards=tuple(rewards))

    async def _episode(self, turn: int, place: int, index: int) -> Episode:
        name, ids = f"{turn}/{place}/{index}", self._prompts[place]
        sampling = Sampling(max_tokens=NEW_TOKENS, seed=derive_seed(turn, place, index))
        completion = await self._engine.sample(ids, sampling, request_id=name, affinity=name, deadline_s=600.0)
        await self._engine.forget(name)
        step = Step(
            prompt=Prompt(keep=0, new_ids=ids),
            completion=completion,
            parsed=Parsed(think="", code=None, well_formed=False),
            execution=None,
        )
        return Episode(
            id=name,
            task_id=str(place),
            index=index,
            seed=0,
            sampling=sampling,
            budgets=Budgets(max_steps=1, max_tokens=512, cell_s=1.0),
            steps=(step,),
            status="out_of_steps",
        )

    async def close(self) -> None:
        await self._engine.close()


if __name__ == "__main__":
    main()
