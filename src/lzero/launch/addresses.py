"""The address file: where the pool servers and vLLM servers of a run are. Any scheduler can write it; lzero watches it.

    {"pool": ["ws://10.0.0.7:7321"], "engine": ["http://10.0.0.8:8000"]}

`lzero pool serve --addresses FILE` enters its own address and removes it at its end. A server that is killed stays in the file: a run
retries it, and uses the others.
"""

import asyncio
import fcntl
import logging
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta

from lzero.errors import ConfigError, StoreError
from lzero.paths import read_bounded
from lzero.store.writing import as_store_error, write_whole

logger = logging.getLogger(__name__)
MAX_BYTES = 1 << 20
"""Largest address file: some ten thousand addresses."""
LOCK_S = 10.0
"""Seconds that a server waits for its turn to change the file."""
_LOOK_S = 0.02
"""Seconds between two attempts to lock it."""
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Opens the lock's file. Others may write its directory: no link is followed, and no pipe waits for a reader."""
_Url = Annotated[str, Meta(max_length=2_000)]


class Addresses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Addresses by role: pool servers (ws:// or wss://) and vLLM servers (http:// or https://)."""

    pool: tuple[_Url, ...] = ()
    engine: tuple[_Url, ...] = ()


def read_addresses(file: Path) -> Addresses:
    """Return the addresses in `file`. Raises ConfigError if it cannot be read, is no address file, is another user's (other than root), may
    be written by another user, or holds a key: clients send their token to the addresses in it.
    """
    found = _entries(file)
    if any("@" in url or "?" in url for url in (*found.pool, *found.engine)):
        raise ConfigError(
            f"an address in {file} holds a user name, a password or a query, which runs would record: remove it, and name the servers' "
            "secrets by engine.key and repl.token_file"
        )
    return found


def _entries(file: Path) -> Addresses:
    """Return what `file` holds, whatever its addresses are: a server removes its own also beside one that no run would use.

    Raises ConfigError if that cannot be read, or is no address file.
    """
    try:
        data = read_bounded(file, max_bytes=MAX_BYTES, check=partial(_check_owner, file))
        return msgspec.json.decode(data or b"{}", type=Addresses)
    except OSError as error:
        raise ConfigError(f"cannot read the address file {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'{file} is no address file, as {{"pool": ["ws://10.0.0.7:7321"]}}, or "engine" with http:// addresses: {error}'
        ) from None


def _check_owner(file: Path, status: os.stat_result) -> None:
    """Raise ConfigError unless only this user and root may write the file."""
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"the address file {file} belongs to the user {status.st_uid}, and this process is of the user {os.geteuid()}: its owner could "
            "direct the servers' token to other machines. Use a file of your own, or of root"
        )
    if (mode := stat.S_IMODE(status.st_mode)) & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"other users can write the address file {file} (owner {status.st_uid}, mode {mode:o}): chmod go-w {file}"
        )


@asynccontextmanager
async def registered(file: Path, role: Literal["pool", "engine"], url: str) -> AsyncIterator[None]:
    """Enter an address in `file` during the block. Several processes, on several machines, may do so at once.

    Raises StoreError if it cannot be written, and ConfigError as `read_addresses` does.
    """
    await _change(file, role, add=url)
    try:
        yield
    finally:
        await _change(file, role, remove=url)


def write_addresses(file: Path, addresses: Addresses) -> None:
    """Write an address file, completely or not at all. Raises StoreError."""
    write_whole(file, msgspec.json.format(msgspec.json.encode(addresses), indent=2) + b"\n")


async def _change(file: Path, role: Literal["pool", "engine"], *, add: str = "", remove: str = "") -> None:
    lock = file.with_name(f"{file.name}.lock")
    with as_store_error(lock), os.fdopen(os.open(lock, _OPEN, 0o644), "wb") as held:
        await _take(held, lock)
        before = _entries(file) if file.exists() else Addresses()
        kept: Sequence[str] = [url for url in getattr(before, role) if url not in (add, remove)]
        write_addresses(file, msgspec.structs.replace(before, **{role: (*kept, *([add] if add else []))}))


async def _take(held: IO[bytes], lock: Path) -> None:
    """Lock a file, without holding up the event loop.

    Raises StoreError if another process holds it for LOCK_S seconds: every user who may read the file may lock it.
    """
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise StoreError(
                    f"another process has held {lock} for {LOCK_S:g} s: end it (`lsof {lock}` names it), or use another address file"
                ) from None
            await asyncio.sleep(_LOOK_S)


class Watched:
    """The pool servers in an address file that changes. A file that cannot be used keeps the addresses that were read last."""

    def __init__(self, file: Path, check: Callable[[str], None]) -> None:
        """`check` raises ConfigError for an address that cannot be used. Raises ConfigError as it and `read_addresses` do."""
        self._file = file
        self._check = check
        self._problem = ""
        self.pool = self._read()

    def look(self) -> tuple[str, ...] | None:
        """Read the file again; return its pool servers if they have changed, else None."""
        try:
            found = self._read()
        except ConfigError as error:
            if str(error) != self._problem:
                logger.warning("%s. The pool servers stay as they were", error)
            self._problem = str(error)
            return None
        self._problem = ""
        changed, self.pool = set(found) != set(self.pool), found
        return found if changed else None

    def _read(self) -> tuple[str, ...]:
        found = tuple(url.rstrip("/") for url in read_addresses(self._file).pool)
        for url in found:
            self._check(url)
        return tuple(dict.fromkeys(found))
