"""Cost of scoring answers: `python benchmarks/scoring.py [--json] [--answers 100000] [--tasks dev.jsonl.gz] [--profile]`.

Each answer is scored by exact match and token F1 against the gold answer and aliases of its task: right ones, wrong ones, right ones in a
sentence. Without --tasks they are made up: names, dates, amounts, in proportions like those of HotpotQA; --tasks takes the gold answers of
a file. Times are of the processor. The yardstick is the same work by the rules of SQuAD's script alone, which know no numbers, signs and
scripts.
"""

import argparse
import cProfile
import json
import pstats
import random
import re
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from figures import Figure, at_most, table

from lzero.config import load_config
from lzero.data.sources import open_source
from lzero.rewards import exact_match, f1

ANSWERS, LIMIT_S = 100_000, 2.0
WARM_UP = 100
"""Answers that are scored before the time counts, so that patterns are compiled."""
TOP = 20
"""Lines of a profile."""

Pair = tuple[str, tuple[str, ...]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--profile", action="store_true")
    wanted = parser.parse_args()
    pairs = answers_of(golds_of(wanted.tasks) if wanted.tasks else made_up(), wanted.answers)
    if wanted.profile:
        profiler = cProfile.Profile()
        profiler.runcall(score_all, pairs, exact_match, f1)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(TOP)
        return 0
    own = timed(pairs, exact_match, f1)
    squad = timed(pairs, squad_exact, squad_f1)
    figures = [
        at_most(f"exact match and F1 of {wanted.answers:,} answers", own, "s", LIMIT_S * wanted.answers / ANSWERS),
        Figure("the same by SQuAD's rules alone", squad, "s"),
        Figure("ratio", own / squad, "x"),
    ]
    print(json.dumps([asdict(figure) for figure in figures]) if wanted.json else table(figures))
    return int(any(figure.reached is False for figure in figures))


def timed(pairs: Sequence[Pair], *scores: Callable[[str, Sequence[str]], float]) -> float:
    score_all(pairs[:WARM_UP], *scores)
    start = time.process_time()
    score_all(pairs, *scores)
    return time.process_time() - start


def score_all(pairs: Sequence[Pair], *scores: Callable[[str, Sequence[str]], float]) -> float:
    return sum(score(answer, golds) for answer, golds in pairs for score in scores)


def answers_of(golds: Sequence[tuple[str, ...]], number: int) -> list[Pair]:
    """Return answers with the gold answers of their tasks: a quarter right, a quarter right in a sentence, half wrong."""
    dice = random.Random(0)
    pairs = []
    for index in range(number):
        own = golds[index % len(golds)]
        wrong = dice.choice(golds)[0]
        pairs.append((dice.choice((own[0], f"It is {own[0]}.", wrong, f"I think that it is {wrong}")), own))
    return pairs


def golds_of(path: Path) -> list[tuple[str, ...]]:
    config = load_config(None, [f"tasks.eval={path}"])
    source = open_source(config.tasks.eval, split="eval", seed=0, config=config.tasks, repl=config.repl)
    return [source.task(index).answers for index in range(len(source))]


def made_up(number: int = 10_000) -> list[tuple[str, ...]]:
    """Return gold answers: seven tenths names, the rest dates, years, amounts and measures; some with an alias."""
    dice = random.Random(1)

    def word() -> str:
        return "".join(dice.choices(string.ascii_lowercase, k=dice.randint(3, 9))).capitalize()

    kinds: tuple[tuple[int, Callable[[], str]], ...] = (
        (50, lambda: f"{word()} {word()}"),
        (15, lambda: f"The {word()} of {word()}"),
        (5, lambda: f"{word()}-{word()} é{word()}"),
        (9, lambda: f"{word()} {dice.randint(1, 28)}, {dice.randint(1700, 2024)}"),
        (9, lambda: str(dice.randint(1, 2024))),
        (6, lambda: f"{dice.randint(1, 999)},{dice.randint(100, 999)}"),
        (3, lambda: f"{dice.randint(1, 99)}.{dice.randint(1, 9)} km"),
        (3, lambda: f"${dice.randint(1, 99)} million"),
    )
    weights, makers = zip(*kinds, strict=True)
    golds = []
    for maker in dice.choices(makers, weights, k=number):
        golds.append(tuple(maker() for _ in range(dice.choice((1, 1, 2)))))
    return golds


def squad_exact(answer: str, golds: Sequence[str]) -> float:
    return max(float(squad_words(answer) == squad_words(gold)) for gold in golds)


def squad_f1(answer: str, golds: Sequence[str]) -> float:
    found = squad_words(answer)
    return max(squad_overlap(found, squad_words(gold)) for gold in golds)


def squad_overlap(found: Sequence[str], gold: Sequence[str]) -> float:
    common = (Counter(found) & Counter(gold)).total()
    return 2 * common / (len(found) + len(gold)) if common else 0.0


def squad_words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", kept).split()


if __name__ == "__main__":
    sys.exit(main())
