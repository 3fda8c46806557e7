"""Set the sandbox up: `python -m lzero.repl.setup [--newest]`.

Installs bubblewrap if it may (root, apt-get), makes the kernel environment, and checks in a first REPL that the sandbox isolates. On
failure it prints one message and exits with code 1. `--newest` installs the newest packages instead of the pinned ones.
"""

import asyncio
import os
import shutil
import sys

from lzero.config import ReplConfig
from lzero.errors import LzeroError, SandboxError
from lzero.repl import environment, jail, programs, tiers


def main() -> int:
    try:
        _require_linux()
        _install_bubblewrap()
        environment.build(ReplConfig(), say=_say, pinned="--newest" not in sys.argv[1:])
        _say(_probe())
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


def _probe() -> str:
    report = asyncio.run(tiers.probe(ReplConfig()))
    if report.problem:
        raise SandboxError(report.problem)
    return f"sandbox: {report.findings[-1].detail}, as {jail.user()}"


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
