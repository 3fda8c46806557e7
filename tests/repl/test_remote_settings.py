"""Errors in the configuration of a remote pool are raised before any connection is made."""

from pathlib import Path
from typing import Any

import pytest

from lzero.config import ReplConfig
from lzero.errors import ConfigError
from lzero.repl import LocalPool, open_pool
from lzero.repl.remote.pool import RemotePool
from lzero.repl.remote.settings import new_token, read_token

SERVER = "ws://127.0.0.1:7321"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LZERO_POOL_TOKEN", new_token())


def test_servers_decide_where_repls_are() -> None:
    assert isinstance(open_pool(ReplConfig()), LocalPool)
    assert isinstance(open_pool(ReplConfig(servers=(SERVER, "wss://[::1]:7321/"))), RemotePool)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"servers": (SERVER,), "memory_mb": 4096}, r"repl\.memory_mb has no effect.*lzero pool serve repl\.memory_mb"),
        ({"servers": (SERVER,), "packages": ("scipy",)}, r"repl\.packages has no effect"),
        ({"servers": (SERVER,), "certificate_authority": "x.pem"}, r"certificate_authority has no effect"),
        ({"servers": ("wss://a:1",), "certificate_authority": "/none.pem"}, r"cannot use /none\.pem"),
        ({"servers": (SERVER, SERVER)}, "twice"),
        ({"servers": (SERVER, SERVER + "/")}, "twice"),
        ({"token_file": "token"}, r"repl\.token_file has no effect"),
        ({"certificate_authority": "x.pem"}, r"repl\.certificate_authority has no effect"),
        *(
            ({"servers": (url,)}, "is not the address of a pool server")
            for url in (
                "127.0.0.1:7321",
                "http://127.0.0.1:7321",
                "ws://127.0.0.1",
                "ws://127.0.0.1:port",
                "ws://:7321",
                "ws://user:secret@127.0.0.1:7321",
                "ws://127.0.0.1:7321/path",
                "ws://127.0.0.1:7321?token=x",
                "ws://[::1:7321",
                "WSS://127.0.0.1:7321",
                f"ws://{'a' * 64}:7321",
                "ws://a..b:7321",
            )
        ),
    ],
)
def test_a_key_that_would_not_act_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_pool(ReplConfig(**settings))


def test_servers_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LZERO_POOL_TOKEN")
    with pytest.raises(ConfigError, match=r"set LZERO_POOL_TOKEN, or repl\.token_file"):
        open_pool(ReplConfig(servers=(SERVER,)))


def test_a_token_comes_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file, token = tmp_path / "token", new_token()
    file.touch(mode=0o600)
    file.write_text(token + "\n")
    assert read_token(str(file), option="--token-file") == token
    file.chmod(0o604)
    with pytest.raises(ConfigError, match=r"--token-file: other users can read .*mode 604.*chmod 600"):
        read_token(str(file), option="--token-file")
    file.chmod(0o600)
    for text, message in (("", "is empty"), ("short", "16 or more"), ("two words " * 4, "spaces"), ("é" * 20, "ASCII")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message) as wrong:
            read_token(str(file), option="--token-file")
        assert not text or text not in str(wrong.value)
    with pytest.raises(ConfigError, match="No such file"):
        read_token(str(tmp_path / "none"), option="--token-file")


def test_a_token_is_never_the_same_twice() -> None:
    assert len({new_token() for _ in range(100)}) == 100
