"""Scripted policies for the world: pure functions (transcript, seed) → reply that read only the text.

They differ in their decisions, not in their words. A reply names the fact just found, the rest of the path and the next need, then acts:

    <think>founder Titu; rival to go. I need the rival of Titu.</think>
    <code>
    print(search("Titu"))
    </code>
"""

import random
import re
from dataclasses import dataclass
from typing import Final, Literal

from lzero.data.world.lexicon import NAMES, QUESTION_OPENINGS, RELATIONS, kind_with
from lzero.protocols import Policy

Decision = Literal["follow", "stray", "answer"]
"""Decision about the last fact: look up the next relation of the question, look up another one, or submit the fact."""

_QUESTION: Final = re.compile(
    rf"Starting from ([A-Z][a-z]+)(?:{'|'.join(QUESTION_OPENINGS.values())})([a-z ]+?) lead to\?"
)
_NEED: Final = re.compile(r"I need the ([a-z]+) of ([A-Z][a-z]+)\.")
_ENTRY: Final = re.compile(r"([A-Z][a-z]+): a [a-z]+; ([^\n]+)")
_FACT: Final = re.compile(r"([a-z]+) ([A-Z][a-z]+)")


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The state of a transcript. `Situation(relations=("founder", "rival"), start="Liri", needs=(("founder", "Liri"),), found="Titu")`
    follows the first look-up."""

    relations: tuple[str, ...]
    """The question's relations, in the order to follow them."""
    start: str
    needs: tuple[tuple[str, str], ...]
    """(relation, name) of each look-up the agent has announced."""
    found: str | None
    """The value of the last need; None before the first look-up, or if the last one showed nothing."""

    @property
    def num_found(self) -> int:
        """Number of facts looked up; repeated attempts count once."""
        return len(dict.fromkeys(self.needs)) - (self.found is None and bool(self.needs))


def read(transcript: str) -> Situation:
    """Return the state of a transcript. Raises ValueError if it has no question of this world."""
    question = _QUESTION.search(transcript)
    if question is None:
        raise ValueError(f"no question of the world in the transcript {transcript[:200]!r}")
    needs = tuple((relation, name) for relation, name in _NEED.findall(transcript))
    entries = {name: dict(_FACT.findall(facts)) for name, facts in _ENTRY.findall(transcript)}
    found = entries.get(needs[-1][1], {}).get(needs[-1][0]) if needs else None
    start, path = question.groups()
    return Situation(relations=tuple(path.split()), start=start, needs=needs, found=found)


def _fact(situation: Situation) -> str:
    """Return the last fact and the relations that remain: "founder Titu; rival to go"."""
    relation = situation.needs[-1][0]
    path = situation.relations
    left = path[path.index(relation) + 1 :] if relation in path else ()
    return f"{relation} {situation.found}" + (f"; {' '.join(left)} to go" if left else "")


def look_up(situation: Situation, relation: str) -> str:
    """Return the reply that announces and searches the next need."""
    name = situation.found or situation.start
    said = f"{_fact(situation)}. " if situation.found else ""
    return f'<think>{said}I need the {relation} of {name}.</think>\n<code>\nprint(search("{name}"))\n</code>'


def submit(situation: Situation) -> str:
    """Return the reply that submits the last fact."""
    return f'<think>{_fact(situation)}. That is the answer.</think>\n<code>\nsubmit_final_answer("{situation.found}")\n</code>'


def _act(situation: Situation, decision: Decision, rng: random.Random) -> str:
    """Return the reply for a decision; replace one that makes no sense here by the nearest that does."""
    if situation.needs and situation.found is None:  # the last cell showed nothing: the same again
        relation, name = situation.needs[-1]
        return f'<think>I need the {relation} of {name}.</think>\n<code>\nprint(search("{name}"))\n</code>'
    if decision == "answer" and situation.found:
        return submit(situation)
    if decision == "stray" or situation.num_found >= len(situation.relations):
        return look_up(situation, _stray_relation(situation, rng))
    return look_up(situation, situation.relations[situation.num_found])


def _stray_relation(situation: Situation, rng: random.Random) -> str:
    """Return a random relation of the current thing other than the one to follow."""
    if situation.needs:
        relation = situation.needs[-1][0]
        kind = RELATIONS[kind_with(relation)][relation]
    else:
        kind = kind_with(situation.relations[0])
    due = situation.relations[situation.num_found : situation.num_found + 1]
    return rng.choice([relation for relation in RELATIONS[kind] if relation not in due])


def _can_follow(situation: Situation) -> bool:
    """Return whether the last fact has the kind from which the question's next relation starts."""
    relation = situation.needs[-1][0]
    kind = RELATIONS[kind_with(relation)][relation]
    return situation.found is not None and situation.relations[situation.num_found] in RELATIONS[kind]


def expert(transcript: str, seed: int) -> str:
    """Follow every relation, then answer."""
    situation = read(transcript)
    done = situation.num_found >= len(situation.relations)
    return _act(situation, "answer" if done else "follow", random.Random(seed))


def early(transcript: str, seed: int) -> str:
    """Answer with the first fact: right for one hop, too early for more."""
    return _act(read(transcript), "answer", random.Random(seed))


def wrong_hop(transcript: str, seed: int) -> str:
    """Follow as many relations as the question has, but begin with one that it does not have."""
    situation = read(transcript)
    rng = random.Random(seed)
    if not situation.needs:
        return _act(situation, "stray", rng)
    if situation.num_found >= len(situation.relations):
        return _act(situation, "answer", rng)
    return _act(situation, "follow" if _can_follow(situation) else "stray", rng)


def weak(transcript: str, seed: int) -> str:
    """Read well and decide badly: mostly answer with the first fact; sometimes stray or overshoot."""
    situation = read(transcript)
    rng = random.Random(seed)
    if not situation.needs:
        return _act(situation, "stray" if rng.random() < 0.1 else "follow", rng)
    if situation.num_found >= len(situation.relations):
        return _act(situation, "stray" if rng.random() < 0.15 else "answer", rng)
    habit = rng.random()
    if habit < 0.75:
        return _act(situation, "answer", rng)
    return _act(situation, "follow" if habit < 0.92 and _can_follow(situation) else "stray", rng)


def syntax_error(transcript: str, seed: int) -> str:
    """Act like the expert, but break the syntax of half the cells."""
    reply = expert(transcript, seed)
    return reply.replace('"))\n</code>', ")\n</code>") if random.Random(seed).random() < 0.5 else reply


def never_submits(transcript: str, seed: int) -> str:
    """Look up one fact after another until a budget ends the episode."""
    situation = read(transcript)
    return _act(situation, "follow" if situation.num_found < len(situation.relations) else "stray", random.Random(seed))


def never_searches(transcript: str, seed: int) -> str:
    """Submit a random name at once."""
    situation = read(transcript)
    guess = random.Random(seed).choice([name for name in NAMES if name != situation.start])
    return f'<think>That is the answer.</think>\n<code>\nsubmit_final_answer("{guess}")\n</code>'


def recall(transcript: str, seed: int) -> str:
    """Repeat the facts in alphabetical order and submit the last, for tasks of the split "recall"."""
    del seed
    entry = _ENTRY.search(transcript)
    if entry is None:
        raise ValueError(f"no entry in the transcript {transcript[:200]!r}")
    facts = sorted(_FACT.findall(entry.group(2)))
    thought = "; ".join(f"{relation} {value}" for relation, value in facts)
    return f'<think>{thought}. That is the answer.</think>\n<code>\nsubmit_final_answer("{facts[-1][1]}")\n</code>'


POLICIES: Final[dict[str, Policy]] = {
    policy.__name__: policy
    for policy in (expert, early, wrong_hop, weak, syntax_error, never_submits, never_searches, recall)
}
"""Name in `engine.policy` → policy."""
