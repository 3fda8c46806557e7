"""Programs on a Ray cluster, which is made of several nodes on this machine, and what is refused before Ray is asked."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest
from commands import exit_code
from ray_cluster import run_check

from lzero.config import LaunchConfig, load_config
from lzero.errors import ConfigError, LaunchError
from lzero.launch import open_launcher, ray
from lzero.launch.ray import RayLauncher, check_reachable
from lzero.train.preflight.cluster import programs


@pytest.mark.integration
@pytest.mark.timeout(700)
def test_programs_start_where_their_resource_is_and_a_lost_node_is_named(tmp_path: Path) -> None:
    run_check("placement", tmp_path, seconds=600)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(700)
def test_the_end_of_the_head_is_named_within_a_minute(tmp_path: Path) -> None:
    assert "closed" in run_check("head", tmp_path, seconds=600)


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(700)
def test_a_pool_node_that_is_lost_costs_its_repls_only_and_a_new_one_is_used(tmp_path: Path) -> None:
    run_check("pools", tmp_path, seconds=600)


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(1900)
def test_a_run_that_loses_a_pool_node_loses_no_group_and_no_episode(tmp_path: Path) -> None:
    run_check("world", tmp_path, seconds=1800)


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.timeout(3700)
def test_a_run_that_loses_the_node_of_a_rank_and_then_its_own_ends_as_if_it_had_not(tmp_path: Path) -> None:
    run_check("lost_trainer", tmp_path, seconds=3600)


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "http://a:1", ":6379", "a:b"])
def test_what_is_no_address_of_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(LaunchError, match=r'is no address of a Ray cluster: give "host:port"'):
        check_reachable(address)


async def test_an_address_where_nobody_answers_is_refused_before_ray_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(LaunchError, match=f"no Ray cluster answers at 127.0.0.1:{port}: .*refused"):
        await open_launcher(LaunchConfig(ray=f"127.0.0.1:{port}")).start()


@pytest.mark.parametrize("answers", [True, False])
async def test_a_head_is_lost_when_it_does_not_answer_and_not_when_this_process_does_not_ask(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "HEAD_S", 0.05)
    monkeypatch.setattr(ray, "_PAUSE_S", 0.0)
    head = socket.create_server(("127.0.0.1", 0), backlog=1_000)
    launcher = RayLauncher("auto")
    launcher._head = f"127.0.0.1:{head.getsockname()[1]}"
    watching = asyncio.create_task(launcher._watch_head())
    await asyncio.sleep(0)
    threading.Event().wait(0.1)  # the event loop is held up, as by the loading of a model
    if answers:
        done, _ = await asyncio.wait([watching], timeout=0.1)
        assert not done
    head.close()
    await asyncio.wait_for(watching, 60)
    with pytest.raises(LaunchError, match=r"the head of the Ray cluster at .* has not answered for"):
        await launcher.check([])


def test_an_evaluation_asks_for_the_cluster_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert exit_code("eval", f"launch.ray=127.0.0.1:{port}") != 0
    assert f"no Ray cluster answers at 127.0.0.1:{port}" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_needs_no_rank_of_the_cluster() -> None:
    config = load_config(
        None, ["engine.kind=vllm", "engine.replicas=2", "train.ranks=3", "model.device=cpu", "launch.ray=auto"]
    )
    needed = ["pool", "engine", "engine"]
    assert [program.role for program in programs(config, trains=False)] == needed
    assert [program.role for program in programs(config, trains=True)] == [*needed, "rank", "rank"]


async def test_a_missing_ray_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs ray: pip install 'lzero\[ray\]'"):
        await open_launcher(LaunchConfig(ray="auto")).start()
