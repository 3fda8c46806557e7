"""Build the kernel environment, a separate virtual environment, so that a jail never sees the one that lzero runs in.

`assets/kernel/requirements.txt` names its packages, and `assets/kernel/lock.txt` pins all that they need. A package in `repl.packages` gets
the version given there, not the pinned one.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from lzero.config import ReplConfig
from lzero.errors import ConfigError, SandboxError

PLACE = "/opt/environment"
"""Path of the kernel environment inside the jail, the same on every machine."""
_KERNEL = Path(__file__).parents[1] / "assets" / "kernel"
_LOCK = tuple((_KERNEL / "lock.txt").read_text(encoding="utf-8").splitlines())
REQUIREMENTS = tuple((_KERNEL / "requirements.txt").read_text(encoding="utf-8").split())
_BUILD_TIMEOUT_S = 1800
_PIP = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_QUESTION = "import json, os, sys; print(json.dumps([sys.base_prefix, os.path.realpath(sys.executable), os.__file__]))"


@dataclass(frozen=True)
class Environment:
    """A kernel environment on disk, and the files outside it that it needs."""

    directory: Path
    base_prefix: Path
    """The Python installation that it was made from."""
    interpreter: Path
    """The real file behind bin/python."""
    os_file: str
    """The file of its `os` module; it must be the same inside the jail."""

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"


def python_of_sessions(config: ReplConfig, *, placed: bool = False) -> Path:
    """Return the interpreter that sessions run in. `placed`: whether they run on a cluster.

    Raises ConfigError if sessions do not run in this machine's sandbox.
    """
    if placed or config.is_elsewhere or config.tier != "namespaces":
        raise ConfigError(
            "agent.tools: install fits packages to this machine's kernel environment, and sessions run in another one "
            "(repl.servers, repl.addresses, repl.tier, launch.ray): let repl.packages of that one hold them"
        )
    return find(config).python


def find(config: ReplConfig) -> Environment:
    """Return the environment that `config` asks for. Raises SandboxError, with the remedy, if it is missing or does not run."""
    directory = _directory(config)
    if not (directory / "bin" / "python").exists():
        raise SandboxError(f"no kernel environment in {directory}; make it with: {sys.executable} -m lzero.repl.setup")
    base_prefix, interpreter, os_file = _ask(directory / "bin" / "python")
    return Environment(directory, Path(base_prefix), Path(interpreter), os_file)


def build(config: ReplConfig, *, say: Callable[[str], None] = lambda _: None, pinned: bool = True) -> Environment:
    """Make the environment unless it exists; two processes may try at once. `pinned`: install the releases of the lock.

    Raises SandboxError.
    """
    directory = _directory(config)
    if (directory / "bin" / "python").exists():
        return find(config)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _lock(directory.with_name(directory.name + ".lock")):
            if not (directory / "bin" / "python").exists():
                say(f"making the kernel environment in {directory} (about half a minute, 250 MB)")
                _build_at(directory, config, constraints=pins(config) if pinned else "")
    except OSError as error:
        raise SandboxError(
            f"cannot make the kernel environment in {directory}: {error.strerror or error}; repl.environment names another place"
        ) from None
    return find(config)


def _directory(config: ReplConfig) -> Path:
    if config.environment:
        directory = Path(config.environment).expanduser().absolute()
        if directory.exists() and not directory.is_dir():
            raise SandboxError(f"repl.environment = {directory} is a file: name a directory")
        return directory
    python = config.python or sys.executable
    key = json.dumps([sys.version if not config.python else python, requirements(config), pins(config), PLACE])
    return Path(sys.prefix) / "lzero-kernels" / hashlib.sha256(key.encode()).hexdigest()[:12]


def requirements(config: ReplConfig) -> tuple[str, ...]:
    return (*REQUIREMENTS, *config.packages)


def pins(config: ReplConfig) -> str:
    """Return the pip constraints of the environment, a line each."""
    asked = {canonicalize_name(re.split(r"[^\w.-]", package.strip(), maxsplit=1)[0]) for package in config.packages}
    pins = [line for line in _LOCK if line and not line.startswith("#") and line.partition("==")[0] not in asked]
    return "".join(f"{pin}\n" for pin in pins)


def _build_at(directory: Path, config: ReplConfig, constraints: str) -> None:
    """Build the environment next to `directory`, then rename it, so that a directory of the final name is complete."""
    if directory.exists() and any(directory.iterdir()):
        raise SandboxError(f"{directory} exists and is no kernel environment: remove it, or set repl.environment")
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pip = [str(partial / "bin" / "python"), "-m", "pip"]
    try:
        command(
            [config.python or _base_python(), "-m", "venv", "--prompt", "environment", str(partial)],
            "make a virtual environment",
        )
        lock = partial / "lock.txt"
        lock.write_text(constraints, encoding="utf-8")
        arguments = ["install", "--quiet", "--constraint", str(lock), *requirements(config)]
        command([*pip, *arguments], "install the kernel's packages", **_PIP)
        # The jail has no network: without pip, `%pip install` fails at once instead of trying for a minute.
        command([*pip, "uninstall", "--quiet", "--yes", "setuptools", "pip"], "remove pip", **_PIP)
        _name_the_jails_place(partial)
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _name_the_jails_place(built: Path) -> None:
    """Make the environment's scripts name the interpreter by its path in the jail, without directories of this machine.

    pip writes the path of its interpreter into the first line of a script, or into the second one if the path is long or contains a space.
    venv writes it into its own scripts and its settings.
    """
    for file in (built / "pyvenv.cfg", *(built / "bin").iterdir()):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if not content.startswith(b"\x7fELF"):
                file.write_bytes(content.replace(os.fsencode(built), PLACE.encode()))


def _base_python() -> str:
    """Return the interpreter behind the virtual environment that this process may run in."""
    return getattr(sys, "_base_executable", "") or sys.executable


def command(arguments: Sequence[str], purpose: str, **variables: str) -> None:
    """Run a program to its end, with `variables` in its environment. Raises SandboxError, with the end of its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    try:
        done = subprocess.run(
            arguments,
            env=environment | variables,
            umask=0o022,  # the jail's user must be able to read it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"cannot {purpose}: {error}") from None
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise SandboxError(f"cannot {purpose}: {' '.join(arguments)} ended with code {done.returncode}\n{tail}")


def _ask(python: Path) -> tuple[str, str, str]:
    """Run `python`, and return its base prefix, its real interpreter and the file of its `os` module."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=60, check=True
        )
        base_prefix, interpreter, os_file = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        short = isinstance(error, OSError) and error.errno in _SHORT_OF
        mend = "the machine is short of it" if short else f"remove {python.parent.parent} and make it again"
        raise SandboxError(f"{python} does not run ({error}); {mend}") from None
    return base_prefix, interpreter, os_file


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    deadline = time.monotonic() + _BUILD_TIMEOUT_S
    with file.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SandboxError(
                        f"another process has been making the kernel environment for {_BUILD_TIMEOUT_S} s (it holds {file}); "
                        "end it, then try again"
                    ) from None
                time.sleep(0.1)
        yield
