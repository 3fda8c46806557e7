"""The address file: entered by several processes at once, read with a typed error, and followed while it changes."""

import asyncio
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from lzero.cli.placing import with_addresses
from lzero.config import load_config
from lzero.errors import ConfigError, StoreError
from lzero.launch import addresses
from lzero.launch.addresses import MAX_BYTES, Addresses, Watched, read_addresses, registered, write_addresses

URLS = [f"ws://10.0.0.{number}:7321" for number in range(24)]


def test_servers_that_enter_and_leave_at_once_lose_no_address(tmp_path: Path) -> None:
    file, entered = tmp_path / "addresses.json", Barrier(len(URLS))

    async def serve(url: str) -> None:
        async with registered(file, "pool", url):
            await asyncio.to_thread(entered.wait, 60)
            assert sorted(read_addresses(file).pool) == sorted(URLS)
            await asyncio.to_thread(entered.wait, 60)

    write_addresses(file, Addresses(engine=("http://10.0.0.8:8000",)))
    with ThreadPoolExecutor(len(URLS)) as threads:
        list(threads.map(lambda url: asyncio.run(serve(url)), URLS))
    assert read_addresses(file) == Addresses(engine=("http://10.0.0.8:8000",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"ws://10.0.0.7:7321\n", "is no address file, as"),
        (b'["ws://a:1"]', "is no address file"),
        (b'{"pools": []}', "unknown field `pools`"),
        (b'{"pool": [7]}', "Expected `str`"),
        (b'{"pool": ["\xff"]}', "is no address file"),
        (b" " * (MAX_BYTES + 1), "is larger than"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_addresses(file)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602, 0o620])
def test_a_file_that_others_may_write_is_refused(mode: int, tmp_path: Path) -> None:
    """They could name a server of theirs, which clients would tell the token."""
    file = tmp_path / "addresses.json"
    write_addresses(file, Addresses(pool=(URLS[0],)))
    assert read_addresses(file).pool == (URLS[0],)
    file.chmod(mode)
    said = rf"can write the address file {file} \(owner {os.geteuid()}, mode {mode:o}\): chmod go-w {file}"
    with pytest.raises(ConfigError, match=said):
        read_addresses(file)


def test_a_file_of_another_user_is_refused_and_one_of_root_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "addresses.json"
    write_addresses(file, Addresses(pool=(URLS[0],)))
    owner = file.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:
        assert read_addresses(file).pool == (URLS[0],)
        os.chown(file, 4321, -1)
        owner = 4321
    with pytest.raises(ConfigError, match=rf"{file} belongs to the user {owner}, and this process is of the user"):
        read_addresses(file)


@pytest.mark.parametrize("url", ["http://me:secret@10.0.0.8:8000", "ws://10.0.0.7:7321?token=secret", "me@10.0.0.8"])
@pytest.mark.parametrize("role", ["pool", "engine"])
def test_a_key_in_an_address_is_refused_and_not_shown(role: str, url: str, tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    write_addresses(file, Addresses(**{role: (url,)}))
    with pytest.raises(ConfigError, match=r"would record: remove it, and name the servers' secrets by") as caught:
        read_addresses(file)
    assert "secret@" not in str(caught.value)
    assert "token=secret" not in str(caught.value)


async def test_a_server_removes_its_own_address_beside_one_that_no_run_would_use(tmp_path: Path) -> None:
    file, unused = tmp_path / "addresses.json", "ws://me:secret@10.0.0.8:8000"
    async with registered(file, "pool", URLS[0]):
        write_addresses(file, Addresses(pool=(URLS[0], unused)))
    assert json.loads(file.read_bytes()) == {"pool": [unused]}


async def test_a_lock_that_somebody_keeps_is_an_error_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "LOCK_S", 0.05)
    file = tmp_path / "addresses.json"
    with (tmp_path / "addresses.json.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(StoreError, match=r"another process has held .*addresses.json.lock"):
            async with registered(file, "pool", URLS[0]):
                pass
    async with registered(file, "pool", URLS[0]):
        assert read_addresses(file).pool == (URLS[0],)
    (tmp_path / "addresses.json.lock").unlink()
    os.mkfifo(tmp_path / "addresses.json.lock")
    with pytest.raises(StoreError, match="No such device"):
        async with registered(file, "pool", URLS[0]):
            pass


async def test_a_server_that_waits_for_the_lock_serves_meanwhile_and_can_be_stopped(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    with (tmp_path / "addresses.json.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        entering = asyncio.create_task(registered(file, "pool", URLS[0]).__aenter__())
        await asyncio.sleep(0)
        assert not entering.done()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
    assert not file.exists()


def test_a_watched_file_that_breaks_keeps_the_servers_that_it_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def check(url: str) -> None:
        if not url.startswith("ws"):
            raise ConfigError(f"{url} is not the address of a pool server")

    file = tmp_path / "addresses.json"
    write_addresses(file, Addresses(pool=(URLS[0],)))
    watched = Watched(file, check)
    assert (watched.pool, watched.look()) == ((URLS[0],), None)
    for broken in (b"{", b'{"pool": ["http://a:1"]}', None):
        file.unlink() if broken is None else file.write_bytes(broken)
        assert (watched.look(), watched.look(), watched.pool) == (None, None, (URLS[0],))
    assert len(caplog.records) == 3
    write_addresses(file, Addresses(pool=(URLS[1] + "/", URLS[1], URLS[0])))
    assert (watched.look(), watched.look()) == ((URLS[1], URLS[0]), None)


def test_an_address_file_sets_where_the_servers_of_a_run_are(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    write_addresses(file, Addresses(pool=(URLS[0],), engine=("http://10.0.0.8:8000",)))
    config = with_addresses(load_config(None, ["engine.kind=vllm", 'repl.servers=["ws://a:1"]']), file)
    assert (config.repl.addresses, config.repl.servers) == (str(file), ())
    assert config.engine.urls == ("http://10.0.0.8:8000",)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r'engine\.kind = "local" uses none: set engine.kind to "vllm"'):
        with_addresses(load_config(None), file)
    write_addresses(file, Addresses(engine=("http://10.0.0.8:8000",)))
    assert with_addresses(load_config(None, ["engine.kind=vllm"]), file).repl.addresses == ""
