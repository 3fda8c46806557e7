"""Start ranks as processes of their own, as torchrun does."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]


@contextmanager
def ranks(command: Sequence[str], directory: Path, *, size: int = 2) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Run Python with these arguments as every rank, and kill those that are left. `directory` gets a log of each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    faults = {"PYTHONFAULTHANDLER": "1"}  # a rank that crashes in native code says where Python was
    shared = faults | {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    path = os.pathsep.join(map(str, (TESTS, TESTS / "support")))
    started = []
    try:
        for rank in range(size):
            variables = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path}
            with (directory / f"rank-{rank}.log").open("wb") as log:
                started.append(
                    subprocess.Popen([sys.executable, *command], env=variables, stdout=log, stderr=subprocess.STDOUT)
                )
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def logs(directory: Path) -> str:
    """Return the end of each rank's log."""
    return "\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in sorted(directory.glob("rank-*.log")))
