"""A host at work: `python tests/support/working_host.py [URL]` opens REPLs, runs cells and calls in them and closes them, four at
once, until it is killed. Says "working" when cells have ended. With a URL, the REPLs are those of that server."""

import asyncio
import sys

from pool_servers import TOKEN
from repl_sessions import ASK

from lzero.protocols import ReplPool
from lzero.repl import LocalPool
from lzero.repl.remote.pool import RemotePool
from lzero.types import Json

CELLS = (
    "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)",
    "ask('anything')",
    "import os\nif os.fork() == 0:\n    import time\n    time.sleep(1000)",
    "open('file', 'wb').write(bytes(1 << 20))",
)


async def answer(name: str, arguments: dict[str, Json]) -> Json:
    await asyncio.sleep(0.005)
    return name


async def work(pool: ReplPool, first: int) -> None:
    for number in range(first, 10**9):
        repl = await pool.open([ASK], answer, seed=number)
        for cell in CELLS:
            await repl.run(cell, deadline_s=30.0)
        print("working", flush=True)
        await repl.close()


async def main(*urls: str) -> None:
    async with RemotePool(urls, token=TOKEN) if urls else LocalPool() as pool:
        await asyncio.gather(*(work(pool, number * 10**6) for number in range(4)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
