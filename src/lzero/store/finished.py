"""Files of the groups that are finished before they are trained on (`rollout.max_lag`).

    finished/000041.msgpack   the group at position 41 of the order of training, until a later checkpoint is complete
    order.jsonl               a line for each batch: {"update": 5, "first": 40, "end": 49}, its positions (`end` excluded)

Both are written before they count. So a run that was killed repeats its updates since the last checkpoint with the same groups, in the same
order, and begins only those episodes again that had not finished.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from lzero.errors import StoreError
from lzero.paths import read_bounded
from lzero.store.record import Record
from lzero.store.writing import append_whole, as_store_error, write_whole

_MAX_BYTES = 1 << 30
"""Largest file that is read."""


class FinishedGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group that was sampled and judged: the source's task `index`, and its record."""

    index: int
    record: Record


class _Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of order.jsonl."""

    update: int
    first: int
    end: int


class FinishedGroups:
    """Finished groups of the run in `directory`, by position. All methods raise StoreError."""

    def __init__(self, directory: Path) -> None:
        self._groups = directory / "finished"
        self._order = directory / "order.jsonl"
        with as_store_error(self._groups):
            self._groups.mkdir(exist_ok=True)

    def write(self, position: int, group: FinishedGroup) -> None:
        write_whole(self._file(position), msgspec.msgpack.encode(group))

    def read(self) -> dict[int, FinishedGroup]:
        """Return position → group, in order."""
        return {position: self._read(file) for position, file in self._files()}

    def remove(self, *, before: int) -> None:
        """Remove the groups at positions before `before`."""
        for position, file in self._files():
            if position < before:
                with as_store_error(file):
                    file.unlink(missing_ok=True)

    def append_batch(self, update: int, *, first: int, end: int) -> None:
        """Record that an update trains on the groups at these positions."""
        line = msgspec.json.encode(_Batch(update=update, first=first, end=end))
        append_whole(self._order, line + b"\n")

    def batches(self) -> dict[int, int]:
        """Return update → the position where its batch ends (excluded)."""
        if not self._order.exists():
            return {}
        try:
            lines = read_bounded(self._order, max_bytes=_MAX_BYTES).splitlines()
            batches = [msgspec.json.decode(line, type=_Batch) for line in lines]
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise StoreError(f"{self._order} is damaged or was changed: {error}") from None
        return {batch.update: batch.end for batch in batches}

    def _files(self) -> list[tuple[int, Path]]:
        """Return each group's position and file, in order."""
        files = self._groups.glob("*.msgpack")
        return sorted((int(file.stem), file) for file in files if file.stem.isdecimal())

    def _file(self, position: int) -> Path:
        return self._groups / f"{position:06d}.msgpack"

    def _read(self, file: Path) -> FinishedGroup:
        try:
            return msgspec.msgpack.decode(read_bounded(file, max_bytes=_MAX_BYTES), type=FinishedGroup)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"the finished group {file} is damaged or was changed: {error}. Remove it, and its episodes run again"
            ) from None
