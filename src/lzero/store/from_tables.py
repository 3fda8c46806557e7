"""Convert the tables of `lzero.store.tables` back to records. Validates every value, because the tables may come from a stranger."""

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa

from lzero.store.record import Record
from lzero.types import Episode, Message, Notepad, Output, Reward, Step, Task, ToolCall, Usage

Row = dict[str, Any]


def to_records(tables: dict[str, pa.Table]) -> list[Record]:
    """Return the records that `to_tables` converted. Raises ValueError or msgspec.MsgspecError for a value that no record can hold."""
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
    """Return the episodes, from the tables `episodes` and `steps`. Raises as `to_records` does."""
    steps: dict[str, list[Step]] = {}
    for row in _rows(tables["steps"]):
        steps.setdefault(row["episode_id"], []).append(_read_step(row))
    return [_read_episode(row, tuple(steps.get(row["episode_id"], ()))) for row in _rows(tables["episodes"])]


def _rows(table: pa.Table) -> Iterable[Row]:
    """Yield rows as dictionaries, several times as fast as `Table.to_pylist` if lists of numbers are long."""
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
    columns = ("question", "answers", "ability", "source", "split", "difficulty", "hops", "passages", "files")
    fields = {name: row[name] for name in columns}
    return msgspec.convert({"id": row["task_id"], **fields, "metadata": dict(row["metadata"])}, Task)


def _read_episode(row: Row, steps: tuple[Step, ...]) -> Episode:
    failure = {name: row[f"failure_{name}"] for name in ("kind", "what", "where")}
    sampling = {
        "temperature": row["temperature"],
        "top_p": row["top_p"],
        "max_tokens": row["response_tokens"],
        "stop": row["stop"],
        "seed": row["sampling_seed"],
    }
    fields = {
        "id": row["episode_id"],
        **{name: row[name] for name in ("task_id", "index", "seed", "status", "answer")},
        "sampling": sampling,
        "budgets": {name: row[name] for name in ("max_steps", "max_tokens", "cell_s", "work_s")},
        "steps": steps,
        "failure": None if failure["kind"] is None else failure,
        "outcome": msgspec.json.decode(row["outcome"] or "null"),
    }
    return msgspec.convert(fields, Episode)


def _read_step(row: Row) -> Step:
    execution = None
    if row["execution_status"] is not None:
        execution = {
            "outputs": msgspec.json.decode(row["outputs"] or "null", type=tuple[Output, ...]),
            "status": row["execution_status"],
            "duration_s": row["execution_s"],
            "reason": row["execution_reason"],
        }
    prompt = {
        "keep": row["keep"],
        "new_ids": row["new_ids"],
        "new_messages": msgspec.json.decode(row["new_messages"], type=tuple[Message, ...]),
    }
    completion = {
        **{name: row[name] for name in ("token_ids", "logprobs", "text", "stop_reason", "reasoning")},
        "usage": msgspec.json.decode(row["usage"], type=Usage | None),
        "versions": [(run["version"], run["num_tokens"]) for run in row["versions"]],
    }
    fields = {
        "kind": row["kind"],
        "prompt": prompt,
        "completion": completion,
        "parsed": {name: row[name] for name in ("think", "code", "well_formed", "problem")},
        "execution": execution,
        "tool_calls": msgspec.json.decode(row["tool_calls"], type=tuple[ToolCall, ...]),
        "notepad": msgspec.json.decode(row["notepad"], type=Notepad),
        "trimmed": row["trimmed"],
        "timings": dict(row["timings"]),
    }
    return msgspec.convert(fields, Step)


def _read_rewards(scores: pa.Table, rewards: pa.Table) -> dict[str, Reward]:
    steps: dict[str, list[Row]] = {}
    for row in _rows(rewards):
        steps.setdefault(row["episode_id"], []).append({"reward": row["reward"], "parts": dict(row["parts"])})
    found = {}
    for row in _rows(scores):
        own = steps.get(row["episode_id"], [])
        fields = {
            "score": row["score"],
            "per_step": [step["reward"] for step in own],
            "parts": {name: [step["parts"].get(name) for step in own] for name in row["parts"]},
        }
        found[row["episode_id"]] = msgspec.convert(fields, Reward)
    return found
