"""Interface of launchers, and of the programs that they start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

PYTHON = "python"
"""As the first word of a command: the interpreter of lzero on the machine where the program runs."""
PORT = "{port}"
"""As a word of a command: a free port of the machine where the program runs."""
HOST = "{host}"
"""As a word of a command: the address of that machine, as other programs of the run reach it."""
Role = Literal["pool", "engine", "rank"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine on which programs run."""

    id: str
    host: str
    """Its address, as other programs of the run reach it."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program to start, and what it needs of its machine."""

    name: str
    """As messages name it: "rank 1"."""
    role: Role
    command: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, added to those of the machine where the program runs."""
    gpus: int = 0
    """Number of GPUs that the program has for itself."""
    directory: Path | None = None
    """Directory in which the program runs and its `log` is written; None: a new one, removed when the launcher closes. If lzero is killed,
    the directory is removed."""


class Running(Protocol):
    """A program that was started. It ends when lzero ends, even if lzero is killed."""

    @property
    def host(self) -> str:
        """Address of the machine where it runs, as other programs of the run reach it."""

    @property
    def port(self) -> int:
        """The port that its command got for PORT; 0 if it asked for none."""

    def end_cause(self) -> str:
        """Return how the program ended, as "ended with code 1" or "was killed by SIGKILL"; "" while it runs. Safe in any thread."""

    async def ended(self) -> str:
        """Wait until the program has ended; return how, as `end_cause` does."""

    async def tail(self) -> str:
        """Return the end of its log, on one line; "" if its machine was lost."""

    async def read(self, name: str) -> bytes:
        """Return the last megabyte of a file in the program's directory; nothing if there is none, or its machine was lost."""

    async def end(self) -> None:
        """End the program and all that it started: by SIGTERM, after some seconds by SIGKILL. Return when they are gone. Safe to call
        twice."""

    async def kill(self) -> None:
        """End the program and all that it started at once; return when they are gone. Safe to call twice."""


class Launcher(Protocol):
    """Starts programs somewhere. `async with` starts and closes it."""

    @property
    def host(self) -> str:
        """Address of this process's machine, as the programs reach it."""

    async def start(self) -> None:
        """Connect to the machines. Raises LaunchError if that is not possible."""

    async def nodes(self, role: Role) -> Sequence[Node]:
        """Return the machines that are there now for programs of this role. Raises LaunchError if that cannot be known."""

    async def check(self, programs: Sequence[Program]) -> None:
        """Raise LaunchError if the machines could not run all of these programs at once, even if nobody else used them. Starts nothing."""

    async def launch(self, program: Program, *, node: str = "") -> Running:
        """Start a program, on the machine with the id `node` if that is given.

        Raises LaunchError if it cannot be run, or no machine has what it needs.
        """

    async def close(self) -> None:
        """End every program that it started. Safe to call twice."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...
