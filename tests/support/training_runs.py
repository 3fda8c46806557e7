"""Start `lzero train` in a process of its own, and wait for what it does."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

DEADLINE_S = 1200.0
"""Seconds that a small run, or a step of it, may take beside other work."""
TWO_RANKS = (
    "run.deterministic=true",
    "train.ranks=2",
    "train.updates=2",
    "train.checkpoint_every=1",
    "rollout.tasks_per_update=2",
    "rollout.episodes_per_task=2",
    "rollout.max_refills=1",
    "eval.num_tasks=2",
    "eval.every=1",
    "agent.max_steps=2",
    "repl.zygotes=1",
)
"""A run of two ranks and two small updates, whose result depends on its seed alone."""


@contextmanager
def training(*arguments: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `lzero train` with these arguments, and kill it in the end."""
    command = (sys.executable, "-c", "import sys; from lzero.cli import main; sys.exit(main())", "train", *arguments)
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def to_its_end(*arguments: str, log: Path) -> None:
    """Run `lzero train` to its good end."""
    with training(*arguments, log=log) as process:
        assert process.wait(DEADLINE_S) == 0, log.read_text()[-3000:]


def wait_until(there: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until `there()` holds, while the run goes on."""
    end = time.monotonic() + DEADLINE_S
    while not there():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def processes_of(mark: Mapping[str, str], *words: str) -> list[psutil.Process]:
    """Return the processes with one of these words in their command, which began with the variables of `mark`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if set(words) & set(process.cmdline()) and mark.items() <= process.environ().items():
                found.append(process)
    return found
