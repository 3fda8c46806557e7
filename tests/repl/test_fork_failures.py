"""Whatever ends while a REPL is copied, nothing is left of it, and its neighbours go on."""

import asyncio
import contextlib
import random
import time

import psutil
import pytest
from fault_traces import children_of, counts, num_pids, settled
from repl_sessions import no_tools, run, value

from lzero.config import ReplConfig
from lzero.errors import ForkRefused, ReplError
from lzero.repl import LocalPool, LocalRepl

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("own_temporary_directory"),
]


async def test_names_that_are_no_text_or_long_are_no_trouble_to_others(pool: LocalPool) -> None:
    """What a refusal says is a session's to choose."""
    for name in (b"\xff", b"\x01" * 250, "\N{BRAIN}".encode() * 60):
        repl = await pool.open((), no_tools, seed=0)
        deep = f"import os\nfor _ in range(12): os.mkdir({name!r}); os.chdir({name!r})\nfile = open({name!r}, 'w')"
        assert (await run(repl, deep)).status == "ok"
        with pytest.raises(ForkRefused, match="/workspace/"):
            await repl.fork(no_tools, seed=1)
        assert (await run(repl, "file.close()")).status == "ok"
        copy = await repl.fork(no_tools, seed=1)  # where it is has that name too
        assert await value(copy, "os.getcwdb()") == await value(repl, "os.getcwdb()")
        await copy.close()
        await repl.close()


async def test_an_original_that_ends_as_a_copy_is_born_ends_neither_that_nor_its_others() -> None:
    before = counts()
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        original = await pool.open((), no_tools, seed=0)
        elder = await original.fork(no_tools, seed=1)
        zygote = psutil.Process(original.host_pids[0]).parent()
        assert zygote is not None
        maker = next(each for each in children_of(zygote) if num_pids(each) == num_pids(zygote))
        known = {each.pid for each in children_of(zygote)}
        maker.suspend()
        descriptors = zygote.num_fds()
        forking = asyncio.create_task(original.fork(no_tools, seed=2))
        async with asyncio.timeout(20.0):
            while zygote.num_fds() == descriptors or zygote.status() != psutil.STATUS_SLEEPING:
                await asyncio.sleep(0)  # until it has asked the maker
            zygote.suspend()  # it hears of the copy and of the original's end at once
            maker.resume()
            while len([each for each in children_of(zygote) if each.pid not in known and _waits(each)]) < 2:
                await asyncio.sleep(0)
        psutil.Process(original.host_pids[0]).kill()
        zygote.resume()
        copy = await forking
        await original.close()
        await elder.close()
        assert await value(copy, "6 * 7") == "42"
        await copy.close()
    await settled(before)


def _waits(process: psutil.Process) -> bool:
    """Init or session of the copy, both let go: the others that are about have ended, or are stopped."""
    try:
        return process.status() == psutil.STATUS_SLEEPING and num_pids(process) > 3
    except psutil.NoSuchProcess:
        return False


async def test_a_copy_that_is_given_up_before_it_is_asked_for_harms_nobody() -> None:
    before = counts()
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        repl = await pool.open((), no_tools, seed=0)
        zygote = repl._zygote
        async with zygote._sending:  # for a while it takes nothing
            forking = asyncio.create_task(repl.fork(no_tools, seed=1))
            async with asyncio.timeout(20.0):
                while zygote.num_repls < 2:
                    await asyncio.sleep(0)  # until the copy waits to be asked for
            forking.cancel()
            await asyncio.gather(forking, return_exceptions=True)
        async with asyncio.timeout(20.0):
            while zygote.num_repls > 1:
                await asyncio.sleep(0.01)
        assert zygote.alive
        assert await value(repl, "6 * 7") == "42"
    await settled(before)


async def test_without_its_maker_of_copies_a_zygote_goes_on() -> None:
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        repl = await pool.open((), no_tools, seed=0)
        zygote = psutil.Process(repl.host_pids[0]).parent()
        assert zygote is not None
        (maker,) = [each for each in children_of(zygote) if num_pids(each) == num_pids(zygote)]
        maker.kill()
        with pytest.raises(ForkRefused):
            await repl.fork(no_tools, seed=1)
        assert await value(repl, "6 * 7") == "42"


async def test_whoever_is_killed_in_the_middle_nothing_is_left() -> None:
    moments = random.Random(3)
    outcomes = []
    async with LocalPool() as pool:
        bystander = await pool.open((), no_tools, seed=0)
        idle = counts()
        for number in range(24):
            original = await pool.open((), no_tools, seed=0)
            forking = asyncio.create_task(original.fork(no_tools, seed=1))
            end = time.monotonic() + moments.uniform(0.0, 0.06)
            while time.monotonic() < end and not forking.done():
                await asyncio.sleep(0)
            if number % 3 == 0:
                forking.cancel()
            for pid in original.host_pids if number % 3 == 1 else ():
                psutil.Process(pid).kill()
            copy: LocalRepl | None = None
            with contextlib.suppress(ReplError, asyncio.CancelledError):
                copy = await asyncio.wait_for(forking, 30.0)
            outcomes.append(copy is not None)
            if copy is not None:
                assert (await run(copy, "6 * 7")).status in ("ok", "killed")
                await copy.close()
            await original.close()
            await settled(idle)
        assert await value(bystander, "6 * 7") == "42"
    assert len(set(outcomes)) == 2, outcomes
