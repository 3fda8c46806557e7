"""Model servers of other projects, each a process of its own on loopback, with the bundled nano model to serve.

`make test-servers` puts each into an environment of its own: `.servers/transformers`, `.servers/vllm`.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from lzero.models import resolve

INSTALLED = Path(__file__).parents[2] / ".servers"
START_S = 300.0
"""vLLM takes a minute where nothing else runs."""
ASK_AGAIN_S = 0.25
END_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """Serves a model directory, under its path."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


PROGRAMS = {
    "transformers": Program(),
    "vllm": Program(
        arguments=("--enforce-eager", "--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "4"),
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class ModelServer:
    url: str
    model: str


def is_installed(name: str) -> bool:
    return (INSTALLED / name / ".ready").exists()


@contextlib.contextmanager
def served(name: str, directory: Path) -> Iterator[ModelServer]:
    """Start a server in the block, and end it with all that it started. `directory` becomes its home, and must be otherwise unused."""
    program = PROGRAMS[name]
    model = str(shutil.copytree(resolve("nano"), directory / "nano"))
    address = f"http://127.0.0.1:{_free_port()}"
    command = (
        str(INSTALLED / name / "bin" / name),
        *("serve", model, *program.arguments),
        *("--host", "127.0.0.1", "--port", address.rpartition(":")[2]),
    )
    own = {"HOME": str(directory), "HF_HUB_OFFLINE": "1", "PATH": f"{INSTALLED / name / 'bin'}:{os.environ['PATH']}"}
    log = directory / "log"
    with log.open("wb") as out:
        process = psutil.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**own, **program.environment},
            cwd=directory,
        )
    try:
        _wait(process, f"{address}/health", log)
        yield ModelServer(url=f"{address}/v1", model=model)
    finally:
        _end(process)
    left = [other for other in psutil.process_iter() if _works_in(directory, other)]
    assert not left, f"{name} has left {left}"


def _wait(process: psutil.Popen, url: str, log: Path) -> None:
    """Wait until it answers. Raises AssertionError with the end of its log if it dies or takes too long."""
    ends_at = time.monotonic() + START_S
    while time.monotonic() < ends_at:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(url, timeout=10.0).status_code == 200:
                return
        with contextlib.suppress(psutil.TimeoutExpired):
            ended = process.wait(ASK_AGAIN_S)
            raise AssertionError(f"it ended with {ended}:\n{_tail(log)}")
    raise AssertionError(f"it does not answer:\n{_tail(log)}")


def _end(process: psutil.Popen) -> None:
    """Ask the server to end, and kill it after a while."""
    family = [process, *(process.children(recursive=True) if process.is_running() else ())]
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    _, stubborn = psutil.wait_procs(family, timeout=END_S)
    for each in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(stubborn, timeout=END_S)


def _works_in(directory: Path, process: psutil.Process) -> bool:
    try:
        return process.cwd() == str(directory)
    except (psutil.Error, OSError):
        return False


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4_000:]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
