"""Generate endless tasks: each has a new fictional encyclopedia and a question of one or more hops about it."""

import random
import sys
from dataclasses import dataclass
from typing import Final

from lzero.data.world.lexicon import NAMES, QUESTION_OPENINGS, RECALL_QUESTION, RELATIONS, Kind
from lzero.errors import ConfigError
from lzero.seeds import derive_seed
from lzero.types import Passage, Task

RECALL: Final = "recall"
"""The split whose tasks show an entry and ask for its facts: no search, one step. A model learns from these to look up a fact."""

_NUM_ENTRIES: Final[dict[Kind, int]] = {"person": 6, "place": 5, "work": 5}
_MAX_HOPS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The encyclopedia's entry about one thing: `Entry(name="Liri", kind="place", facts={"founder": "Titu", …})`."""

    name: str
    kind: Kind
    facts: dict[str, str]
    """Relation → name, in the order of the text."""

    @property
    def passage(self) -> Passage:
        return Passage(title=self.name, text=f"a {self.kind}; {facts_text(self.facts)}")


class WorldSource:
    """Questions about fictional encyclopedias; implements `TaskSource`.

    Task `index` has `hops[index % len(hops)]` hops and depends only on seed, split and index. Splits share no task, because the split's
    name is part of every task's seed. The split "recall" has tasks of another kind (see `RECALL`).
    """

    def __init__(self, seed: int, split: str, hops: tuple[int, ...] = (1, 2, 3)) -> None:
        if not hops or not all(1 <= count <= _MAX_HOPS for count in hops):
            raise ConfigError(f"tasks.hops = {list(hops)}: the world asks questions of 1 to {_MAX_HOPS} hops")
        self.seed = seed
        self.split = split
        self.hops = hops

    def __len__(self) -> int:
        return sys.maxsize

    def task(self, index: int) -> Task:
        """Return the task at `index`, from 0."""
        rng = random.Random(derive_seed("world", self.seed, self.split, index))
        entries = draw_encyclopedia(rng)
        task_id = f"world-{self.split}-{self.seed}-{index}"
        if self.split == RECALL:
            return _recall_task(task_id, next(iter(entries.values())))
        hops = self.hops[index % len(self.hops)]
        relations, names = _draw_chain(entries, hops, rng)
        return Task(
            id=task_id,
            question=ask(relations, names[0]),
            answers=(names[-1],),
            source="world",
            split=self.split,
            hops=hops,
            passages=tuple(entry.passage for entry in entries.values()),
        )


def ask(relations: list[str], start: str) -> str:
    """Return the question that follows `relations` from `start`.

    `ask(["founder", "rival"], "Liri")` is "Starting from Liri, who does the path founder rival lead to?".
    """
    answer_kind = next(kinds[relations[-1]] for kinds in RELATIONS.values() if relations[-1] in kinds)
    return f"Starting from {start}{QUESTION_OPENINGS[answer_kind]}{' '.join(relations)} lead to?"


def facts_text(facts: dict[str, str]) -> str:
    """Return the text of facts, each key right before its value: `founder Titu; rival Kato`."""
    return "; ".join(f"{relation} {value}" for relation, value in facts.items())


def draw_encyclopedia(rng: random.Random) -> dict[str, Entry]:
    """Return entries by name, in random order. Every value in an entry has its own entry."""
    kinds: list[Kind] = [kind for kind, count in _NUM_ENTRIES.items() for _ in range(count)]
    rng.shuffle(kinds)
    kind_of = dict(zip(rng.sample(NAMES, len(kinds)), kinds, strict=True))
    entries = {}
    for name, kind in kind_of.items():
        relations = list(RELATIONS[kind].items())
        rng.shuffle(relations)
        facts = {
            relation: rng.choice([other for other in kind_of if kind_of[other] == value_kind and other != name])
            for relation, value_kind in relations
        }
        entries[name] = Entry(name=name, kind=kind, facts=facts)
    return entries


def _draw_chain(entries: dict[str, Entry], hops: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """Return random relations to follow and the names on the path, the start first. No relation and no name repeats."""
    while True:  # most draws succeed; every encyclopedia has many chains
        names = [rng.choice(list(entries))]
        relations: list[str] = []
        for _ in range(hops):
            relation, value = rng.choice(list(entries[names[-1]].facts.items()))
            relations.append(relation)
            names.append(value)
        if len(set(names)) == len(names) and len(set(relations)) == len(relations):
            return relations, names


def _recall_task(task_id: str, entry: Entry) -> Task:
    """Return a task that shows one entry. The answer is the value of the relation that comes last in the alphabet."""
    return Task(
        id=task_id,
        question=f"{entry.name}: {entry.passage.text}{RECALL_QUESTION}",
        answers=(entry.facts[max(entry.facts)],),
        ability="recall",
        source="world",
        split=RECALL,
        hops=1,
    )
