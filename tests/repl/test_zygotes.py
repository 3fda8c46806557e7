"""A pool has as many zygotes as its REPLs keep busy, and replaces those that have forked often."""

import asyncio
import socket
import time

import psutil
import pytest
from fault_traces import until
from repl_sessions import no_tools, value

from lzero.config import ReplConfig
from lzero.errors import ReplError
from lzero.repl import LocalPool

pytestmark = pytest.mark.sandbox


def num_jails() -> int:
    return len([process for process in psutil.Process().children() if process.name() == "bwrap"])


async def open_and_close(pool: LocalPool, count: int) -> None:
    for repl in await asyncio.gather(*(pool.open((), no_tools, seed=seed) for seed in range(count))):
        await repl.close()


@pytest.mark.parametrize("most", [1, 2])
async def test_a_busy_pool_starts_zygotes_up_to_its_number(most: int) -> None:
    async with LocalPool(ReplConfig(zygotes=most)) as pool:
        assert pool.stats()["zygotes"] == 1
        deadline = time.monotonic() + 60.0
        while pool.stats()["zygotes"] < most:
            await open_and_close(pool, 8)
            assert time.monotonic() < deadline
        await open_and_close(pool, 16)
        assert num_jails() == pool.stats()["zygotes"] == most
    assert num_jails() == 0


async def test_an_idle_pool_has_one_zygote() -> None:
    async with LocalPool(ReplConfig(zygotes=3)) as pool:
        for _ in range(5):
            await open_and_close(pool, 1)
        assert pool.stats()["zygotes"] == 1


async def test_a_zygote_is_replaced_after_its_forks_and_ends_with_its_last_repl() -> None:
    async with LocalPool(ReplConfig(zygotes=1, forks_per_zygote=3)) as pool:
        old = await pool.open((), no_tools, seed=0)
        assert await value(old, "x = 6\nx") == "6"
        await open_and_close(pool, 1)
        await open_and_close(pool, 1)
        await until(lambda: pool.stats()["zygotes"] == 2)
        assert num_jails() == 2
        assert await value(old, "7 * x") == "42"
        new = await pool.open((), no_tools, seed=0)
        await old.close()
        await until(lambda: num_jails() == 1)
        assert await value(new, "6 * 7") == "42"
        await new.close()
    assert num_jails() == 0


async def test_a_descriptor_that_the_kernel_does_not_take_fails_one_opening_alone() -> None:
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        sibling = await pool.open((), no_tools, seed=0)
        assert await value(sibling, "x = 6\nx") == "6"
        closed = socket.socket(socket.AF_UNIX)
        closed.close()
        with pytest.raises(ReplError, match="cannot send the sandbox's zygote a descriptor"):
            await sibling._zygote.fork(closed)
        with pytest.raises(ReplError, match="cannot send the sandbox's zygote a descriptor"):
            await sibling._zygote.copy(sibling._child, closed)
        assert await value(sibling, "7 * x") == "42"
        await open_and_close(pool, 1)
        assert pool.stats()["zygotes"] == 1


async def test_a_pool_that_closes_while_a_zygote_starts_leaves_none() -> None:
    pool = LocalPool(ReplConfig(zygotes=2, forks_per_zygote=2))
    await pool.start()
    await open_and_close(pool, 1)
    await open_and_close(pool, 1)  # its replacement starts now
    await pool.close()
    assert num_jails() == 0
