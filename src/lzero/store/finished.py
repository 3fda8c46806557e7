"""Files of the groups that are finished before they are trained on (`rollout.max_lag`).

    finished/000041.json   the group at position 41 of the order of training, until a later checkpoint is complete
    order.jsonl            a line for each batch: {"update": 5, "first": 40, "end": 49}, its positions (`end` excluded)

A group is written before a batch can contain it, and a batch before an update trains on it. So a killed run that is resumed repeats its
updates since the last checkpoint with the same groups in the same order. It runs only the episodes of unfinished groups again.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lzero.errors import StoreError
from lzero.paths import read_bounded
from lzero.store.record import Record, encode_with
from lzero.store.writing import append_whole, as_store_error, write_whole

logger = logging.getLogger(__name__)

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
        self.directory = directory / "finished"
        self._order = directory / "order.jsonl"
        with as_store_error(self.directory):
            self.directory.mkdir(exist_ok=True)
            for partial in self.directory.glob(".*"):
                partial.unlink()  # a run that was killed was writing it

    def write(self, position: int, group: FinishedGroup) -> None:
        data = encode_with(group.record, group)
        write_whole(self._file(position), data)  # JSON, because it has integers of any size

    def read(self, position: int) -> FinishedGroup:
        file = self._file(position)
        try:
            return msgspec.json.decode(read_bounded(file, max_bytes=_MAX_BYTES), type=FinishedGroup)
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"the finished group {file} is damaged or was changed: {error}. Remove it, and its episodes run again"
            ) from None

    def positions(self) -> list[int]:
        """Return the positions of the groups, in order."""
        names = (file.stem for file in self.directory.glob("*.json"))
        return sorted(int(name) for name in names if name.isdecimal())

    def remove(self, positions: range) -> None:
        """Remove the groups at these positions."""
        for position in self.positions():
            if position in positions:
                with as_store_error(self.directory):
                    self._file(position).unlink(missing_ok=True)

    def append_batch(self, update: int, *, first: int, end: int) -> None:
        """Record that an update trains on the groups at these positions."""
        append_whole(self._order, _line(_Batch(update=update, first=first, end=end)))

    def repeatable(self, first: int) -> dict[int, int]:
        """Return update → the position where its batch ends (excluded), for the recorded batches from position `first` on.

        If a group of these batches is missing, log a warning, and remove all groups after it: the order cannot be repeated from there on.
        """
        batches, there = self._batches(), set(self.positions())
        for number, batch in enumerate(batches):
            positions = range(max(batch.first, first), batch.end)
            missing = next((position for position in positions if position not in there), None)
            if missing is not None:
                logger.warning(
                    "%s has no group %d, which update %d trained on: the groups from there on are sampled again",
                    self.directory,
                    missing,
                    batch.update,
                )
                batches = batches[:number]
                self.remove(range(missing, sys.maxsize))
                break
        if self._order.exists():
            write_whole(self._order, b"".join(map(_line, batches)))
        return {batch.update: batch.end for batch in batches if batch.first >= first}

    def _batches(self) -> Sequence[_Batch]:
        """Return the lines of order.jsonl, without a last one that a crash truncated."""
        if not self._order.exists():
            return []
        try:
            lines = read_bounded(self._order, max_bytes=_MAX_BYTES).split(b"\n")[:-1]
            return [msgspec.json.decode(line, type=_Batch) for line in lines]
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise StoreError(f"{self._order} is damaged or was changed: {error}") from None

    def _file(self, position: int) -> Path:
        return self.directory / f"{position:06d}.json"


def _line(batch: _Batch) -> bytes:
    return msgspec.json.encode(batch) + b"\n"
