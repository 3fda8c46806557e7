"""Checks on a Ray cluster. Each function runs in a process of its own (`ray_cluster.run_check`): Ray keeps threads and processes."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from ray_cluster import cluster, run_main
from ray_runs import lost_of, train_while_a_pool_node_is_lost, updates
from repl_sessions import no_tools, value
from training_runs import TWO_RANKS, processes_of, to_its_end, training, wait_until
from whole_runs import checkpoint_files, tables, untimed_episodes, untimed_metrics

from lzero.config import LaunchConfig
from lzero.errors import LaunchError, ServerLost
from lzero.launch import PORT, PYTHON, Program, open_launcher
from lzero.launch.addresses import Watched
from lzero.launch.pools import PoolServers
from lzero.repl.remote.pool import RemotePool

TOKEN = "a-token-for-tests-only"  # noqa: S105
LOST_S = 120.0
"""Seconds in which a run notices that a node is lost, and its programs end."""
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
            assert time.monotonic() - started < 60.0  # without waiting for a node that may come
            await launcher.check([rank(1), rank(2)])
            with pytest.raises(LaunchError, match=r"rank 3 needs 1 lzero_rank.*has 2 on 2 nodes.*already takes 2"):
                await launcher.check([rank(1), rank(2), rank(3)])
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


async def check_head(directory: Path) -> None:
    with cluster() as nodes:
        nodes.add(lzero_rank=1)
        async with asyncio.timeout(300), open_launcher(LaunchConfig(ray=nodes.address)) as launcher:
            running = await launcher.launch(rank(1))
            nodes.lose_head()
            async with asyncio.timeout(60):
                cause = await running.ended()
            assert "the head of the Ray cluster at " in cause, cause
            assert "has not answered for 30 s" in cause, cause
            with pytest.raises(LaunchError, match="the head of the Ray cluster"):
                await launcher.launch(rank(1))
        print("closed", flush=True)


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


async def check_world(directory: Path) -> None:
    small = ("train.updates=3", "rollout.tasks_per_update=16", "eval.num_tasks=30", "repl.zygotes=1")
    found = train_while_a_pool_node_is_lost(directory / "run", *small, log=directory / "log")
    trained = [line for line in found if line["phase"] == "train"]
    assert [line["update"] for line in trained] == [0, 1, 2]
    lacking, again = lost_of(found)
    assert lacking == 0
    assert again > 0


async def check_lost_trainer(directory: Path) -> None:
    """Lose the node of rank 1, then rank 0 and the head: the run that resumes twice ends as a run without Ray that lost nothing."""
    mark = {"LZERO_CHECK": str(directory)}
    os.environ |= mark  # every process of the cluster inherits it
    alone, run, log = directory / "alone", directory / "run", directory / "log"
    to_its_end(*TWO_RANKS, f"run.dir={alone}", log=log)
    with cluster() as nodes:
        nodes.add(lzero_pool=1)
        trainer = nodes.add(lzero_rank=1)
        with training("--ray", nodes.address, *TWO_RANKS, f"run.dir={run}", log=log) as process:
            wait_until((run / "checkpoints" / "update-000001").exists, process, log)
            nodes.lose(trainer)
            assert process.wait(LOST_S) == 1
        assert "rank 1 was lost with its node" in " ".join(log.read_text().split()), log.read_text()[-3000:]
        await all_ended(mark)

        nodes.add(lzero_rank=1)
        with training("--resume", str(run), "--ray", nodes.address, log=log) as process:
            wait_until(lambda: len(updates(run)) == 2, process, log)
            process.kill()
            nodes.lose_all()
        await all_ended(mark)

    with cluster() as nodes:
        nodes.add(lzero_pool=1)
        nodes.add(lzero_rank=1)
        to_its_end("--resume", str(run), "--ray", nodes.address, log=log)
    assert untimed_metrics(run) == untimed_metrics(alone)
    assert untimed_episodes(run) == untimed_episodes(alone)
    assert tables(run) == tables(alone)
    assert checkpoint_files(run) == checkpoint_files(alone)


async def all_ended(mark: dict[str, str]) -> None:
    """Wait until no program of a run is left: no rank, no pool server."""
    async with asyncio.timeout(LOST_S):
        while processes_of(mark, "lzero.train.ranks", "serve"):
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    run_main({name.removeprefix("check_"): each for name, each in globals().items() if name.startswith("check_")})
