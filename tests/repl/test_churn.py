"""Churn: REPLs by the thousand, opened, asked and closed, leave memory, descriptors, processes, mounts and namespaces where they
were. `make test` runs a sample, `make test-long` twenty thousand."""

import os
import subprocess
import time

import psutil
import pytest
from fault_traces import at_rest, settled, traces, zygotes
from pool_growth import NEVER_REPLACED, churn, sizes, until_warm

from lzero.repl import LocalPool

pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("own_temporary_directory")]
RSS_BYTES = 8 << 20
"""Bytes that the host and its zygotes may hold more afterwards: an allocator's slack. At 20,000 that is 400 bytes a REPL."""
KEYS = 50
"""Number of further kernel keys that the jail's user may have; others on the machine may be that user, too."""
NAMESPACES = 100
"""More of a kind than this are never there at once, or none could be made: the kernel takes them away in batches, a little late."""


def bound_namespaces(zygote: psutil.Process, most: int) -> None:
    """Limit the number of namespaces of each kind that the zygote's children may have."""
    each = f'for kind in user pid mnt ipc uts net; do echo {most} > "/proc/sys/user/max_${{kind}}_namespaces"; done'
    become_root = ("--setuid=0", "--setgid=0") if os.geteuid() == 0 else ("--preserve-credentials",)
    enter = ("nsenter", f"--target={zygote.pid}", "--user", *become_root, "--")
    subprocess.run((*enter, "sh", "-ec", each), check=True, timeout=20)


@pytest.mark.parametrize(
    "sessions",
    [150, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
    ids=["sample", "whole"],
)
async def test_sessions_that_come_and_go_leave_everything_as_it_was(sessions: int) -> None:
    before = traces()
    async with LocalPool(NEVER_REPLACED) as pool:
        warm = await until_warm(pool)
        for zygote in warm:
            bound_namespaces(zygote, NAMESPACES)
        idle = await at_rest()
        first = tuple(sizes(warm))
        started = time.monotonic()
        await churn(pool, sessions)
        elapsed = time.monotonic() - started
        await settled(idle)
        assert zygotes() == warm
        assert pool.stats()["open"] == 0
        host, grown, descriptors, keys = (now - then for now, then in zip(sizes(warm), first, strict=True))
        print(f"{sessions} REPLs in {elapsed:.0f} s, {sessions / elapsed:.0f} a second; {keys:+} keys")
        print(f"host {first[0] >> 20} MB {host / 1024:+.0f} KiB, zygotes {first[1] >> 20} MB {grown / 1024:+.0f} KiB")
        assert host < RSS_BYTES
        assert grown < RSS_BYTES
        assert descriptors == 0
        assert keys < KEYS
    assert traces() == before
