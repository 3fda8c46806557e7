"""Reads records from the tables that `lzero.store.tables` writes."""

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa

from lzero.store.record import Record
from lzero.types import (
    Budgets,
    Completion,
    Episode,
    Execution,
    Failure,
    Message,
    Notepad,
    Output,
    Parsed,
    Passage,
    Prompt,
    Reward,
    Sampling,
    Step,
    Task,
    ToolCall,
    Usage,
)

Row = dict[str, Any]


def to_records(tables: dict[str, pa.Table]) -> list[Record]:
    """What `to_tables` was given."""
    rewards = _read_rewards(tables["scores"], tables["rewards"])
    episodes: dict[int, list[Episode]] = {}
    for group, episode in zip(tables["episodes"]["group"].to_pylist(), to_episodes(tables), strict=True):
        episodes.setdefault(group, []).append(episode)
    records = []
    for row in _rows(tables["tasks"]):
        attempts = tuple(episodes.get(row["group"], ()))
        records.append(
            Record(
                task=_read_task(row),
                episodes=attempts,
                rewards=tuple(rewards.get(episode.id) for episode in attempts),
                dropped=row["dropped"],
            )
        )
    return records


def to_episodes(tables: dict[str, pa.Table]) -> list[Episode]:
    """The episodes alone: needs the tables `episodes` and `steps`."""
    steps: dict[str, list[Step]] = {}
    for row in _rows(tables["steps"]):
        steps.setdefault(row["episode_id"], []).append(_read_step(row))
    return [_read_episode(row, tuple(steps.get(row["episode_id"], ()))) for row in _rows(tables["episodes"])]


def _rows(table: pa.Table) -> Iterable[Row]:
    """Rows as dictionaries; several times as fast as `Table.to_pylist` where lists of numbers are long."""
    columns = {name: _values(table[name]) for name in table.column_names}
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    is_numbers = pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type)
    if not is_numbers or column.null_count:
        return list(column.to_pylist())
    values: list[Any] = []
    for chunk in column.chunks:
        numbers, offsets = chunk.values.to_numpy().tolist(), chunk.offsets.to_numpy().tolist()
        values.extend(numbers[start:end] for start, end in itertools.pairwise(offsets))
    return values


def _read_task(row: Row) -> Task:
    return Task(
        id=row["task_id"],
        question=row["question"],
        answers=tuple(row["answers"]),
        ability=row["ability"],
        source=row["source"],
        split=row["split"],
        difficulty=row["difficulty"],
        hops=row["hops"],
        passages=tuple(Passage(**passage) for passage in row["passages"]),
        files=tuple(row["files"]),
        metadata=dict(row["metadata"]),
    )


def _read_episode(row: Row, steps: tuple[Step, ...]) -> Episode:
    kind, branch = row["failure_kind"], row["branch_episode"]
    return Episode(
        id=row["episode_id"],
        task_id=row["task_id"],
        index=row["index"],
        seed=row["seed"],
        sampling=Sampling(
            temperature=row["temperature"],
            top_p=row["top_p"],
            max_tokens=row["response_tokens"],
            stop=tuple(row["stop"]),
            seed=row["sampling_seed"],
        ),
        budgets=Budgets(
            max_steps=row["max_steps"], max_tokens=row["max_tokens"], cell_s=row["cell_s"], work_s=row["work_s"]
        ),
        steps=steps,
        status=row["status"],
        answer=row["answer"],
        failure=None if kind is None else Failure(kind=kind, what=row["failure_what"], where=row["failure_where"]),
        branch_of=None if branch is None else (branch, row["branch_step"]),
    )


def _read_step(row: Row) -> Step:
    execution = None
    if row["execution_status"] is not None:
        execution = Execution(
            outputs=msgspec.json.decode(row["outputs"], type=tuple[Output, ...]),
            status=row["execution_status"],
            duration_s=row["execution_s"],
            reason=row["execution_reason"],
        )
    return Step(
        kind=row["kind"],
        prompt=Prompt(
            keep=row["keep"],
            new_ids=tuple(row["new_ids"]),
            new_messages=msgspec.json.decode(row["new_messages"], type=tuple[Message, ...]),
        ),
        completion=Completion(
            token_ids=tuple(row["token_ids"]),
            logprobs=tuple(row["logprobs"]),
            text=row["text"],
            stop_reason=row["stop_reason"],
            reasoning=row["reasoning"],
            usage=msgspec.json.decode(row["usage"], type=Usage | None),
            versions=tuple((run["version"], run["num_tokens"]) for run in row["versions"]),
        ),
        parsed=Parsed(think=row["think"], code=row["code"], well_formed=row["well_formed"], problem=row["problem"]),
        execution=execution,
        tool_calls=msgspec.json.decode(row["tool_calls"], type=tuple[ToolCall, ...]),
        notepad=msgspec.json.decode(row["notepad"], type=Notepad),
        trimmed=row["trimmed"],
        timings=dict(row["timings"]),
    )


def _read_rewards(scores: pa.Table, rewards: pa.Table) -> dict[str, Reward]:
    steps: dict[str, list[Row]] = {}
    for row in _rows(rewards):
        steps.setdefault(row["episode_id"], []).append({"reward": row["reward"], "parts": dict(row["parts"])})
    found = {}
    for row in _rows(scores):
        own = steps.get(row["episode_id"], [])
        found[row["episode_id"]] = Reward(
            score=row["score"],
            per_step=tuple(step["reward"] for step in own),
            parts={name: tuple(step["parts"][name] for step in own) for name in row["parts"]},
        )
    return found
