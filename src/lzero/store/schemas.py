"""The columns of the Parquet tables that hold a run's records.

    tasks       one row per task            its position in the file is `group`
    episodes    one row per episode         `group` refers to tasks
    steps       one row per step            prompt as a delta (`keep`, `new_ids`), sampled ids, outputs as nbformat JSON
    scores      one row per scored episode  core score, total reward, names of the reward's parts
    rewards     one row per scored step     the reward that the trainer received, and its parts
    drops       one row per episode         the reason why it is not trained on
    advantages  one row per trained step    its advantage
    skipped     one row per sample          the samples of optimiser steps that were skipped

The tables after `steps` are side tables, keyed by `episode_id` (and `step`). Scoring again rewrites only them.
"""

from typing import Final

import pyarrow as pa

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
            ("outcome", _TEXT),
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

MAY_BE_NULL: Final = frozenset(
    (
        *("difficulty", "hops"),
        *("answer", "failure_kind", "failure_what", "failure_where", "outcome", "work_s"),
        *("code", "execution_status", "execution_s", "execution_reason", "outputs"),
    )
)
"""Columns that may hold nulls."""

JSON_COLUMNS: Final = frozenset(("new_messages", "usage", "outputs", "tool_calls", "notepad"))
"""Columns of JSON texts."""

RECORD_TABLES: Final = ("tasks", "steps", "scores", "rewards", "drops", "episodes")
"""Tables of one set of records, in the order of writing. `episodes` is last, so its file exists only if all others do."""


def columns(table: str, *names: str) -> pa.Schema:
    """Return the schema of the columns `names` of a table."""
    return pa.schema([SCHEMAS[table].field(name) for name in names])
