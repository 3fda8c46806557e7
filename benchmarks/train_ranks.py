"""Measure the cost of several ranks: `python benchmarks/train_ranks.py [--json] [--rounds 3] [--ranks 2] [--rows 12]`.

Updates of a Qwen3 with random weights on this machine's CPU: by one process, and by ranks that have as many threads together. They take
turns on the same rows, and the ratio is the median over the turns.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from figures import Figure, at_least, table

from lzero.algo.batches import Scored, unscored
from lzero.config import Config, make_config
from lzero.models import Qwen3Sizes, build_tokenizer, new_model, save_model
from lzero.threads import computing_alone
from lzero.train.learner.local import LearnerThread
from lzero.train.ranks.starting import opened_trainer
from lzero.train.trainer import Trainer
from lzero.types import Sample

REACH = 0.9
SIZES = Qwen3Sizes(hidden_size=384, num_layers=8, num_heads=6, num_kv_heads=6, head_dim=64, mlp_size=1024)


def configured(model: Path, ranks: int) -> Config:
    train = {"ranks": ranks, "packing": "padded", "micro_batch_tokens": 2048, "lr": 1e-4}
    return make_config(
        {
            "model": {"path": str(model), "device": "cpu"},
            "train": train,
            "algo": {"kl_coef": 0.0, "loss": "policy_gradient"},
        }
    )


def rows(number: int) -> list[Scored]:
    """Return rows of 128 to 512 tokens, the second half of each of them an action."""
    stream = random.Random(0)
    found = []
    for name in range(number):
        length = stream.randrange(128, 513)
        on = (0,) * (length // 2) + (1,) * (length - length // 2)
        sample = Sample(
            episode_id=str(name),
            token_ids=tuple(stream.randrange(3, 250) for _ in range(length)),
            mask=on,
            step_index=tuple(each - 1 for each in on),
            logprobs=(0.0,) * length,
            versions=(0,) * length,
            temperature=1.0,
        )
        found.append(unscored(sample, advantage=stream.uniform(-1.0, 1.0)))
    return found


async def seconds(thread: LearnerThread, trainer: Trainer, batch: Sequence[Scored]) -> float:
    start = time.monotonic()
    await thread.compute(partial(trainer.update, batch, update=0))
    return time.monotonic() - start


async def measure(num_ranks: int, num_rows: int, rounds: int) -> list[Figure]:
    batch = rows(num_rows)
    tokens = sum(len(row.sample.token_ids) for row in batch)
    turns: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as directory, computing_alone():
        tokenizer, model = build_tokenizer(), Path(directory, "model")
        save_model(new_model(SIZES, tokenizer, seed=0), tokenizer, model)
        alone, thread = Trainer.build(configured(model, 1))[0], LearnerThread()
        await thread.compute(int)  # it takes its number of threads now
        async with opened_trainer(configured(model, num_ranks), checkpoint=None) as (together, _):
            theirs = LearnerThread()
            for turn in range(rounds + 1):
                pair = await seconds(thread, alone, batch), await seconds(theirs, together, batch)
                if turn:  # the first one warms up
                    turns.append(pair)
            theirs.close()
        thread.close()
    one, several = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio = statistics.median(one / several for one, several in turns)
    return [
        Figure("one process", tokens / one, "tokens/s"),
        Figure(f"{num_ranks} ranks with as many threads together", tokens / several, "tokens/s"),
        at_least(f"{num_ranks} ranks against one process", ratio, "×", REACH),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=12)
    options = parser.parse_args()
    found = asyncio.run(measure(options.ranks, options.rows, options.rounds))
    print(json.dumps([asdict(figure) for figure in found]) if options.json else table(found))


if __name__ == "__main__":
    main()
