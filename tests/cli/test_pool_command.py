"""`lzero pool serve`, as it is typed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pool_servers import TOKEN, ServerProcess
from repl_sessions import no_tools

from lzero.cli import main
from lzero.errors import ReplDied
from lzero.repl.remote.pool import RemotePool

pytestmark = pytest.mark.sandbox


def test_a_port_in_use_and_options_that_do_not_act(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LZERO_POOL_TOKEN", TOKEN)
    readable = tmp_path / "token"
    readable.write_text(TOKEN)
    readable.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ((f"--port={port}",), f"cannot serve at port {port} of 127.0.0.1: Address already in use; name another"),
            ((f"--token-file={readable}",), "other users can read the token"),
            (("--certificate=x.pem",), "--certificate and --key must be given together"),
            (('repl.servers=["ws://127.0.0.1:1"]',), "repl.servers has no effect"),
            (("repl.token_file=token",), "repl.token_file has no effect"),
            (("--lease-s=1e9",), "--lease-s = 1e+09: the maximum is 604800 seconds"),
        ):
            monkeypatch.setenv("LZERO_POOL_TOKEN", TOKEN)
            with pytest.raises(SystemExit) as ended:
                main(("pool", "serve", *arguments))
            errors = capsys.readouterr().err
            assert (ended.value.code, message in errors) == (1, True), errors
            assert errors.count("lzero: ") == 1


async def test_the_command_makes_a_token_serves_and_ends_cleanly_on_a_signal() -> None:
    environment = {name: text for name, text in os.environ.items() if name != "LZERO_POOL_TOKEN"}
    command = (sys.executable, "-c", "from lzero.cli import main; main()", "pool", "serve", "--port=0")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        try:
            lines = [(await asyncio.wait_for(process.stdout.readline(), 60.0)).decode() for _ in range(3)]
            url, token = lines[0].split()[3], lines[1].partition("=")[2].strip()
            assert url in lines[2]
            async with RemotePool((url,), token=token) as servers:
                repl = await servers.open((), no_tools, seed=0)
                running = asyncio.create_task(repl.run("import time\ntime.sleep(1000)", deadline_s=100.0))
                await asyncio.sleep(0.1)
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(number)
                with pytest.raises(ReplDied, match="was lost"):
                    await running
                _, errors = await asyncio.wait_for(process.communicate(), 60.0)
                assert (process.returncode, errors.decode()) == (0, "")
                assert not [child for child in children if child.is_running()]
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


def test_a_run_whose_repls_live_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LZERO_POOL_TOKEN", TOKEN)
    arguments = ("engine.kind=scripted", "engine.policy=expert", "eval.num_tasks=6", f"run.dir={tmp_path / 'run'}")

    async def evaluate() -> None:
        async with ServerProcess() as server:
            await asyncio.to_thread(main, ("eval", *arguments, f'repl.servers=["{server.url}"]'))

    with pytest.raises(SystemExit) as ended:
        asyncio.run(evaluate())
    assert ended.value.code == 0, capsys.readouterr()
    assert TOKEN.encode() not in b"".join(file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file())
