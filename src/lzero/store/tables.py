"""Convert records to the tables of `lzero.store.schemas`. Only the names of a task's files are kept, not their paths."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec
import pyarrow as pa
from msgspec.structs import asdict

from lzero.store.record import DROP_FAILED, DROP_STRAGGLER, Record
from lzero.store.schemas import RECORD_TABLES, SCHEMAS
from lzero.types import Episode, Reward, Step

Row = dict[str, Any]


def to_tables(records: Sequence[Record], *, phase: str, update: int) -> dict[str, pa.Table]:
    """Return every table of RECORD_TABLES by its name."""
    rows: dict[str, list[Row]] = {name: [] for name in RECORD_TABLES}
    for number, record in enumerate(records):
        rows["tasks"].append(_task_row(record, number))
        for episode, reward in zip(record.episodes, record.rewards, strict=True):
            rows["episodes"].append(_episode_row(episode) | {"phase": phase, "update": update, "group": number})
            rows["steps"].extend(_step_row(episode.id, index, step) for index, step in enumerate(episode.steps))
            if reward is not None:
                rows["scores"].append(_score_row(episode.id, reward))
                rows["rewards"].extend(_reward_rows(episode.id, reward))
            reason = _broken(episode) if reward is None else record.dropped
            if reason:
                rows["drops"].append({"episode_id": episode.id, "reason": reason})
    return {name: to_table(name, rows[name]) for name in RECORD_TABLES}


def _broken(episode: Episode) -> str:
    return DROP_STRAGGLER if episode.failure is not None and episode.failure.kind == "straggler" else DROP_FAILED


def to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return a table of the columns in its schema; a row may hold more."""
    rows = list(rows)
    schema = SCHEMAS[name]
    return pa.table([pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _task_row(record: Record, group: int) -> Row:
    task = record.task
    return asdict(task) | {
        "group": group,
        "task_id": task.id,
        "passages": [asdict(passage) for passage in task.passages],
        "files": [PurePath(file).name for file in task.files],
        "metadata": list(task.metadata.items()),
        "dropped": record.dropped,
    }


def _episode_row(episode: Episode) -> Row:
    failure = asdict(episode.failure) if episode.failure else {}
    return {
        **asdict(episode.sampling),
        **asdict(episode.budgets),
        **asdict(episode),
        **{f"failure_{name}": failure.get(name) for name in ("kind", "what", "where")},
        "episode_id": episode.id,
        "num_steps": len(episode.steps),
        "outcome": None if episode.outcome is None else _json(episode.outcome),
        "response_tokens": episode.sampling.max_tokens,
        "sampling_seed": episode.sampling.seed,
    }


def _step_row(episode_id: str, index: int, step: Step) -> Row:
    completion, execution = step.completion, step.execution
    return {
        **asdict(step.prompt),
        **asdict(completion),
        **asdict(step.parsed),
        **asdict(step),
        "episode_id": episode_id,
        "step": index,
        "new_messages": _json(step.prompt.new_messages),
        "usage": _json(completion.usage),
        "versions": [{"version": version, "num_tokens": count} for version, count in completion.versions],
        "execution_status": execution.status if execution else None,
        "execution_s": execution.duration_s if execution else None,
        "execution_reason": execution.reason if execution else None,
        "outputs": _json(execution.outputs) if execution else None,
        "tool_calls": _json(step.tool_calls),
        "notepad": _json(step.notepad),
        "timings": list(step.timings.items()),
    }


def _score_row(episode_id: str, reward: Reward) -> Row:
    return {
        "episode_id": episode_id,
        "score": reward.score,
        "reward": sum(reward.per_step),
        "parts": list(reward.parts),
    }


def _reward_rows(episode_id: str, reward: Reward) -> Iterable[Row]:
    for step, value in enumerate(reward.per_step):
        parts = [(name, values[step]) for name, values in reward.parts.items()]
        yield {"episode_id": episode_id, "step": step, "reward": value, "parts": parts}
