"""What holds on a Ray cluster. Each function runs in a process of its own (`ray_cluster.run_check`): Ray keeps threads and processes."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from ray_cluster import cluster, run_main
from repl_sessions import no_tools, value

from lzero.config import LaunchConfig
from lzero.errors import LaunchError, ServerLost
from lzero.launch import PORT, PYTHON, Program, open_launcher
from lzero.launch.addresses import Watched
from lzero.launch.pools import PoolServers
from lzero.repl.remote.pool import RemotePool

TOKEN = "a-token-for-tests-only"  # noqa: S105
FOREVER = "import os, sys, time; print(os.environ['GREETING'], sys.argv[1], flush=True); time.sleep(600)"


def rank(number: int, code: str = FOREVER) -> Program:
    command = (PYTHON, "-c", code, PORT)
    return Program(name=f"rank {number}", role="rank", command=command, variables={"GREETING": "hello"})


async def check_placement(directory: Path) -> None:
    with cluster() as nodes:
        trainers = nodes.add(lzero_rank=2)
        async with asyncio.timeout(500), open_launcher(LaunchConfig(ray=nodes.address)) as launcher:
            started = time.monotonic()
            for program, said in (
                (
                    Program(name="the pool", role="pool", command=(PYTHON,)),
                    r"the pool needs 1 lzero_pool of one node.*ray start",
                ),
                (
                    Program(name="vLLM 0", role="engine", command=(PYTHON,), gpus=2),
                    r"vLLM 0 needs 2 GPU of one node.*has 0",
                ),
            ):
                with pytest.raises(LaunchError, match=said):
                    await launcher.launch(program)
            assert time.monotonic() - started < 10.0
            short = await launcher.launch(rank(1, "raise SystemExit(3)"))
            assert await short.ended() == "ended with code 3"
            await short.end()
            first, second = [await launcher.launch(rank(number)) for number in (1, 2)]
            with pytest.raises(LaunchError, match=r"rank 3 needs 1 lzero_rank.*this run already takes 2"):
                await launcher.launch(rank(3))
            while not await second.tail():
                await asyncio.sleep(0.1)
            assert await second.tail() == f"hello {second.port}"
            assert first.host == second.host == launcher.host
            await first.kill()
            assert first.end_cause()
            nodes.lose(trainers)
            async with asyncio.timeout(120):
                cause = await second.ended()
            assert "was lost with its node" in cause, cause
            assert second.end_cause() == cause


async def check_pools(directory: Path) -> None:
    with cluster() as nodes:
        first = nodes.add(lzero_pool=1)
        async with (
            asyncio.timeout(500),
            open_launcher(LaunchConfig(ray=nodes.address)) as launcher,
            PoolServers(launcher, token=TOKEN, arguments=("repl.zygotes=1",)) as servers,
        ):
            watched = Watched(servers.addresses, lambda _: None)
            async with RemotePool(watched.pool, token=TOKEN, watch=watched.look) as pool:
                repl = await pool.open((), no_tools, seed=0)
                assert await value(repl, "1 + 1") == "2"
                nodes.add(lzero_pool=1)  # in the main thread: Ray sets handlers of signals
                while pool.stats()["servers"] < 2:
                    await asyncio.sleep(0.1)
                nodes.lose(first)
                with pytest.raises(ServerLost):
                    await repl.run("while True: pass", deadline_s=100.0)
                assert await value(await pool.open((), no_tools, seed=0), "1 + 1") == "2"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    run_main({name.removeprefix("check_"): each for name, each in globals().items() if name.startswith("check_")})
