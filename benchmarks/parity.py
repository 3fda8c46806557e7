"""Find where greedy episodes of two engines part: `python benchmarks/parity.py RUN_A RUN_B`, for runs that evaluated the same model.

    lzero eval run.dir=RUN_A
    lzero eval engine.kind=vllm run.dir=RUN_B
    python benchmarks/parity.py RUN_A RUN_B

Engines round differently, so two tokens that are almost equally likely may change places. The script lists the first tokens in which two
episodes differ, with the difference of the two log-probabilities in a full forward pass. Rounding explains at most 1e-3 nats; the script
exits with code 1 if a difference is larger.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lzero.algo.samples import to_samples
from lzero.models import load_model, load_tokenizer, resolve
from lzero.store import RunDirectory
from lzero.store.reading import read_records
from lzero.types import Episode

TIE = 1e-3
"""Largest difference in nats between two tokens that rounding may exchange."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    runs = parser.parse_args().runs
    ours, others = (episodes(run) for run in runs)
    directory = resolve(RunDirectory.open(runs[0]).config.model.path)
    model, tokenizer = load_model(directory, dtype="float32", device="cpu"), load_tokenizer(directory)
    partings = {task: found for task in ours if (found := parting(ours[task], others[task]))}
    gaps = []
    for task, (prefix, own, other) in partings.items():
        gaps.append(gap(model, prefix, own, other))
        words = [tokenizer.decode([token]) for token in (own, other)]
        print(f"{task}: after {len(prefix)} tokens {words[0]!r} and {words[1]!r}, {gaps[-1]:.1e} nats apart")
    worst = max(gaps, default=0.0)
    print(
        f"{len(ours)} greedy episodes: {len(ours) - len(partings)} equal, {len(partings)} part, at most {worst:.1e} nats apart"
    )
    sys.exit(worst > TIE)


def episodes(run: Path) -> dict[str, Episode]:
    """Return task → its greedy episode under the first policy that the run evaluated."""
    return {record.task.id: record.episodes[0] for record in read_records(run, phase="eval", update=0)}


def parting(one: Episode, other: Episode) -> tuple[list[int], int, int] | None:
    """Return the tokens before the first difference, and the two tokens there; None for equal episodes.

    Raises ValueError if the episodes differ in a token that was not sampled.
    """
    ours, theirs = list(tokens(one)), list(tokens(other))
    for place, ((own, sampled), (their, _)) in enumerate(zip(ours, theirs, strict=False)):
        if own != their:
            if not sampled:
                raise ValueError(f"episodes {one.id} and {other.id} have different prompts at token {place}")
            return [token for token, _ in ours[:place]], own, their
    if len(ours) != len(theirs):
        raise ValueError(
            f"episodes {one.id} and {other.id} have {len(ours)} and {len(theirs)} tokens, equal as far as both go"
        )
    return None


def tokens(episode: Episode) -> Iterator[tuple[int, int]]:
    """Yield each token of an episode whose steps extend each other, and whether it was sampled."""
    (sample,) = to_samples(episode)
    yield from zip(sample.token_ids, sample.mask, strict=True)


def gap(model: Any, prefix: list[int], own: int, other: int) -> float:
    """Return the difference of the log-probabilities of two next tokens, in nats."""
    with torch.no_grad():
        logits = model(torch.tensor([prefix])).logits[0, -1]
    return float((logits[own] - logits[other]).abs())


if __name__ == "__main__":
    main()
