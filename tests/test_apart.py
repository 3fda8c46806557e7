"""A function that runs in a fork, where this process has many descriptors, and where the fork's parent is killed."""

import os
import resource
import select
import signal
from contextlib import ExitStack, suppress
from typing import NoReturn

import pytest

from lzero.apart import run_apart

DEADLINE_S = 60.0
MEMORY_BYTES = 1 << 30


def test_a_process_with_more_descriptors_than_select_takes_can_run_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this machine allows fewer than 2,048 open files")
    with ExitStack() as opened:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1024):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        outcome = run_apart(lambda: "read", seconds=DEADLINE_S, memory_bytes=MEMORY_BYTES)
    assert outcome.text == "read"


def test_processor_time_is_bounded_whatever_else_runs() -> None:
    def spin() -> str:
        while True:
            pass

    outcome = run_apart(spin, seconds=10 * DEADLINE_S, memory_bytes=MEMORY_BYTES, cpu_s=1)
    assert outcome.raised == ("TimeoutError",)
    assert outcome.reason == "it is not done after 1 s of processor time"


def test_it_ends_with_its_parent() -> None:
    readable, writable = os.pipe()

    def kill_parent() -> NoReturn:
        signal.alarm(2 * round(DEADLINE_S))  # it ends whatever this test finds
        os.write(writable, str(os.getpid()).encode())
        os.kill(os.getppid(), signal.SIGKILL)
        while True:
            pass

    def parent() -> str:
        return run_apart(kill_parent, seconds=1e6, memory_bytes=MEMORY_BYTES).text

    outcome = run_apart(parent, seconds=DEADLINE_S, memory_bytes=MEMORY_BYTES)
    with suppress(ProcessLookupError):
        fork = os.pidfd_open(int(os.read(readable, 100)))
        try:
            assert select.select([fork], [], [], DEADLINE_S)[0]
        finally:
            signal.pidfd_send_signal(fork, signal.SIGKILL)
            os.close(fork)
    assert outcome.raised == ("RuntimeError",)
    os.close(readable)
    os.close(writable)
