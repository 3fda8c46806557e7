"""The `lzero` command. One module per command; each imports what it needs when it runs, so that `--help` is quick."""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

from lzero.errors import LzeroError
from lzero.extras import extra_of, need

THREADS_S = 5.0
"""Seconds that threads have to end after a command."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, and end the process even if threads of a user's code still run."""
    try:
        _run(arguments)
    except SystemExit as ended:
        if arguments is None:
            _leave_stuck_threads(ended.code)
        raise


def _leave_stuck_threads(code: object) -> None:
    """End the process. Python itself would wait for every non-daemon thread without a deadline, such as workers of a tool's executor."""
    until = time.monotonic() + THREADS_S
    threads = [each for each in threading.enumerate() if each is not threading.current_thread() and not each.daemon]
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if not stuck:
        return
    print(f"lzero: threads that did not end are left behind: {', '.join(stuck[:3])}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _run(arguments: Sequence[str] | None) -> None:
    """Print an LzeroError as one message and exit with 1, Ctrl-C with 130; any other exception is a bug and keeps its traceback."""
    # Two cores serve the model's threads and the sandboxes: a thread of OpenMP that spins while it waits takes one from them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_warnings_off_the_display()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character is no reason to lose a run
            stream.reconfigure(errors="replace")
    try:
        from lzero.cli.app import app  # here, so that Ctrl-C has its say while the commands are loaded

        try:
            app(args=list(arguments) if arguments is not None else None)
        except ModuleNotFoundError as error:
            if extra := extra_of(error.name or ""):
                need(extra, what="this command")
            raise
    except LzeroError as error:
        from lzero.visible import clean

        print(f"lzero: {clean(str(error))}", file=sys.stderr)  # it may quote a server
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _keep_warnings_off_the_display() -> None:
    """Send warnings of libraries to run.log, if there is one: a user cannot fix them. PYTHONWARNINGS and `python -W` take precedence."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").propagate = False
