"""The pipes of a child process."""

from asyncio.subprocess import Process


def close_pipes(process: Process) -> None:
    """Close our ends of a child's pipes, although a process that it left behind may hold the other ends. asyncio has no public way to."""
    process._transport.close()  # type: ignore[attr-defined]
