"""Try each part of the isolation on this machine: `lzero pool probe`.

Each part is tried as the jail needs it: by the user that the jail runs as, below a first user namespace. At the end a pool is started,
which checks in a first REPL that the whole sandbox isolates.
"""

import ctypes
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lzero.config import ReplConfig
from lzero.errors import ConfigError, SandboxError
from lzero.repl import cgroups, jail, programs, users
from lzero.repl.jupyter.pool import JupyterPool
from lzero.repl.pool import LocalPool
from lzero.repl.unbounded import DELEGATE, unbounded

_TIMEOUT_S = 20.0
_LANDLOCK_CREATE_RULESET = 444
_FILTERED = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import seccomp
libc = ctypes.CDLL(None, use_errno=True)
program = seccomp.prepare(libc)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs is refused"
seccomp.install(libc, program)
assert libc.unshare(0) == -1 and ctypes.get_errno() == 1, "a filtered call went through"
"""
_ALLOWED = (
    "allow user namespaces (docs/sandbox.md, Where it runs): in a container by options of its start; on Ubuntu by "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0; elsewhere by sysctl user.max_user_namespaces=16384"
)
_UNMASKED = "unmask /proc in the container: --security-opt systempaths=unconfined (Docker), unmask=ALL (Podman)"
_JAIL = (
    *("--unshare-all", "--die-with-parent", "--new-session", "--uid", "0", "--gid", "0", "--cap-add", "ALL"),
    *("--ro-bind", "/", "/", "--bind", "/proc", "/proc", "--dev", "/dev"),
)
_NAMESPACES = (
    # part, further options of bubblewrap, what to run in it, what to do where it fails
    ("user namespaces", (), ("true",), _ALLOWED),
    ("user namespaces within them", (), ("unshare", "--user", "--map-user=1000", "true"), _ALLOWED),
    ("a /proc of its own", ("--proc", "/proc"), ("unshare", "--pid", "--fork", "--mount-proc", "true"), _UNMASKED),
    ("a network of its own", (), ("unshare", "--net", "true"), "use a kernel with CONFIG_NET_NS"),
)


@dataclass(frozen=True)
class Finding:
    """One part of the sandbox on this machine."""

    part: str
    here: bool
    detail: str
    mend: str = ""
    """The remedy if it is missing and needed."""
    needed: bool = True


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]
    tier: str
    """The tier's name in the configuration."""
    problem: str
    """Why the tier is unavailable; "" if it works."""


async def probe(config: ReplConfig) -> Report:
    """Try every part, then all of them together. Takes some seconds; makes the kernel environment if it is missing."""
    findings = tuple(_findings(config))
    pool: LocalPool | JupyterPool = JupyterPool(config) if config.tier == "unsandboxed" else LocalPool(config)
    started = time.monotonic()
    try:
        async with pool:
            warm_s = time.monotonic() - started
    except (SandboxError, ConfigError) as error:
        return Report((*findings, Finding("a first REPL", False, "did not start")), config.tier, str(error))
    shut = "with nothing around it" if config.tier == "unsandboxed" else "shut in as promised"
    proof = Finding("a first REPL", True, f"{shut}, {warm_s:.1f} s after the start")
    return Report((*findings, proof), config.tier, "")


def _findings(config: ReplConfig) -> Iterator[Finding]:
    yield Finding(
        "Linux",
        sys.platform == "linux",
        f"{platform.release()}, {platform.machine()}, {jail.user()}",
        "use Linux, in a virtual machine say",
    )
    version = programs.bubblewrap_version()
    yield Finding("bubblewrap", bool(version), version or "not on PATH", programs.INSTALL_HINT)
    yield from _namespaces()
    command = (sys.executable, "-I", "-c", _FILTERED, str(jail.INSIDE))
    yield _tried(
        "a filter on system calls", command, mend="use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or arm64"
    )
    readable = Path("/proc/self/smaps_rollup").exists()
    yield Finding("memory of processes can be read", readable, "", "use Linux 4.14 or later")
    groups = _control_groups(config)
    yield groups
    missing = tuple(unbounded(groups=groups.here and config.cgroups != "off"))
    for each in missing:
        yield Finding(f"bounds per REPL: {each.part}", False, each.harm, each.mend, needed=False)
    if not missing:
        yield Finding("bounds per REPL", True, "", needed=False)
    abi = landlock_abi()
    yield Finding("Landlock", abi > 0, f"ABI {abi}" if abi else "this kernel has none", needed=False)


def landlock_abi() -> int:
    """Return the version of Landlock's ABI; 0 if the kernel has none. landlock_create_ruleset(2)."""
    version = ctypes.CDLL(None).syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    return max(int(version), 0)


def _namespaces() -> Iterator[Finding]:
    """Yield a finding for each kind of namespace that the jail needs. Without the first, the others are not tried."""
    allowed = True
    for part, options, inner, mend in _NAMESPACES:
        if not allowed:
            yield Finding(part, False, "not tried")
            continue
        try:
            command = (*users.as_ordinary_user(), programs.find("bwrap"), *_JAIL, *options, "--", *inner)
        except SandboxError as error:
            finding = Finding(part, False, "not tried", str(error))
        else:
            finding = _tried(part, command, mend=mend)
        allowed = allowed and (finding.here or part != _NAMESPACES[0][0])
        yield finding


def _tried(part: str, command: Sequence[str], *, mend: str) -> Finding:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(part, False, str(error), mend)
    said = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
    return Finding(part, done.returncode == 0, "" if done.returncode == 0 else said, mend)


def _control_groups(config: ReplConfig) -> Finding:
    needed = config.cgroups == "on" or config.cores > 0
    try:
        groups = cgroups.find(config.cores)
        groups.prove()
    except SandboxError as error:
        return Finding("control groups", False, str(error), DELEGATE, needed)
    return Finding("control groups", True, f"{groups.kind}: {', '.join(groups.places)}", needed=needed)
