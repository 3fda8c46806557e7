"""Read a process's entries in /proc. proc(5)."""

import os


def read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def status_of(pid: int) -> dict[str, str]:
    """Return the fields of a process's status, by name."""
    return dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":\t" in line)


def pids_of(pid: int) -> list[int]:
    """Return the process's pids in this pid namespace and in all nested ones, down to its own."""
    return list(map(int, status_of(pid)["NSpid"].split()))


def thread_names() -> list[str]:
    """Return the name of each thread of this process."""
    return sorted(read(f"/proc/self/task/{thread}/comm").strip() for thread in os.listdir("/proc/self/task"))
