"""Plain Jupyter kernels: nothing is left of one, nothing of the host's is in one, and what cannot be had is said at once."""

import asyncio
import errno
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from fault_traces import alive, output_of_host, until
from repl_sessions import Spec, no_tools

from lzero.config import ReplConfig
from lzero.errors import ConfigError, ReplDied, ReplError, SandboxError
from lzero.protocols import Repl
from lzero.repl import LocalPool
from lzero.repl.jupyter.pool import JupyterPool
from lzero.repl.jupyter.session import JupyterRepl
from lzero.types import Execution, Json, Result

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


SEARCH = Spec("search", ("query",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jupyter() -> AsyncIterator[JupyterPool]:
    async with JupyterPool(ReplConfig(tier="unsandboxed", memory_mb=256)) as pool:
        yield pool


async def run(repl: Repl, code: str) -> Execution:
    return await repl.run(code, deadline_s=30.0)


async def value(repl: Repl, code: str) -> str:
    execution = await run(repl, code)
    assert execution.status == "ok", execution
    (result,) = [output for output in execution.outputs if isinstance(output, Result)]
    return result.data["text/plain"]


def directories() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("lzero-jupyter-")}


def install(directory: Path, name: str, argv: list[str], language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a kernelspec that only this test can see."""
    place = directory / "kernels" / name
    place.mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": language}
    (place / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(directory))


IPYKERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


@pytest.mark.usefixtures("own_temporary_directory")
async def test_nothing_is_left_of_a_closed_kernel() -> None:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    processes = set(psutil.Process().children(recursive=True))
    async with JupyterPool() as pool:
        repl = await pool.open((), no_tools, seed=0)
        code = """
import os, subprocess
subprocess.Popen(['sleep', '1000'])
subprocess.Popen(['sleep', '1000'], start_new_session=True)
for _ in range(2000):
    os.mkdir('deep'); os.chdir('deep')
"""
        assert (await run(repl, code)).status == "ok"
        started = set(psutil.Process().children(recursive=True)) - processes
        assert len(started) >= 3
        await repl.close()
        assert repl.host_pids == ()
        assert not directories()
        await until(lambda: not any(process.is_running() for process in started))
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def fails(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.usefixtures("own_temporary_directory")
async def test_a_host_that_cannot_wait_for_a_kernel_says_so_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = set(psutil.Process().children(recursive=True))
    async with JupyterPool() as pool:
        repl = await pool.open((), no_tools, seed=0)
        own = set(psutil.Process().children(recursive=True))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", fails(errno.ENOSYS))
            with pytest.raises(SandboxError, match=os.strerror(errno.ENOSYS)):
                await pool.open((), no_tools, seed=0)
        assert set(psutil.Process().children(recursive=True)) <= own
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.get_running_loop(), "add_reader", fails(errno.ENOSPC))
            with pytest.raises(ReplError, match=r"fs\.epoll\.max_user_watches"):
                await run(repl, "1")
    assert set(psutil.Process().children(recursive=True)) <= processes


@pytest.mark.usefixtures("own_temporary_directory")
async def test_kernels_die_with_the_host_and_the_next_pool_tidies_up() -> None:
    code = """
import asyncio, os, signal
from lzero.repl.jupyter.pool import JupyterPool
async def main():
    pool = JupyterPool()
    await pool.start()
    repl = await pool.open((), None, seed=0)
    print(*repl.host_pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    kernel = int(await output_of_host(code))
    await until(lambda: not alive(kernel))
    assert directories()
    async with JupyterPool():  # the next one tidies up
        assert not directories()


async def test_variables_of_the_host_and_its_notebooks_are_not_there(
    jupyter: JupyterPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sentinel-of-the-host")
    repl = await jupyter.open((), no_tools, seed=0)
    assert await value(repl, "import os\n'sentinel-of-the-host' in str(os.environ)") == "False"
    private = str(repl._kernel.directory.parent)
    assert await value(repl, f"get_ipython().ipython_dir.startswith({private!r})") == "True"
    assert await value(repl, f"import tempfile\ntempfile.gettempdir().startswith({private!r})") == "True"
    await repl.close()


async def test_a_kernel_that_holds_too_much_is_killed(jupyter: JupyterPool) -> None:
    repl = await jupyter.open((), no_tools, seed=0)
    execution = await run(repl, "import time\nheld = bytearray(400 << 20)\ntime.sleep(30)")
    assert execution.status == "killed"
    assert "memory" in execution.reason
    await repl.close()


async def test_a_forged_call_ends_its_own_session_only(jupyter: JupyterPool) -> None:
    calls: list[Json] = []

    async def count(name: str, arguments: dict[str, Json]) -> Json:
        calls.append(arguments["query"])
        return None

    repl: JupyterRepl = await jupyter.open([SEARCH], count, seed=0)
    assert (await run(repl, "search('once')")).status == "ok"
    nonce = repl._nonce
    replayed = f'{nonce}{{"type":"call","id":1,"name":"search","arguments":{{"query":"again"}}}}'
    assert (
        await run(repl, f"print(repr(input({replayed[len('lzero ') :]!r})))")
    ).status == "error"  # no nonce: no call
    execution = await run(repl, f"input({replayed!r})")
    assert execution.status == "killed"
    assert "protocol" in execution.reason
    assert calls == ["once"]
    await repl.close()


async def test_another_language_runs_cells_and_refuses_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "elvish", IPYKERNEL, "Elvish", monkeypatch)
    async with JupyterPool(ReplConfig(tier="unsandboxed", kernelspec="elvish")) as pool:
        with pytest.raises(ConfigError, match=r"'elvish' runs elvish, but tools work in Python kernels only"):
            await pool.open([SEARCH], no_tools, seed=0)
        repl = await pool.open((), no_tools, seed=0)
        assert await value(repl, "6 * 7") == "42"
        assert await value(repl, "'ToolError' in globals()") == "False"


async def test_a_kernel_that_ends_at_once_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = directories()
    install(tmp_path, "stillborn", [sys.executable, "-c", "raise SystemExit(7)"], "python", monkeypatch)
    async with JupyterPool(ReplConfig(tier="unsandboxed", kernelspec="stillborn")) as pool:
        with pytest.raises(ReplDied, match="did not start: it exited with code 7"):
            await pool.open((), no_tools, seed=0)
        assert pool.stats() == {"open": 0, "opened": 0}
        assert directories() == before


async def test_what_is_not_installed_is_a_matter_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'pyhton3' is not installed; did you mean 'python3'"):
        await JupyterPool(ReplConfig(tier="unsandboxed", kernelspec="pyhton3")).start()
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    with pytest.raises(ConfigError, match=r"pip install 'lzero\[jupyter\]'"):
        await JupyterPool().start()


async def test_keys_that_would_not_act_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"repl\.disk_mb has no effect"):
        JupyterPool(ReplConfig(tier="unsandboxed", disk_mb=1))
    with pytest.raises(ConfigError, match=r"repl\.kernelspec has no effect"):
        LocalPool(ReplConfig(kernelspec="ir"))


async def test_starting_warns_once_that_there_is_no_sandbox(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with JupyterPool():
            pass
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "unsandboxed" in record.getMessage()
