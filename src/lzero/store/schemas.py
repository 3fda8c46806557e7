"""The columns of the Parquet tables that hold a run's records.

    tasks       one row per task            its position in the file is `group`; the fields of a Task
    episodes    one row per episode         `group` refers to tasks; why it is not trained on (`dropped`); the fields of an Episode
    steps       one row per step            the fields of a Step
    rewards     one row per scored episode  total `reward`; the fields of a Reward
    advantages  one row per trained step    its advantage
    skipped     one row per sample          the samples of optimiser steps that were skipped

The columns follow from the types of `lzero.types`:

    Struct                               struct
    tuple of numbers, of texts           list
    dict with values of one type         map
    tuple of structs, any JSON           text that holds JSON

The tables after `steps` are side tables, keyed by `episode_id` (and `step`). Scoring again rewrites only them.
"""

from collections.abc import Collection
from functools import cache
from typing import Final

import pyarrow as pa
from msgspec import Struct, inspect

from lzero.types import Episode, Reward, Sample, Step, Task

_NUMBERS: Final = pa.list_(pa.float64())


def _without_none(kind: inspect.Type) -> inspect.Type:
    """Return the type of the values other than None."""
    if isinstance(kind, inspect.UnionType) and kind.includes_none:
        kind = inspect.UnionType(tuple(each for each in kind.types if not isinstance(each, inspect.NoneType)))
        return kind.types[0] if len(kind.types) == 1 else kind
    return kind


@cache
def fields_of(kind: type[Struct]) -> dict[str, inspect.Type]:
    """Return field → type; `X` for `X | None`."""
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return {field.name: _without_none(field.type) for field in found.fields}


def _columns(kind: type[Struct], *, without: Collection[str] = ()) -> list[tuple[str, pa.DataType]]:
    return [(name, _arrow(own)) for name, own in fields_of(kind).items() if name not in without]


def _arrow(kind: inspect.Type) -> pa.DataType:
    match kind:
        case inspect.StructType():
            return pa.struct(_columns(kind.cls))
        case inspect.IntType():
            return pa.int64()
        case inspect.FloatType():
            return pa.float64()
        case inspect.BoolType():
            return pa.bool_()
        case inspect.TupleType():
            return pa.list_(_arrow(kind.item_types[0]))
        case inspect.VarTupleType() if not isinstance(kind.item_type, inspect.StructType | inspect.UnionType):
            return pa.list_(_arrow(kind.item_type))
        case inspect.DictType() if not isinstance(kind.value_type, inspect.AnyType):
            return pa.map_(pa.string(), _arrow(kind.value_type))
    return pa.string()


_KEY: Final = [("episode_id", pa.string()), ("step", pa.int64())]
_OWN: Final = [("phase", pa.string()), ("update", pa.int64()), ("num_steps", pa.int64())]
_GROUP: Final = [("group", pa.int64()), ("dropped", pa.string())]

SCHEMAS: Final[dict[str, pa.Schema]] = {
    name: pa.schema(columns)
    for name, columns in {
        "tasks": [("task_id", pa.string()), *_GROUP, *_columns(Task, without=("id",))],
        "episodes": [_KEY[0], *_GROUP, *_OWN, *_columns(Episode, without=("id", "steps"))],
        "steps": [*_KEY, *_columns(Step)],
        "rewards": [_KEY[0], ("reward", pa.float64()), *_columns(Reward)],
        "advantages": [*_KEY, ("advantage", pa.float64())],
        "skipped": [
            *(("optimiser_step", pa.int64()), ("reason", pa.string())),
            *_columns(Sample),
            *(
                (name, _NUMBERS)
                for name in ("advantages", "reference_logprobs", "old_logprobs", "values", "value_targets")
            ),
        ],
    }.items()
}
"""Every table and its columns."""

RECORD_TABLES: Final = ("tasks", "steps", "rewards", "episodes")
"""Tables of one set of records, in the order of writing. `episodes` is last, so its file exists only if all others do."""


def columns(table: str, *names: str) -> pa.Schema:
    """Return the schema of the columns `names` of a table."""
    return pa.schema([SCHEMAS[table].field(name) for name in names])
