"""Sessions with small limits, two in one zygote, and what their tests ask of them. A plug-in of pytest (tests/conftest.py)."""

import ast
import asyncio
import resource
import time
from collections.abc import AsyncIterator, Sequence

import pytest_asyncio
from repl_sessions import no_tools, value

from lzero.repl import LocalPool, LocalRepl
from lzero.repl.jail import Limits
from lzero.types import Execution, Output, Stream

TIGHT = Limits(memory_bytes=512 << 20, disk_bytes=16 << 20, files=500, processes=16, open_files=64)

FLAT_BYTES = 64 << 20
"""Bytes by which the peak of the host's memory may rise, whatever a session does."""


async def is_well(repl: LocalRepl) -> bool:
    """Return whether a session forks, starts threads, fills files and answers."""
    code = """
import subprocess, threading
subprocess.run(["true"], check=True)
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
with open("proof", "wb") as file:
    file.write(bytes(1 << 20))
"well"
"""
    return await value(repl, code) == "'well'"


async def answers_beside(repl: LocalRepl, code: str, sibling: LocalRepl) -> int:
    """Return how often a sibling forks and answers while an endless cell runs to its deadline. Closes that cell's session."""
    attacking = asyncio.create_task(repl.run(code, deadline_s=1.5))
    answered = 0
    while not attacking.done():
        well = await is_well(sibling)
        answered += well and not attacking.done()
    assert (await attacking).status in ("timed_out", "killed")
    await repl.close()
    return answered


async def until_it_fails(repl: LocalRepl, setup: str, step: str, at_most: int) -> tuple[int, str]:
    """Return how often a session can do something, and the error (its errno, or its type) that ends it; "" for none."""
    code = f"""
import os
{setup}
done, met = 0, ""
try:
    while done < {at_most}:
        {step}
        done += 1
except Exception as error:
    met = str(getattr(error, "errno", None) or type(error).__name__)
done, met
"""
    done, met = ast.literal_eval(await value(repl, code))
    return int(done), str(met)


async def killed(pool: LocalPool, code: str, deadline_s: float = 20.0) -> Execution:
    """Return the execution of a cell that must kill its session in time."""
    repl = await pool.open((), no_tools, seed=0)
    started = time.monotonic()
    execution = await repl.run(code, deadline_s=deadline_s)
    assert time.monotonic() - started < deadline_s + 10.0
    assert execution.status == "killed", execution
    await repl.close()
    return execution


def streamed(outputs: Sequence[Output]) -> str:
    return "".join(output.text for output in outputs if isinstance(output, Stream))


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tight_pool() -> AsyncIterator[LocalPool]:
    async with LocalPool(limits=TIGHT) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def tight(tight_pool: LocalPool) -> AsyncIterator[LocalRepl]:
    repl = await tight_pool.open((), no_tools, seed=7)
    yield repl
    await repl.close()


@pytest_asyncio.fixture(loop_scope="module")
async def sibling(tight_pool: LocalPool) -> AsyncIterator[LocalRepl]:
    """Yield another session of the same zygote and the same user."""
    repl = await tight_pool.open((), no_tools, seed=8)
    yield repl
    await repl.close()
