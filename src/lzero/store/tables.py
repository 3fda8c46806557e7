"""Convert records to the tables of `lzero.store.schemas`, and back. Only the names of a task's files are kept, not their paths.

Every value that is read is validated, because the tables may come from a stranger.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
from msgspec import Struct, inspect, structs

from lzero.store.record import Record
from lzero.store.schemas import RECORD_TABLES, SCHEMAS, fields_of
from lzero.types import Episode, Reward, Step, Task

_PART_CHARS = 1 << 20
"""Size of the parts in which columns are made."""
Row = dict[str, Any]
S = TypeVar("S", bound=Struct)


def to_tables(records: Sequence[Record], *, phase: str, update: int) -> dict[str, pa.Table]:
    """Return every table of RECORD_TABLES by its name."""
    rows: dict[str, list[Row]] = {name: [] for name in RECORD_TABLES}
    for group, record in enumerate(records):
        task, reasons = record.task, record.drop_reasons
        files = tuple(PurePath(file).name for file in task.files)
        own = {"group": group, "dropped": record.dropped, "task_id": task.id}
        rows["tasks"].append(own | structs.asdict(task) | {"files": files})
        for episode, reward, reason in zip(record.episodes, record.rewards, reasons, strict=True):
            key = {"episode_id": episode.id}
            own = {"phase": phase, "update": update, "num_steps": len(episode.steps), "group": group, "dropped": reason}
            rows["episodes"].append(key | own | structs.asdict(episode))
            rows["steps"] += [key | {"step": index} | structs.asdict(step) for index, step in enumerate(episode.steps)]
            if reward is not None:
                rows["rewards"].append(key | {"reward": sum(reward.per_step)} | structs.asdict(reward))
    return {name: to_table(name, rows[name]) for name in RECORD_TABLES}


def to_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a table of the columns in its schema; a row may hold more."""
    schema = SCHEMAS[name]
    columns = ([_packed(row[field.name], field.type) for row in rows] for field in schema)
    return pa.table([_array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column in parts of about _PART_CHARS characters or numbers: while pyarrow makes one, no other thread runs, and so no
    episode."""
    parts, start, size = [], 0, 0
    for end, value in enumerate(values, 1):
        size += _size(value)
        if size > _PART_CHARS:
            parts.append(pa.array(values[start:end], kind))
            start, size = end, 0
    return pa.chunked_array([*parts, pa.array(values[start:], kind)], kind)


def _size(value: Any) -> int:
    """Return about how many characters or numbers a packed value has."""
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return len(value) if isinstance(value, str | list | tuple) else 1


def _packed(value: Any, kind: pa.DataType) -> Any:
    """Return a value as pyarrow takes it."""
    if isinstance(value, Struct) and pa.types.is_struct(kind):
        return {field.name: _packed(getattr(value, field.name), field.type) for field in kind}
    if isinstance(value, dict) and pa.types.is_map(kind):
        return list(value.items())
    if value is None or isinstance(value, str) or not pa.types.is_string(kind):
        return value
    return msgspec.json.encode(value).decode()


def to_records(tables: Mapping[str, pa.Table]) -> list[Record]:
    """Return the records that `to_tables` converted. Raises ValueError or msgspec.MsgspecError for a value that no record can hold."""
    rewards = {row["episode_id"]: unpacked(row, Reward) for row in to_rows(tables["rewards"], Reward)}
    episodes: dict[int, list[Episode]] = {}
    for group, episode in zip(tables["episodes"]["group"].to_pylist(), to_episodes(tables), strict=True):
        episodes.setdefault(group, []).append(episode)
    return [
        Record(
            task=unpacked(row, Task, id=row["task_id"]),
            episodes=tuple(own := episodes.get(row["group"], [])),
            rewards=tuple(rewards.get(episode.id) for episode in own),
            dropped=msgspec.convert(row["dropped"], str),
        )
        for row in to_rows(tables["tasks"], Task)
    ]


def to_episodes(tables: Mapping[str, pa.Table]) -> list[Episode]:
    """Return the episodes, from the tables `episodes` and `steps`. Raises as `to_records` does."""
    steps: dict[str, list[Step]] = {}
    for row in to_rows(tables["steps"], Step):
        steps.setdefault(row["episode_id"], []).append(unpacked(row, Step))
    return [
        unpacked(row, Episode, id=row["episode_id"], steps=steps.get(row["episode_id"], ()))
        for row in to_rows(tables["episodes"], Episode)
    ]


def unpacked(row: Row, kind: type[S], **given: object) -> S:
    """Return the struct whose fields are columns of a row or `given`. Raises msgspec.ValidationError."""
    fields = {name: row[name] for name in kind.__struct_fields__ if name in row}
    return msgspec.convert(fields | given, kind)


def to_rows(table: pa.Table, kind: type[Struct]) -> Iterator[Row]:
    """Yield rows as dictionaries of plain values; columns that are fields of `kind` are converted as their types say."""
    fields = fields_of(kind)
    for batch in table.to_batches():
        columns = [_values(batch[name], fields.get(name)) for name in table.column_names]
        for row in zip(*columns, strict=True):
            yield dict(zip(table.column_names, row, strict=True))


def _values(values: pa.Array, kind: inspect.Type | None) -> Iterable[Any]:
    """Return the values of a column; several times as fast as `to_pylist` where lists of numbers are long."""
    if isinstance(kind, inspect.StructType):
        fields = fields_of(kind.cls)
        columns = [_values(values.field(name), own) for name, own in fields.items()]
        rows = (dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True))
        return [row if is_here else None for row, is_here in zip(rows, values.is_valid().to_pylist(), strict=True)]
    is_numbers = pa.types.is_list(values.type) and pa.types.is_primitive(values.type.value_type)
    if is_numbers and not (values.null_count or values.values.null_count):
        numbers, offsets = values.values.to_numpy().tolist(), values.offsets.to_numpy().tolist()
        return [numbers[start:end] for start, end in itertools.pairwise(offsets)]
    found: list[Any] = values.to_pylist()
    if pa.types.is_map(values.type):
        return [None if items is None else dict(items) for items in found]
    if pa.types.is_string(values.type) and not isinstance(kind, inspect.StrType | inspect.LiteralType | None):
        return [None if text is None else msgspec.json.decode(text) for text in found]
    return found
