"""The pipes of a child process."""

from asyncio.subprocess import Process


def close_pipes(process: Process) -> None:
    """Close the host's ends of a child's pipes, even if a process that the child left holds the other ends. asyncio has no public call for
    it."""
    process._transport.close()  # type: ignore[attr-defined]
