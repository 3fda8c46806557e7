"""Convert records to the tables of `lzero.store.schemas`. Only the names of a task's files are kept, not their paths."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec
import pyarrow as pa

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
    rows = list(rows)
    schema = SCHEMAS[name]
    return pa.table([pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema)


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


def _episode_row(episode: Episode) -> Row:
    failure, sampling, budgets = episode.failure, episode.sampling, episode.budgets
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
        "outcome": None if episode.outcome is None else _json(episode.outcome),
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
