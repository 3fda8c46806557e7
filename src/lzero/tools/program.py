"""Run a program to its end, and return its output."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lzero.tools.pipes import close_pipes

_END_S = 5.0
"""Seconds to wait for a program after it was killed."""
_ERRORS = "errors.txt"


class Ended(Exception):
    """A program ended with an error; `said` holds all that it printed."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


async def output_of(words: Sequence[str], directory: Path) -> str:
    """Return the standard output of a program. Its errors and temporary files are in `directory`.

    Raises Ended if it fails. The program has ended when this returns or is cancelled.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with (directory / _ERRORS).open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env={**environment, "TMPDIR": str(directory)},
            start_new_session=True,
        )
    try:
        output, _ = await process.communicate()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # pip starts children
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
        close_pipes(process)
    if process.returncode != 0:
        raise Ended(output.decode("utf-8", "replace") + _errors_in(directory))
    return output.decode("utf-8", "replace")


def _errors_in(directory: Path) -> str:
    """Return the error output of the last program that ran in `directory`."""
    return (directory / _ERRORS).read_text(encoding="utf-8", errors="replace")
