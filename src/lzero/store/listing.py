"""The episodes of a training run: a line for each, and one of them whole, without reading the steps of the others."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from lzero.store.record import Phase, Record
from lzero.store.run_directory import episode_files, read_records, read_table

PHASES: tuple[Phase, ...] = ("eval", "sampled", "train")


class EpisodeLine(Struct, frozen=True, kw_only=True):
    """One episode of a run, without its steps."""

    id: str
    task: str
    phase: Phase
    update: int
    status: str
    score: float | None
    """None for a failed episode."""
    reward: float | None
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
    for file, phase, update in _files(run):
        scores = {row["episode_id"]: row for row in _rows(run, "scores", file, "episode_id", "score", "reward")}
        drops = {row["episode_id"]: row["reason"] for row in _rows(run, "drops", file, "episode_id", "reason")}
        columns = ("episode_id", "task_id", "status", "num_steps", "answer", "failure_kind", "failure_what")
        for row in _rows(run, "episodes", file, *columns):
            scored = scores.get(row["episode_id"], {})
            failure = f"{row['failure_kind']}: {row['failure_what']}" if row["failure_kind"] else ""
            dropped = drops.get(row["episode_id"], "")
            yield EpisodeLine(
                id=row["episode_id"],
                task=row["task_id"],
                phase=phase,
                update=update,
                status=row["status"],
                score=scored.get("score"),
                reward=scored.get("reward"),
                steps=row["num_steps"],
                answer=row["answer"],
                note=failure or (f"not trained on: {dropped}" if dropped else ""),
            )


def find_record(run: Path, episode_id: str) -> tuple[Record, int] | None:
    """Return the record of an episode, and the episode's index in it; None if the run has no such episode. Raises StoreError."""
    for file, phase, update in _files(run):
        if any(row["episode_id"] == episode_id for row in _rows(run, "episodes", file, "episode_id")):
            for record in read_records(run, phase=phase, update=update):
                for index, episode in enumerate(record.episodes):
                    if episode.id == episode_id:
                        return record, index
    return None


def _files(run: Path) -> list[tuple[str, Phase, int]]:
    """Return name, phase and update of each file of episodes, by update."""
    found: list[tuple[str, Phase, int]] = []
    for name in episode_files(run, None):
        phase, _, number = name.removesuffix(".parquet").partition("-")
        found += [(name, known, int(number)) for known in PHASES if known == phase and number.isdecimal()]
    return sorted(found, key=lambda each: (each[2], PHASES.index(each[1])))


def _rows(run: Path, table: str, file: str, *columns: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = read_table(run, table, file, columns=columns).to_pylist()
    return rows
