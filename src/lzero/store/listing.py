"""List the episodes of a training run, and read one of them without the steps of the others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from lzero.store.reading import episode_files, read_tables_of, validated
from lzero.store.record import Phase, Record
from lzero.store.schemas import RECORD_TABLES, SCHEMAS, columns
from lzero.store.tables import to_records
from lzero.types import Status

MOST_PAID = 1e12
"""Largest magnitude of an episode's stored reward. Sums of more would overflow."""
PHASES: tuple[Phase, ...] = ("eval", "sampled", "train")


class EpisodeLine(Struct, frozen=True, kw_only=True):
    """One episode of a run, without its steps."""

    id: str
    task: str
    phase: Phase
    update: int
    status: Status
    score: Annotated[float, Meta(ge=0.0, le=1.0)] | None
    """None for a failed episode."""
    reward: Annotated[float, Meta(ge=-MOST_PAID, le=MOST_PAID)] | None
    """Sum over its steps."""
    steps: int
    answer: str | None
    note: str
    """Reason why it failed or was not trained on; "" if neither."""

    @property
    def is_wrong(self) -> bool:
        return self.score is not None and self.score < 1.0


def list_episodes(run: Path) -> Iterator[EpisodeLine]:
    """Yield the episodes of a run in the order of its updates. Raises StoreError."""
    files = _files(run)
    schemas = {
        "rewards": columns("rewards", "episode_id", "score", "reward"),
        "episodes": columns(
            "episodes", *("episode_id", "task_id", "status", "num_steps", "answer", "failure", "dropped")
        ),
    }
    read = read_tables_of(run, [file for file, _, _ in files], schemas)
    for (file, phase, update), tables in zip(files, read, strict=True):
        rewards = {row["episode_id"]: row for row in tables["rewards"].to_pylist()}
        for row in tables["episodes"].to_pylist():
            scored, failure = rewards.get(row["episode_id"], {}), row["failure"]
            dropped = f"not trained on: {row['dropped']}" if row["dropped"] else ""
            fields = {
                "id": row["episode_id"],
                "task": row["task_id"],
                "phase": phase,
                "update": update,
                "status": row["status"],
                "score": scored.get("score"),
                "reward": scored.get("reward"),
                "steps": row["num_steps"],
                "answer": row["answer"],
                "note": f"{failure['kind']}: {failure['what']}" if failure else dropped,
            }
            with validated(run, file):
                line = msgspec.convert(fields, EpisodeLine)
            yield line


def list_questions(run: Path, *, phase: Phase, update: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return task id → question and gold answers, for the tasks of one evaluation or update. Raises StoreError."""
    wanted = [file for file, *own in _files(run) if own == [phase, update]]
    found = {}
    for file, tables in zip(
        wanted, read_tables_of(run, wanted, {"tasks": columns("tasks", "task_id", "question", "answers")}), strict=True
    ):
        with validated(run, file):
            for row in tables["tasks"].to_pylist():
                found[msgspec.convert(row["task_id"], str)] = (
                    msgspec.convert(row["question"], str),
                    msgspec.convert(row["answers"], tuple[str, ...]),
                )
    return found


def find_record(run: Path, episode_id: str) -> Record | None:
    """Return the record of an episode, without the other episodes of its task; None if the run has no such episode. Raises StoreError."""
    if not _is_text(episode_id):
        return None
    files = [file for file, _, _ in _files(run)]
    own = "episode_id", episode_id
    read = read_tables_of(run, files, {"episodes": columns("episodes", "episode_id", "group")}, {"episodes": own})
    for file, found in zip(files, read, strict=True):
        if groups := found["episodes"]["group"].to_pylist():
            only = {name: own if name != "tasks" else ("group", groups[0]) for name in RECORD_TABLES}
            (tables,) = read_tables_of(run, [file], {name: SCHEMAS[name] for name in RECORD_TABLES}, only)
            with validated(run, file):
                return next((record for record in to_records(tables) if record.episodes), None)
    return None


def _is_text(argument: str) -> bool:
    """Return whether an argument of a command is UTF-8."""
    return argument.encode("utf-8", "replace").decode() == argument


def _files(run: Path) -> list[tuple[str, Phase, int]]:
    """Return name, phase and update of each file of episodes, by update."""
    found: list[tuple[str, Phase, int]] = []
    for name in episode_files(run, None):
        phase, _, number = name.removesuffix(".parquet").partition("-")
        found += [(name, known, int(number)) for known in PHASES if known == phase and number.isdecimal()]
    return sorted(found, key=lambda each: (each[2], PHASES.index(each[1])))
