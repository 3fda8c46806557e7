"""The growth of a pool: what the host and its zygotes hold while REPLs come and go."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from fault_traces import zygotes
from repl_sessions import no_tools, value

from lzero.config import ReplConfig
from lzero.repl import LocalPool

AT_ONCE = 8
WARM_UP = 50
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
