"""Tasks of reasoning-gym: puzzles without end, and the score of each puzzle's own scorer as a reward.

    tasks.train = "reasoning_gym:chain_sum"    # one generator; tasks.options are its own options
    tasks.train = "reasoning_gym:mix"          # several: tasks.options.weights = {chain_sum = 2, leg_counting = 1}
    reward.function = "reasoning_gym"

A puzzle follows from its generator, the options and a number. A task keeps these in its metadata, and the reward makes the puzzle again.
"""

import ast
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from random import Random
from typing import Annotated, Any

from pydantic import Field

from lzero.apart import score_apart
from lzero.errors import ConfigError, DataError, RewardError
from lzero.plugins import nearest_name, valid_options
from lzero.protocols import TaskSource
from lzero.seeds import derive_seed
from lzero.types import Episode, Task

try:
    from reasoning_gym.factory import DATASETS, create_dataset
except ImportError as error:
    raise ConfigError(f"it needs {error.name}: pip install 'lzero[reasoning-gym]'") from None

logger = logging.getLogger(__name__)

MIX = "mix"
REFUSED = {
    "composite": f'it is made of others: name them with "reasoning_gym:{MIX}"',
    "emoji_mystery": "its puzzles are in invisible characters, which no model is shown",
    "codeio": "the same number gives another puzzle each time, so no answer can be scored later",
}
"""Generators that cannot serve, and why."""
LISTED = ("acre", "gsm_symbolic", "list_functions", "word_ladder")
"""Generators that have SIZE puzzles; the others have one for each of NUMBERS."""
SIZE = 1_000
NUMBERS = 2**31
HELD_OUT = 4
"""One question in so many is kept for other splits than "train"."""
TRIES = 500
"""Puzzles that are looked at for one of a split."""
EVALUATED = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
"""Generators whose scorers call eval(answer)."""
PARSED = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
"""Generators whose scorers pass the answer to sympy's parse_expr, which evaluates it, too."""
ANY_ANSWER = ("game_of_life_halting",)
"""Generators whose scorers pay every answer."""
BY_PREFIX = ("coin_flip",)
"""Generators whose scorers pay in full for the first digits of the gold answer: 0 for 0.3125."""
VALUE_TOLERANCE = Fraction(1, 10_000)
"""Largest difference between an answer and the gold answer of a generator in BY_PREFIX."""
FROM_NUMBERS = ("countdown", "puzzle24")
"""Generators of PARSED whose scorers look for the given numbers in the answer: 0x18 or sin(pi) would be one that they do not find."""
_DIGITS = re.compile("[0-9]+")
ARITHMETIC = re.compile(r"(?:[0-9+\-/()\s]|(?<!\*)\*(?!\*))+", re.ASCII)
LITERAL = (ast.Expression, ast.List, ast.Tuple, ast.Constant, ast.UnaryOp, ast.USub, ast.Load)
FORMULA = (*LITERAL, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.Name)
FUNCTIONS = {
    *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("exp", "log", "ln", "sqrt", "Abs"),
}
ROUNDING = 1e-6
"""How much a score may exceed 1. The scorer of calendar_arithmetic pays more for wrong answers where -1 is right."""

_ONE_AT_A_TIME = threading.Lock()
"""Some generators draw from numpy's global stream."""


class Generator:
    """One generator with its options. Raises ConfigError for an unknown name and for options that it rejects."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        setting = f'"reasoning_gym:{name}"'
        if name in REFUSED:
            raise ConfigError(f"{setting} cannot be used: {REFUSED[name]}")
        if name not in DATASETS:
            raise ConfigError(f"{setting}: {nearest_name(name, sorted({*DATASETS, MIX} - set(REFUSED)))}")
        if own := {"seed", "size"} & set(options):
            raise ConfigError(f"tasks.options.{min(own)}: lzero sets it, from run.seed. Remove it")
        valid = valid_options(DATASETS[name][1], options, setting=setting, key="tasks.options")
        self.name = name
        size = SIZE if name in LISTED else NUMBERS
        try:
            self._dataset = create_dataset(name, size=size, seed=0, **{each: valid[each] for each in options})
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"tasks.options: {setting} rejects them: {error}") from None
        self._entry = lru_cache(maxsize=256)(self._new_entry)

    def entry(self, number: int) -> Mapping[str, Any]:
        """Return the puzzle of a number below NUMBERS: question, answer (None where several are right), metadata."""
        return self._entry(number % SIZE if self.name in LISTED else number)

    def _new_entry(self, number: int) -> Mapping[str, Any]:
        with _ONE_AT_A_TIME:
            found: Mapping[str, Any] = self._dataset[number]
        return found

    def score(self, answer: str, entry: Mapping[str, Any]) -> float:
        """Return what the generator's scorer gives for an answer, 0 to 1; 0 for one on which it fails, or that it must not evaluate.

        The scorer runs in a fork, because an answer like 1e999999999, or a move repeated as often, holds up a process or fills its
        memory. The look whether it may see the answer runs there, too: Python's own parser fails on some texts. Raises OSError if this
        machine cannot make a fork.
        """
        if not answer.strip():
            return 0.0
        if answer == entry["answer"]:
            return 1.0
        found = score_apart(
            lambda: str(self._scored(answer, entry) if self._may_score(answer, entry) else 0.0),
            name=f"the scorer of reasoning_gym:{self.name}",
            answer=answer,
        )
        if found is None:
            return 0.0
        score = float(found)
        return min(1.0, score) if 0.0 <= score <= 1.0 + ROUNDING else 0.0

    def _scored(self, answer: str, entry: Mapping[str, Any]) -> float:
        if self.name in BY_PREFIX:
            with suppress(ValueError, ZeroDivisionError):
                return float(abs(Fraction(answer) - Fraction(entry["answer"])) <= VALUE_TOLERANCE)
            return 0.0
        return float(self._dataset.score_answer(answer=answer, entry=entry))

    def _may_score(self, answer: str, entry: Mapping[str, Any]) -> bool:
        if self.name in ANY_ANSWER:
            return False  # only the gold answer is right
        if "nan" in answer.lower() and "nan" not in str(entry["answer"]).lower():
            return False  # scorers that compare numbers pay 1 for it
        if self.name == "puzzle24" and sorted(_DIGITS.findall(answer)) != sorted(
            map(str, entry["metadata"]["numbers"])
        ):
            return False  # its scorer takes any four numbers
        return is_harmless(answer, generator=self.name)


def is_harmless(answer: str, *, generator: str) -> bool:
    """Return whether the generator's scorer may see an answer of an agent, which it may evaluate as Python on this machine: a literal for
    those of EVALUATED, arithmetic for those of FROM_NUMBERS, a formula of numbers, names and FUNCTIONS for the others of PARSED."""
    if generator in EVALUATED:
        return all(map(_is_literal, (answer.strip(), answer.lstrip(" \t"))))
    if generator in FROM_NUMBERS:
        return ARITHMETIC.fullmatch(answer) is not None
    return generator not in PARSED or (answer.isascii() and _is_formula(answer))


def _is_literal(answer: str) -> bool:
    """Return whether `eval` returns a literal, or fails."""
    try:
        tree = ast.parse(answer, mode="eval")
    except (SyntaxError, ValueError):
        return True  # eval fails in the same way
    except (MemoryError, RecursionError):
        return False  # eval may go deeper
    return all(isinstance(node, LITERAL) for node in ast.walk(tree))


def _is_formula(answer: str) -> bool:
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False  # sympy has more syntax
    return all(map(_belongs_to_formula, ast.walk(tree)))


def _belongs_to_formula(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    return isinstance(node, FORMULA)


@lru_cache(maxsize=256)
def _generator(name: str, options: str) -> Generator:
    return Generator(name, json.loads(options))


class Puzzles:
    """Puzzles of one or several generators, without end. Implements `TaskSource`.

    A question belongs to the split "train" or to the others, by its hash, so that no split of training shares one with a held-out split.
    """

    def __init__(
        self,
        split: str,
        seed: int,
        *,
        weights: Annotated[dict[str, float], Field(min_length=1)],
        settings: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """`weights`: generator → its share of the tasks. `settings`: generator → its options."""
        settings = settings or {}
        if odd := next((name for name in settings if name not in weights), None):
            raise ConfigError(
                f"tasks.options.settings.{odd} has no effect: tasks.options.weights does not name {odd!r}"
            )
        if low := next((name for name, weight in weights.items() if not 0 < weight < math.inf), None):
            raise ConfigError(f"tasks.options.weights.{low} = {weights[low]:g}: give a number above 0")
        self._split, self._seed = split, seed
        self._weights = dict(sorted(weights.items()))
        self._options = {name: json.dumps(settings.get(name, {}), sort_keys=True) for name in weights}
        for name, options in self._options.items():
            _generator(name, options)

    def __len__(self) -> int:
        return sys.maxsize

    def task(self, index: int) -> Task:
        """Raises DataError if the generator makes too few different questions to have one of this split."""
        draw = Random(derive_seed(self._seed, self._split, index))
        (name,) = draw.choices(list(self._weights), list(self._weights.values()))
        options = self._options[name]
        for _ in range(TRIES):
            number = draw.randrange(NUMBERS)
            entry = _generator(name, options).entry(number)
            # Leave out puzzles whose answer is an empty text, which an agent that gives up submits as well.
            is_blank = entry["answer"] is not None and not str(entry["answer"]).strip()
            if is_held_out(entry["question"]) == (self._split != "train") and not is_blank:
                break
        else:
            raise DataError(
                f"reasoning_gym:{name} with the options {options} has no question of the split {self._split!r} among {TRIES}: let it make "
                "more different ones"
            )
        return Task(
            id=f"{name}-{self._split}-{self._seed}-{index}",
            question=entry["question"],
            answers=() if entry["answer"] is None else (str(entry["answer"]),),
            source=f"reasoning_gym:{name}",
            split=self._split,
            metadata={"generator": name, "number": str(number), "options": options},
        )


def is_held_out(question: str) -> bool:
    """Return whether a question belongs to the splits other than "train"."""
    return derive_seed("held out", question) % HELD_OUT == 0


def puzzles(name: str) -> Callable[..., TaskSource]:
    """Return what makes the source "reasoning_gym:<name>" of split, seed and options."""
    if name == MIX:
        return Puzzles

    def of_one_generator(split: str, seed: int, **options: Any) -> TaskSource:
        return Puzzles(split, seed, weights={name: 1.0}, settings={name: options})

    return of_one_generator


def score(task: Task, episode: Episode) -> float:
    """Return the score of the episode's answer by the generator of its task, partial credit included. Raises RewardError for a task of
    another source, or of another release of reasoning-gym."""
    if "generator" not in task.metadata:
        raise RewardError(f"does not know the task {task.id}: it scores tasks of reasoning_gym only")
    generator = _generator(task.metadata["generator"], task.metadata["options"])
    entry = generator.entry(int(task.metadata["number"]))
    if entry["question"] != task.question:
        raise RewardError(
            f"finds another question for the task {task.id}: it was made with another release of reasoning-gym"
        )
    return generator.score(episode.answer or "", entry)
