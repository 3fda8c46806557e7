"""Replies of a judge, by what it was asked: `verdicts.jsonl` in a run's directory, a line each.

Who scores the run again finds them there and asks nobody, so scores stay what they were.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lzero.errors import StoreError
from lzero.paths import read_bounded
from lzero.store.writing import told

VERDICTS_FILE: Final = "verdicts.jsonl"
MAX_BYTES: Final = 4 << 30
"""Largest file that is read."""


class Verdict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question and its reply: `Verdict(key="9f…", model="judge", asked="Is …?", reply="yes")`."""

    key: str
    """A hash of model, question and sampling."""
    model: str
    asked: str
    reply: str


class Verdicts:
    """What a judge said. Kept in memory until `keep_in` names a directory, and in a file from then on."""

    def __init__(self) -> None:
        self._replies: dict[str, str] = {}
        self._unwritten: list[Verdict] = []
        self._file: Path | None = None

    def keep_in(self, directory: Path) -> None:
        """Read the verdicts that the directory holds, and write further ones there. Raises StoreError. A last line that is cut short was
        being written when its process ended; it is replaced."""
        file = directory / VERDICTS_FILE
        with told(file):
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
        """Return the reply to what has this key."""
        return self._replies.get(key)

    def add(self, verdict: Verdict) -> None:
        """Keep a reply. Raises StoreError where it cannot be written."""
        self._replies[verdict.key] = verdict.reply
        self._unwritten.append(verdict)
        self._write()

    def _write(self) -> None:
        if self._file is None or not self._unwritten:
            return
        with told(self._file), self._file.open("ab") as opened:
            opened.write(b"".join(msgspec.json.encode(each) + b"\n" for each in self._unwritten))
        self._unwritten.clear()
