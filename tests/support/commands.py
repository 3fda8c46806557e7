"""Run `lzero` commands, in this process or in one of their own.

Such a process is forked from one that has imported everything, because importing takes longer than most commands.
Other tests check what a command imports, with a fresh Python (`test_readme.py`, `test_light_install.py`).
"""

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lzero.cli import main

if TYPE_CHECKING:
    import pytest

# As `lzero` does, before transformers is imported.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "torch._inductor",
        "transformers.models.qwen3.modeling_qwen3",
        "matplotlib.backends.backend_agg",
        "openai",
        "lzero.cli.app",
        "lzero.cli.ask",
        "lzero.train.run",
        "frozen",
    ]
)
DEADLINE_S = 100.0


class Ended(NamedTuple):
    code: int | None
    out: str
    err: str


class Command:
    """A running command, in a session of its own as with `start_new_session`."""

    def __init__(
        self, *arguments: str, directory: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        reading, typing = os.pipe()
        output, printing = os.pipe()
        self.stdin = os.fdopen(typing, "w", encoding="utf-8")
        self.stdout = os.fdopen(output, encoding="utf-8")
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        streams = (Connection(reading), Connection(printing), Connection(os.dup(self._errors.fileno())))
        settings = dict(os.environ if environment is None else environment)
        self.process = FORKED.Process(target=_run, args=(arguments, directory or Path.cwd(), settings, streams))
        self.process.start()
        for stream in streams:
            stream.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def end(self) -> Ended:
        """Wait for the command's end, and return the output since the last line that was read."""
        with self.stdout, self._errors:
            out = self.stdout.read()
            self.process.join(DEADLINE_S)
            self.stdin.close()
            self._errors.seek(0)
            return Ended(self.process.exitcode, out, self._errors.read())


def lzero(
    *arguments: str, directory: Path | None = None, typed: str = "", environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a command to its end. `typed`: all of its input, less than a pipe holds."""
    command = Command(*arguments, directory=directory, environment=environment)
    with command.stdin as stdin:
        stdin.write(typed)
    return command.end()


def exit_code(*arguments: str) -> int:
    """Run a command in this process, and return its exit code."""
    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("a command exits")


def succeed(*arguments: str) -> None:
    """Run a command in this process to its good end."""
    assert exit_code(*arguments) == 0


def last_line(capsys: "pytest.CaptureFixture[str]") -> dict[str, Any]:
    """Return the JSON in the last line that was printed."""
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def _run(
    arguments: tuple[str, ...], directory: Path, environment: Mapping[str, str], streams: tuple[Connection, ...]
) -> None:
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate(("r", "w", "w")))  # noqa: SIM115
    sys.argv = ["lzero", *arguments]
    main()
