"""Run programs as child processes, and end them with all that they started."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_END_S = 5.0
"""Seconds to wait for a program after it was killed."""


class Ended(Exception):
    """A program ended with an error; the message is all that it printed."""


async def output_of(words: Sequence[str], directory: Path) -> str:
    """Return the standard output of a program. Its temporary files are in `directory`.

    Raises Ended if it fails. The program has ended when this returns or is cancelled.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment["TMPDIR"] = str(directory)
    process = await asyncio.create_subprocess_exec(
        *words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
    )
    try:
        output, errors = await process.communicate()
    finally:
        signal_group(process, signal.SIGKILL)  # pip starts children
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()
        close_pipes(process)
    if process.returncode != 0:
        raise Ended((output + errors).decode("utf-8", "replace"))
    return output.decode("utf-8", "replace")


def signal_group(process: Process, number: signal.Signals) -> None:
    """Send a signal to a child that leads a session of its own, and to all processes of its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def close_pipes(process: Process) -> None:
    """Close the host's ends of a child's pipes, even if a process that the child left holds the other ends. asyncio has no public call for
    it."""
    process._transport.close()  # type: ignore[attr-defined]
