"""Lists what this machine does not bound for each REPL. `lzero pool probe` prints the list, and the record of a run keeps it.

Without control groups a run also logs a warning, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lzero.repl import users


@dataclass(frozen=True)
class Unbounded:
    """One thing that a REPL can use up, or hold more of than its limits say."""

    part: str
    harm: str
    """The effect on others."""
    mend: str
    """The way to bound it."""


DELEGATE = (
    "start lzero in a control group that it may divide: systemd-run --user --scope -p Delegate=yes COMMAND (without systemd: "
    "docs/sandbox.md, Control groups)"
)
PROGRAMS = Unbounded(
    "the share of the processors of a REPL that starts programs all the time",
    "it gets several times its share, although all REPLs have the same weight",
    "run fewer REPLs on a machine: lzero pool serve --max-repls N",
)
"""Without control groups, this is part of the share of the processors."""
WITHOUT_GROUPS = (
    Unbounded(
        "memory that the kernel keeps for processes and names of files",
        "memory maps, epoll watches, open files of /proc and the names of files that it looked for count as nobody's: a "
        "REPL can hold gigabytes beyond repl.memory_mb",
        DELEGATE,
    ),
    Unbounded(
        "memory between two looks of the watchdog",
        "a REPL can exceed repl.memory_mb until the next look, a quarter of a second later or more on a busy machine; a REPL that "
        "keeps the host from reading can for 5 s",
        DELEGATE,
    ),
    Unbounded(
        "memory of processes that end slowly",
        "a process of the lowest priority on a busy processor can hold up to repl.memory_mb, unseen, for as long as the processor is "
        "busy, and a REPL can have several of them",
        DELEGATE,
    ),
    Unbounded("the share of the processors", "a REPL with many processes has more of them than the others", DELEGATE),
)


def without_groups(why: str) -> str:
    """Return the warning of a run whose REPLs have no control groups; `why` says the reason."""
    parts = "; ".join(each.part for each in WITHOUT_GROUPS)
    return f"{why}. Without control groups, these are not bounded for each REPL: {parts}. To bound them, {DELEGATE}"


def unbounded(*, groups: bool) -> Iterator[Unbounded]:
    """Yield what is unbounded in tier "namespaces", if this process starts the REPLs."""
    if groups:
        yield PROGRAMS
    else:
        yield from WITHOUT_GROUPS
    if not users.available():
        yield Unbounded(
            "pipes, epoll watches, descriptors in flight",
            "the kernel counts them by user, and all REPLs and your own programs are one: a REPL that uses them up leaves the "
            "others pipes of 8 kB (fs.pipe-user-pages-soft), no further epoll watches (fs.epoll.max_user_watches) and no descriptors to "
            "send; lzero cannot open REPLs then",
            "run lzero as root: each REPL then gets a user of its own (docs/sandbox.md, What the kernel counts for all)",
        )
    if Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2":
        yield Unbounded(
            "reserved memory",
            "vm.overcommit_memory is 2: what a REPL's processes reserve and do not use is missing to all others",
            "sysctl vm.overcommit_memory=0",
        )
