"""Writes records as tidy Parquet tables and reads them back exactly, except that files of a task keep their names only, not their paths.

    tasks       a row a task            its place in the file is `group`
    episodes    a row an episode        `group` points into tasks
    steps       a row a step            prompt as a delta (`keep`, `new_ids`), sampled ids, outputs as nbformat JSON
    scores      a row a scored episode  core score, total reward, names of the reward's parts
    rewards     a row a scored step     what the trainer got, and its parts
    drops       a row an episode        why it is not trained on
    advantages  a row a trained step    what the update made of its return
    skipped     a row a sample          of an optimiser step that was not made: all that it would have learned from

All after `steps` are side tables, keyed by `episode_id` (and `step`): scoring again writes new ones and touches no other.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

import msgspec
import pyarrow as pa

from lzero.store.record import DROP_FAILED, DROP_STRAGGLER, Record
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

_TEXT = pa.string()
_TEXTS = pa.list_(_TEXT)
_IDS = pa.list_(pa.int32())
_KEY = [("episode_id", _TEXT), ("step", pa.int32())]

SCHEMAS: Final[dict[str, pa.Schema]] = {
    "tasks": pa.schema(
        [
            ("group", pa.int32()),
            ("task_id", _TEXT),
            ("question", _TEXT),
            ("answers", _TEXTS),
            ("ability", _TEXT),
            ("source", _TEXT),
            ("split", _TEXT),
            ("difficulty", pa.float64()),
            ("hops", pa.int32()),
            ("passages", pa.list_(pa.struct([("title", _TEXT), ("text", _TEXT)]))),
            ("files", _TEXTS),
            ("metadata", pa.map_(_TEXT, _TEXT)),
            ("dropped", _TEXT),
        ]
    ),
    "episodes": pa.schema(
        [
            ("episode_id", _TEXT),
            ("phase", _TEXT),
            ("update", pa.int32()),
            ("group", pa.int32()),
            ("task_id", _TEXT),
            ("index", pa.int32()),
            ("seed", pa.int64()),
            ("status", _TEXT),
            ("answer", _TEXT),
            ("num_steps", pa.int32()),
            ("failure_kind", _TEXT),
            ("failure_what", _TEXT),
            ("failure_where", _TEXT),
            ("branch_episode", _TEXT),
            ("branch_step", pa.int32()),
            ("temperature", pa.float64()),
            ("top_p", pa.float64()),
            ("response_tokens", pa.int32()),
            ("stop", _TEXTS),
            ("sampling_seed", pa.int64()),
            ("max_steps", pa.int32()),
            ("max_tokens", pa.int32()),
            ("cell_s", pa.float64()),
            ("work_s", pa.float64()),
        ]
    ),
    "steps": pa.schema(
        [
            *_KEY,
            ("kind", _TEXT),
            ("keep", pa.int32()),
            ("new_ids", _IDS),
            ("new_messages", _TEXT),
            ("token_ids", _IDS),
            ("logprobs", pa.list_(pa.float64())),
            ("text", _TEXT),
            ("stop_reason", _TEXT),
            ("reasoning", _TEXT),
            ("usage", _TEXT),
            ("versions", pa.list_(pa.struct([("version", pa.int64()), ("num_tokens", pa.int32())]))),
            ("think", _TEXT),
            ("code", _TEXT),
            ("well_formed", pa.bool_()),
            ("problem", _TEXT),
            ("execution_status", _TEXT),
            ("execution_s", pa.float64()),
            ("execution_reason", _TEXT),
            ("outputs", _TEXT),
            ("tool_calls", _TEXT),
            ("notepad", _TEXT),
            ("trimmed", pa.bool_()),
            ("timings", pa.map_(_TEXT, pa.float64())),
        ]
    ),
    "scores": pa.schema([("episode_id", _TEXT), ("score", pa.float64()), ("reward", pa.float64()), ("parts", _TEXTS)]),
    "rewards": pa.schema([*_KEY, ("reward", pa.float64()), ("parts", pa.map_(_TEXT, pa.float64()))]),
    "drops": pa.schema([("episode_id", _TEXT), ("reason", _TEXT)]),
    "advantages": pa.schema([*_KEY, ("advantage", pa.float64())]),
    "skipped": pa.schema(
        [
            ("optimiser_step", pa.int32()),
            ("reason", _TEXT),
            ("episode_id", _TEXT),
            ("temperature", pa.float64()),
            ("token_ids", _IDS),
            ("mask", pa.list_(pa.int8())),
            ("step_index", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float64())),
            ("versions", pa.list_(pa.int64())),
            ("advantages", pa.list_(pa.float64())),
            ("reference_logprobs", pa.list_(pa.float64())),
            ("old_logprobs", pa.list_(pa.float64())),
        ]
    ),
}
"""Every table and its columns."""

RECORD_TABLES: Final = ("tasks", "steps", "scores", "rewards", "drops", "episodes")
"""What one set of records fills, in the order of writing: `episodes` last, so that a file of it means that all are there."""


def to_tables(records: Sequence[Record], *, phase: str, update: int) -> dict[str, pa.Table]:
    """Every table of RECORD_TABLES."""
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
    rows = list(rows)
    schema = SCHEMAS[name]
    return pa.table([pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema)


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


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _task_row(record: Record, group: int) -> Row:
    task = record.task
    return {
        "group": group,
        "task_id": task.id,
        "question": task.question,
        "answers": task.answers,
        "ability": task.ability,
        "source": task.source,
        "split": task.split,
        "difficulty": task.difficulty,
        "hops": task.hops,
        "passages": [{"title": passage.title, "text": passage.text} for passage in task.passages],
        "files": [PurePath(file).name for file in task.files],
        "metadata": list(task.metadata.items()),
        "dropped": record.dropped,
    }


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


def _episode_row(episode: Episode) -> Row:
    failure, sampling, budgets = episode.failure, episode.sampling, episode.budgets
    branch_episode, branch_step = episode.branch_of or (None, None)
    return {
        "episode_id": episode.id,
        "task_id": episode.task_id,
        "index": episode.index,
        "seed": episode.seed,
        "status": episode.status,
        "answer": episode.answer,
        "num_steps": len(episode.steps),
        "failure_kind": failure.kind if failure else None,
        "failure_what": failure.what if failure else None,
        "failure_where": failure.where if failure else None,
        "branch_episode": branch_episode,
        "branch_step": branch_step,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "response_tokens": sampling.max_tokens,
        "stop": sampling.stop,
        "sampling_seed": sampling.seed,
        "max_steps": budgets.max_steps,
        "max_tokens": budgets.max_tokens,
        "cell_s": budgets.cell_s,
        "work_s": budgets.work_s,
    }


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


def _step_row(episode_id: str, index: int, step: Step) -> Row:
    prompt, completion, parsed, execution = step.prompt, step.completion, step.parsed, step.execution
    return {
        "episode_id": episode_id,
        "step": index,
        "kind": step.kind,
        "keep": prompt.keep,
        "new_ids": prompt.new_ids,
        "new_messages": _json(prompt.new_messages),
        "token_ids": completion.token_ids,
        "logprobs": completion.logprobs,
        "text": completion.text,
        "stop_reason": completion.stop_reason,
        "reasoning": completion.reasoning,
        "usage": _json(completion.usage),
        "versions": [{"version": version, "num_tokens": count} for version, count in completion.versions],
        "think": parsed.think,
        "code": parsed.code,
        "well_formed": parsed.well_formed,
        "problem": parsed.problem,
        "execution_status": execution.status if execution else None,
        "execution_s": execution.duration_s if execution else None,
        "execution_reason": execution.reason if execution else None,
        "outputs": _json(execution.outputs) if execution else None,
        "tool_calls": _json(step.tool_calls),
        "notepad": _json(step.notepad),
        "trimmed": step.trimmed,
        "timings": list(step.timings.items()),
    }


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
