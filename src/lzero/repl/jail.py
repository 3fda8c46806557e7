"""Build the jail around the zygote: bubblewrap's command line, and its start as root.

bubblewrap gives it new namespaces (without a network), a file system of read-only system directories, and none of the host's environment,
Python packages, homes or descriptors. It runs as an ordinary user even if lzero is root: otherwise parts of /proc would be masked, and
REPLs could not mount their own.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from lzero.config import ReplConfig
from lzero.errors import SandboxError
from lzero.repl import programs, users
from lzero.repl.environment import PLACE as _ENVIRONMENT
from lzero.repl.environment import Environment

INSIDE = Path(__file__).parent / "inside"
_MODULES = "/opt/lzero"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ALTERNATIVES = Path("/etc/alternatives")
STAGING = "/mnt"
# Binds every argument before "--" at /mnt/<number>, in a mount namespace of its own, and runs the rest. The first is copied, so
# that its files are readable whatever the umask of the checkout was; compiled files would name its directory.
STAGE = f"""
set -eu
mount -t tmpfs -o mode=755,size=64m tmpfs {STAGING}
cp -R "$1" {STAGING}/0
rm -rf {STAGING}/0/__pycache__
chmod -R a+rX {STAGING}/0
shift
number=1
while [ "$1" != -- ]; do
  mkdir {STAGING}/$number
  mount --bind "$1" {STAGING}/$number
  number=$((number + 1))
  shift
done
shift
exec "$@"
"""
_VARIABLES = {
    "PATH": f"{_ENVIRONMENT}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/workspace",
    "USER": "agent",
    "LOGNAME": "agent",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "TERM": "dumb",
    "NO_COLOR": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # IPython brings it; figures are then displays
    "MPLCONFIGDIR": "/tmp/matplotlib",
    # One thread: the zygote must be single when it forks, and a thousand REPLs share the machine.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pandas imports pyarrow, whose allocator starts one otherwise
}
_USUAL = ReplConfig()


@dataclass(frozen=True)
class Limits:
    """The limits of one REPL. The jail's `isolate.Limits` is the same."""

    memory_bytes: int = _USUAL.memory_mb << 20
    disk_bytes: int = _USUAL.disk_mb << 20
    files: int = _USUAL.files
    processes: int = _USUAL.processes
    open_files: int = _USUAL.open_files

    @classmethod
    def of(cls, config: ReplConfig) -> Self:
        return cls(
            memory_bytes=config.memory_mb << 20,
            disk_bytes=config.disk_mb << 20,
            files=config.files,
            processes=config.processes,
            open_files=config.open_files,
        )


def start(
    environment: Environment,
    control: socket.socket,
    limits: Limits,
    errors: IO[bytes],
    *,
    namespace: int | None = None,
    without: Collection[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a zygote whose end of the control socket is `control`, and which writes its errors to `errors`. Raises SandboxError.

    `namespace`: descriptor of the user namespace to start it in; None lets bubblewrap make one. `without`: defences to leave out, for tests
    that show what each is good for.

    The zygote dies with the thread that calls this, so call it from one that lives as long as the pool.
    """
    descriptor = control.fileno()
    inner = (
        f"{_ENVIRONMENT}/bin/python",
        "-s",
        "-B",
        f"{_MODULES}/start.py",
        str(descriptor),
        json.dumps(asdict(limits)),
        *without,
    )
    try:
        return subprocess.Popen(
            command(environment, inner, namespace),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            # And no other descriptor: close_fds is the default.
            pass_fds=(descriptor, *([] if namespace is None else [namespace])),
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
            cwd="/",
            start_new_session=True,  # Ctrl-C in a terminal goes to a whole process group: the run, not its sandboxes, decides what ends
        )
    except OSError as error:
        raise SandboxError(f"cannot start the sandbox: {error}") from None


def command(environment: Environment, inner: Sequence[str], namespace: int | None = None) -> list[str]:
    """Return the command line that runs `inner` in the jail. `namespace`: descriptor of its user namespace; None makes a new one.

    Raises SandboxError if a program that it needs is missing.
    """
    sources = _bound_directories(environment)
    if not users.may_mount():  # the jail's user must be able to read the directories as they are
        return [*users.as_ordinary_user(), *_bwrap(sources, namespace), "--", *inner]
    staged = [(f"{STAGING}/{number}", target) for number, (_, target) in enumerate(sources)]
    return [
        *(programs.find("unshare"), "--mount", "--propagation", "private", "--"),
        *("/bin/sh", "-c", STAGE, "sh", *(source for source, _ in sources), "--"),
        *users.as_ordinary_user(),
        *_bwrap(staged, namespace),
        "--",
        *inner,
    ]


def _bwrap(binds: Sequence[tuple[str, str]], namespace: int | None) -> list[str]:
    arguments = [
        programs.find("bwrap"),
        *(("--unshare-user",) if namespace is None else ("--userns", str(namespace))),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--as-pid-1"),
        # Root of a user namespace that means nothing outside: what the zygote needs to shut each REPL in.
        *("--uid", "0", "--gid", "0", "--cap-add", "ALL"),
        "--clearenv",
    ]
    for name, value in _VARIABLES.items():
        arguments += ["--setenv", name, value]
    for directory in _SYSTEM:
        if os.path.islink(directory):
            arguments += ["--symlink", os.readlink(directory), directory]
        elif os.path.isdir(directory):
            arguments += ["--ro-bind", directory, directory]
    arguments += ["--dir", "/etc", "--dir", str(_ALTERNATIVES)]
    if os.path.exists("/etc/ld.so.cache"):
        arguments += ["--ro-bind", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    arguments += _links_in_etc()
    # tmpfs before the binds beneath it: an environment may lie under /tmp.
    arguments += ["--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev", "--dir", "/workspace"]
    for source, target in binds:
        # Directories above that bubblewrap makes by itself are its own user's alone, and a REPL may be another user.
        for above in reversed(Path(target).parents[:-1]):
            arguments += ["--dir", str(above)]
        arguments += ["--ro-bind", source, target]
    for directory in _hidden_directories([target for _, target in binds]):
        arguments += ["--tmpfs", directory, "--remount-ro", directory]
    return [*arguments, "--remount-ro", "/", "--remount-ro", "/dev", "--chdir", "/"]


def _links_in_etc() -> list[str]:
    """Return bubblewrap's arguments for /etc: the jail's own users, and the system's choices among programs and libraries.

    On many systems /usr/bin/awk, cc and which are links to /etc/alternatives, which links back into /usr. The jail gets new links for those
    that lead into directories which it shows. No file of the host's /etc is bound, and no name of another directory is visible.
    """
    links = {f"/etc/{name}": f"{_MODULES}/etc/{name}" for name in ("passwd", "group")}
    for link in sorted(_ALTERNATIVES.glob("*")):
        target = os.path.normpath(os.readlink(link)) if link.is_symlink() else ""
        if target.startswith(tuple(f"{directory}/" for directory in _SYSTEM)) and "/man/" not in target:
            links[str(link)] = target
    return [part for link, target in links.items() for part in ("--symlink", target, link)]


def _bound_directories(environment: Environment) -> list[tuple[str, str]]:
    """Return (source, place in the jail) pairs, lzero's in-jail modules first. A system Python needs no bind of its own."""
    directories = [(str(INSIDE), _MODULES), (str(environment.directory), _ENVIRONMENT)]
    for root in dict.fromkeys(str(path) for path in (environment.base_prefix, environment.interpreter.parent.parent)):
        if not any(root == system or root.startswith(f"{system}/") for system in _SYSTEM):
            directories.append((root, root))
    return directories


def _hidden_directories(bound: Sequence[str]) -> list[str]:
    """Return the host's directories of Python packages that the bound directories contain. lzero itself may be among them, with modules
    that know the answers; the kernel environment has its own packages."""
    roots = ("/usr", "/usr/local", *bound)
    hidden = [str(path) for root in roots for path in sorted(Path(root).glob("lib*/python3*/*-packages"))]
    for own in (Path(__file__).parents[1], *([Path(sys.prefix)] if sys.prefix != sys.base_prefix else [])):
        if any(own.is_relative_to(root) for root in roots) and not any(own.is_relative_to(path) for path in hidden):
            hidden.append(str(own))
    return [directory for directory in hidden if not directory.startswith((f"{_ENVIRONMENT}/", f"{_MODULES}/"))]


def user() -> str:
    """Return a description of the user that the jail runs as."""
    if os.geteuid() != 0:
        return f"uid {os.geteuid()}"
    return f"uid {users.NOBODY}, from root" + (", and a user for each REPL" if users.available() else "")


def explain(complaint: str, environment: Path) -> str:
    """Return the text that follows "the sandbox did not start": the cause, and the remedy if it is known."""
    hint = ""
    if "Traceback (most recent call last)" in complaint:
        complaint = f"the kernel environment {environment} cannot be used: {complaint.splitlines()[-1]}"
        hint = "\nTake what breaks it out of repl.packages, or remove the directory: it is then made anew."
    elif "setresuid" in complaint:
        hint = (
            "\nHere root is the only user (a rootless container, say), and the sandbox must run as another one: "
            "run lzero as an ordinary user, or give the container more user ids (subuid). There is no fallback to anything weaker."
        )
    elif "mount proc" in complaint:
        hint = (
            "\nParts of /proc are masked here, as containers do it, and then nobody may mount a fresh one. In Docker: "
            "--security-opt systempaths=unconfined; in Podman: --security-opt unmask=ALL; in Kubernetes: procMount: Unmasked. "
            "There is no fallback to anything weaker."
        )
    elif "Permission denied" in complaint:
        hint = (
            f"\nThe sandbox runs as {user()}, which has to be able to read the kernel environment {environment}, its Python and "
            "lzero's own files. Make them readable, or let root mount (in Docker: --cap-add SYS_ADMIN)."
        )
    elif "namespace" in complaint or "Operation not permitted" in complaint or "uid map" in complaint:
        hint = (
            "\nThis kernel or container forbids user namespaces. On Ubuntu 24.04 and later: "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0. Where user.max_user_namespaces is too low: "
            "sysctl user.max_user_namespaces=16384. In Docker: --security-opt seccomp=unconfined "
            "--security-opt systempaths=unconfined --security-opt apparmor=unconfined. "
            "There is no fallback to anything weaker."
        )
    return f": {complaint or 'it said nothing'}{hint}"
