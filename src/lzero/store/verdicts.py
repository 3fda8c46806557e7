"""Keep the replies of a judge, by question: a line each of `verdicts.jsonl` in a run's directory.

Scoring the run again finds the replies there without asking the judge, so the scores stay the same.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lzero.errors import StoreError
from lzero.paths import read_bounded
from lzero.store.writing import append_whole, as_store_error

VERDICTS_FILE: Final = "verdicts.jsonl"
MAX_BYTES: Final = 4 << 30
"""Bytes of the largest file that is read."""


class Verdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question and its reply: `Verdict(key="9f…", model="judge", asked="Is …?", reply="yes")`."""

    key: str
    """A hash of model, question and sampling."""
    model: str
    asked: str
    reply: str


class Verdicts:
    """The replies of a judge. They are in memory until `keep_in` names a directory, and from then on also in a file."""

    def __init__(self) -> None:
        self._replies: dict[str, str] = {}
        self._unwritten: list[Verdict] = []
        self._file: Path | None = None

    def keep_in(self, directory: Path) -> None:
        """Read the verdicts in the directory, and write further ones there. Raises StoreError.

        A truncated last line, which a process was writing when it ended, is removed.
        """
        file = directory / VERDICTS_FILE
        with as_store_error(file):
            data = read_bounded(file, max_bytes=MAX_BYTES) if file.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                with file.open("r+b") as opened:
                    opened.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                verdict = msgspec.json.decode(line, type=Verdict)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise StoreError(f"{file}, line {number} is no verdict: {error}; remove the line") from None
            self._replies[verdict.key] = verdict.reply
        self._file = file
        self._write()

    def find(self, key: str) -> str | None:
        """Return the reply for this key; None if there is none."""
        return self._replies.get(key)

    def add(self, verdict: Verdict) -> None:
        """Keep a reply. Raises StoreError if it cannot be written."""
        self._replies[verdict.key] = verdict.reply
        self._unwritten.append(verdict)
        self._write()

    def _write(self) -> None:
        if self._file is not None and self._unwritten:
            append_whole(self._file, b"".join(msgspec.json.encode(each) + b"\n" for each in self._unwritten))
            self._unwritten.clear()
