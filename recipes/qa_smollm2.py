"""Tasks and demonstrations of `qa-smollm2.toml`: prepare rows of questions with passages, and play a scripted oracle that decides badly.

python recipes/qa_smollm2.py nq.jsonl.gz data/qa      writes data/qa/demos.jsonl, train.jsonl and heldout.jsonl

export PYTHONPATH=recipes QA_DEMOS=data/qa/demos.jsonl
lzero eval recipes/qa-smollm2.toml engine.kind=scripted engine.policy=qa_smollm2:weak …

A row holds `id`, `question`, `answer`, `aliases` and `paragraphs`, a list of {"title", "text"}. The parts are chosen by a hash of the
question, so they never overlap, and a longer file keeps the choice.
"""

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from lzero import Episode, RewardContext, Task
from lzero.data.formats import Fields
from lzero.data.rows import read_rows
from lzero.errors import ConfigError, DataError
from lzero.seeds import derive_seed
from lzero.store.writing import as_store_error, write_whole
from lzero.visible import clean

PASSAGE_CHARS: Final = 160
"""Characters of a passage that are kept, its start or those around the answer: a token of context costs as much to train on as a token of
a reply."""
ANSWER_CHARS: Final = 30
PARTS: Final = {"heldout": 4, "demos": 11, "train": 5}
"""Part → its share of the rows, in twentieths."""
WEAK: Final = 0.12
"""Share of the weak demonstrations that search before they answer."""
DEMOS: Final = "QA_DEMOS"
"""Variable of the environment with the file of the oracle's questions and answers."""

_QUESTION: Final = re.compile(r"user\n(.+)\n\[\d+ steps? and ", re.MULTILINE)


def prepare(source: Path, target: Path) -> dict[str, int]:
    """Write the parts of `source` to new files in `target`. Return the number of rows of each, and of the rows that were dropped.

    A row is kept if a short answer is in one of its passages. Raises DataError, for an existing file
    too.
    """
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    dropped = 0
    for _, row in read_rows(source, key="", max_bytes=1 << 30):
        task = _short(row.fields)
        if task is None:
            dropped += 1
        else:
            parts[_part(str(task["question"]))].append(json.dumps(task, ensure_ascii=False))
    if empty := [part for part, lines in parts.items() if not lines]:
        raise DataError(f"{source}: no row for {empty[0]}; {dropped} rows have no short answer in a passage")
    files = {part: target / f"{part}.jsonl" for part in PARTS}
    if there := [file for file in files.values() if file.exists()]:
        raise DataError(f"{there[0]} exists: name another directory")
    with as_store_error(target):
        target.mkdir(parents=True, exist_ok=True)
    for part, file in files.items():
        write_whole(file, "".join(f"{line}\n" for line in parts[part]).encode())
    return {part: len(lines) for part, lines in parts.items()} | {"dropped": dropped}


def weak(transcript: str, seed: int) -> str:
    """Read well and decide badly: mostly give up at once; sometimes look the question up, and answer with the words of the passage."""
    return _act(transcript, looks_up=random.Random(derive_seed(seed, "decision")).random() < WEAK)


def expert(transcript: str, seed: int) -> str:
    """Look the question up, and answer with the words of the passage."""
    del seed
    return _act(transcript, looks_up=True)


def coin(task: Task, episode: Episode, context: RewardContext) -> float:
    """Say nothing, as varied as a true reward: 1 for a quarter of the episodes, and 0.2 for the others. For a control."""
    del task
    return 1.0 if random.Random(derive_seed("coin", context.seed, episode.id)).random() < 0.25 else 0.2


def _act(transcript: str, *, looks_up: bool) -> str:
    asked = _QUESTION.search(transcript)
    if asked is None:
        raise ValueError(f"no question in the transcript {transcript[:200]!r}")
    question = asked[1]
    if "<output>" in transcript:
        return _reply("The passage says it.", f'submit_final_answer("{golds()[question]}")')
    if looks_up:
        return _reply("I should look it up.", f'print(search("{question}"))')
    return _reply("I do not know this.", 'submit_final_answer("unknown")')


def _reply(thought: str, cell: str) -> str:
    return f"<think>{thought}</think>\n<code>\n{cell}\n</code>"


@cache
def golds() -> dict[str, str]:
    """Return question → answer, as its passage spells it."""
    if not os.environ.get(DEMOS):
        raise ConfigError(f"{DEMOS} is not set: name the file of demonstrations, as in {DEMOS}=data/qa/demos.jsonl")
    rows = read_rows(Path(os.environ[DEMOS]), key=DEMOS, max_bytes=1 << 30)
    return {str(row.fields["question"]): str(row.fields["spelled"]) for _, row in rows}


def _short(fields: Fields) -> dict[str, object] | None:
    """Return a task with PASSAGE_CHARS characters of each of the row's passages; None if no short answer is in one of them."""
    passages, aliases = fields.get("paragraphs"), fields.get("aliases") or []
    question = " ".join(clean(str(fields.get("question", ""))).split())
    if not (
        isinstance(passages, list) and isinstance(aliases, list) and all(isinstance(each, dict) for each in passages)
    ):
        return None
    texts = [" ".join(str(passage.get("text", "")).split()) for passage in passages]
    answers = [str(answer) for answer in (fields.get("answer"), *aliases) if answer]
    found = [
        (number, place, len(answer))
        for number, text in enumerate(texts)
        for answer in answers
        for place in _places(text, answer)
    ]
    if not found:
        return None
    holds, place, length = min(found, key=lambda one: (one[0], one[1] + one[2] > PASSAGE_CHARS, one[2], one[1]))
    spelled = texts[holds][place : place + length]
    if any(mark in spelled + question for mark in '"\\'):
        return None
    windows = [_window(text, *((place, length) if number == holds else (0, 0))) for number, text in enumerate(texts)]
    return {
        "id": fields.get("id"),
        "question": question,
        "answers": answers,
        "spelled": spelled,
        "paragraphs": [
            {"title": passage.get("title"), "text": text} for passage, text in zip(passages, windows, strict=True)
        ],
    }


def _window(text: str, place: int, length: int) -> str:
    """Return at most PASSAGE_CHARS characters of whole words: the start of a text if the answer is there, else some around the answer."""
    if len(text) <= PASSAGE_CHARS:
        return text
    start = 0
    if place + length > PASSAGE_CHARS:
        before = derive_seed("window", text) % (PASSAGE_CHARS - length)
        start = min(max(place - before, 0), len(text) - PASSAGE_CHARS)
    end = start + PASSAGE_CHARS
    first = start and max(text.find(" ", start - 1, place) + 1, start)
    last = text.rfind(" ", place + length, end + 1)
    return text[first : last if last >= 0 and end < len(text) else end]


def _places(text: str, answer: str) -> Iterator[int]:
    """Yield where a short answer stands in a text as whole words."""
    if len(answer) <= ANSWER_CHARS:
        yield from (match.start() for match in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE))


def _part(question: str) -> str:
    place = derive_seed("part", question) % sum(PARTS.values())
    for part, share in PARTS.items():
        if place < share:
            return part
        place -= share
    raise AssertionError(place)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python recipes/qa_smollm2.py ROWS DIRECTORY")
    for name, number in prepare(Path(sys.argv[1]), Path(sys.argv[2])).items():
        print(f"{name}: {number:,}")
