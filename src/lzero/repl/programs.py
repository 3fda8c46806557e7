"""Find the programs of the system that REPLs need."""

import shutil
import subprocess

from lzero.errors import SandboxError

INSTALL_HINT = "install it: apt-get install bubblewrap (Debian, Ubuntu), dnf install bubblewrap (Fedora), pacman -S bubblewrap (Arch)"


def find(name: str) -> str:
    """Return the path of a program. Raises SandboxError, which says how to install it."""
    path = shutil.which(name)
    if path is None:
        hint = INSTALL_HINT if name == "bwrap" else "it is part of util-linux"
        raise SandboxError(f"REPLs need {name}, which is not on PATH; {hint}")
    return path


def bubblewrap_version() -> str:
    """Return the version that `bwrap --version` prints; "" if it is not installed."""
    try:
        done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().removeprefix("bubblewrap ")
