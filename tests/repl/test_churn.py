"""Churn: REPLs by the thousand, opened, asked and closed, leave memory, descriptors, processes, mounts and namespaces where they
were. `make test` runs a sample, `make test-long` twenty thousand."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_traces import at_rest, settled, traces, zygotes
from repl_sessions import no_tools, value

from lzero.config import ReplConfig
from lzero.repl import LocalPool

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("own_temporary_directory")]
AT_ONCE = 8
WARM_UP = 50
RSS_BYTES = 8 << 20
"""Bytes that the host and its zygotes may hold more afterwards: an allocator's slack. At 20,000 that is 400 bytes a REPL."""
KEYS = 50
"""Number of further kernel keys that the jail's user may have; others on the machine may be that user, too."""
NAMESPACES = 100
"""More of a kind than this are never there at once, or none could be made: the kernel takes them away in batches, a little late."""
NEVER_REPLACED = ReplConfig(zygotes=2, forks_per_zygote=1_000_000)
"""Zygotes that have time to leak."""


async def until_warm(pool: LocalPool) -> list[psutil.Process]:
    """Return all zygotes when they have started and forked."""
    async with asyncio.timeout(60.0):
        while pool.stats()["zygotes"] < NEVER_REPLACED.zygotes:  # a process that is there may still be starting
            await churn(pool, WARM_UP)
    await churn(pool, WARM_UP)
    return zygotes()


async def churn(pool: LocalPool, count: int) -> None:
    todo = iter(range(count))

    async def worker() -> None:
        for number in todo:  # one iterator that all workers share
            repl = await pool.open((), no_tools, seed=number)
            assert await value(repl, f"{number} + 1") == str(number + 1)
            await repl.close()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


def bound_namespaces(zygote: psutil.Process, most: int) -> None:
    """Limit the number of namespaces of each kind that the zygote's children may have."""
    each = f'for kind in user pid mnt ipc uts net; do echo {most} > "/proc/sys/user/max_${{kind}}_namespaces"; done'
    become_root = ("--setuid=0", "--setgid=0") if os.geteuid() == 0 else ("--preserve-credentials",)
    enter = ("nsenter", f"--target={zygote.pid}", "--user", *become_root, "--")
    subprocess.run((*enter, "sh", "-ec", each), check=True, timeout=20)


def keys_of(zygote: psutil.Process) -> int:
    """Return the kernel keys and keyrings of the user that a jail runs as."""
    user = f"{zygote.uids().real}:"
    lines = (line.split() for line in Path("/proc/key-users").read_text(encoding="ascii").splitlines())
    return sum(int(fields[1]) for fields in lines if fields[0] == user)


def own_bytes(process: psutil.Process) -> int:
    """Return resident and swapped memory without files, because pages of programs come and go with the machine's free memory."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(("RssAnon:", "VmSwap:")))


def sizes(warm: list[psutil.Process]) -> Iterator[int]:
    """Yield the bytes of the host, the bytes and descriptors of all its zygotes, and the keys."""
    yield own_bytes(psutil.Process())
    yield sum(map(own_bytes, warm))
    yield sum(len(os.listdir(f"/proc/{zygote.pid}/fd")) for zygote in warm)
    yield keys_of(warm[0])


@pytest.mark.parametrize(
    "sessions",
    [150, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
    ids=["sample", "whole"],
)
async def test_sessions_that_come_and_go_leave_everything_as_it_was(sessions: int) -> None:
    before = traces()
    async with LocalPool(NEVER_REPLACED) as pool:
        warm = await until_warm(pool)
        for zygote in warm:
            bound_namespaces(zygote, NAMESPACES)
        idle = await at_rest()
        first = tuple(sizes(warm))
        started = time.monotonic()
        await churn(pool, sessions)
        elapsed = time.monotonic() - started
        await settled(idle)
        assert zygotes() == warm
        assert pool.stats()["open"] == 0
        host, grown, descriptors, keys = (now - then for now, then in zip(sizes(warm), first, strict=True))
        print(f"{sessions} REPLs in {elapsed:.0f} s, {sessions / elapsed:.0f} a second; {keys:+} keys")
        print(f"host {first[0] >> 20} MB {host / 1024:+.0f} KiB, zygotes {first[1] >> 20} MB {grown / 1024:+.0f} KiB")
        assert host < RSS_BYTES
        assert grown < RSS_BYTES
        assert descriptors == 0
        assert keys < KEYS
    assert traces() == before
