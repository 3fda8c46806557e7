"""Set the sandbox up: `python -m lzero.repl.setup [--newest]`.

Installs bubblewrap if it may (root, apt-get), makes the kernel environment, runs one cell and prints the isolation that it found. On
failure it prints one message and exits with code 1. `--newest` installs the newest packages instead of the pinned ones.
"""

import asyncio
import os
import shutil
import sys
import time

from lzero.config import ReplConfig
from lzero.errors import LzeroError, SandboxError
from lzero.repl import environment, programs
from lzero.repl.pool import LocalPool, no_tools


def main() -> int:
    try:
        _require_linux()
        _install_bubblewrap()
        environment.build(ReplConfig(), say=_say, pinned="--newest" not in sys.argv[1:])
        _say(asyncio.run(_probe()))
    except LzeroError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _require_linux() -> None:
    if sys.platform != "linux":
        raise SandboxError(f"the sandbox needs Linux; this is {sys.platform}")


def _install_bubblewrap() -> None:
    if shutil.which("bwrap"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SandboxError(f"bubblewrap is missing; {programs.INSTALL_HINT}")
    _say("installing bubblewrap (apt-get)")
    problem = ""
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "bubblewrap"]):
        try:
            environment.command(["apt-get", *arguments], "install bubblewrap", DEBIAN_FRONTEND="noninteractive")
        except SandboxError as error:  # a list of packages that cannot be refreshed may still do
            problem = str(error)
    if not shutil.which("bwrap"):
        raise SandboxError(f"bubblewrap is missing; {programs.INSTALL_HINT}\n{problem}".rstrip())


async def _probe() -> str:
    started = time.monotonic()
    async with LocalPool() as pool:
        warm = time.monotonic()
        repl = await pool.open((), no_tools, seed=0)
        result = await repl.run("6 * 7", deadline_s=30.0)
        first = time.monotonic()
        await repl.close()
    if result.status != "ok":
        raise SandboxError(f"a first cell ended as {result.status}: {result.reason or result.outputs}")
    how = "root, through uid 65534" if os.geteuid() == 0 else "an ordinary user"
    return (
        f"sandbox: bubblewrap as {how}; every REPL has namespaces of its own (pid, mount, ipc, uts, network, user), "
        "no capability, and filtered system calls\n"
        f"sandbox: warm in {warm - started:.1f} s, a REPL's first result after {1000 * (first - warm):.0f} ms"
    )


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
