"""A scripted policy that knows where to look, but submits only what stood in its own outputs: what a search agent could reach."""

import json
from collections.abc import Sequence
from pathlib import Path

from lzero.data.files import read_passages, read_tasks
from lzero.eval.retrieval import gold_titles
from lzero.tools.corpus import open_corpus
from lzero.tools.search import Search
from lzero.types import Message, Task

SEARCHES = (
    "for title in {titles}: print(search(title))",
    "for title in {titles}: print(search(title + ' ' + {question}))",
    "print(search({question}))",
)
"""What it tries, one cell after the other."""


class Oracle:
    """Plays the given tasks, told apart by their questions. A `ChatPolicy`."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.question: task for task in tasks}

    def __call__(self, messages: Sequence[Message], seed: int) -> str:
        said = [message.content for message in messages if message.role == "user"]
        task = next(task for question, task in self._tasks.items() if said[0].startswith(question))
        outputs = said[1:]
        titles = list(gold_titles(task)) or [passage.title for passage in task.passages]
        found = next((answer for answer in task.answers if _has_shown(answer, outputs, titles)), None)
        if found is not None:
            return _reply(f"submit_final_answer({json.dumps(found)})")
        cell = SEARCHES[min(len(outputs), len(SEARCHES) - 1)]
        return _reply(cell.format(titles=json.dumps(titles), question=json.dumps(task.question)))


def _has_shown(answer: str, outputs: Sequence[str], titles: Sequence[str]) -> bool:
    """Return whether the outputs hold the answer; for "yes" and "no", which stand nowhere, whether they hold all gold passages."""
    if answer.lower() in ("yes", "no"):
        return all(any(f"{title}: " in text for text in outputs) for title in titles) and bool(outputs)
    return any(answer in text for text in outputs)


def answerable(directory: Path, number: int) -> list[Task]:
    """HotpotQA's held-out questions that have gold titles and are answered by a name or a phrase, the first `number` of them."""
    tasks = [
        task
        for task in read_tasks(directory / "dev.jsonl.gz").tasks
        if task.source == "hotpotqa"
        and task.metadata["setting"] == "gold_only"
        and task.answers[0].lower() not in ("yes", "no")
    ]
    return tasks[:number]


def open_search(directory: Path, *, cache: Path | None = None) -> Search:
    """The local corpus, as the agent searches it."""
    index = open_corpus(directory / "corpus.jsonl.gz", read_passages, cache=cache)
    return Search(index, num_results=5, snippet_chars=4_000, in_thread=True)


def _reply(code: str) -> str:
    return f"<think>What is missing is looked up.</think>\n<code>\n{code}\n</code>"
