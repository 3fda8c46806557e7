"""Build a `RemotePool` from its configuration, and check that before connecting to any server."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from lzero.config import ReplConfig
from lzero.errors import ConfigError
from lzero.paths import file_problem
from lzero.repl.keys import REMOTE, check_acting
from lzero.repl.remote.pool import RemotePool
from lzero.repl.remote.token import VARIABLE, read_token


def remote_pool(config: ReplConfig, *, session_s: float = 0.0) -> RemotePool:
    """Return the pool that the configuration asks for. `session_s`: as for `RemotePool`.

    Raises ConfigError for an invalid address, a missing token, or a key without effect.
    """
    check_acting(config, REMOTE, "REPLs live on repl.servers, where `lzero pool serve repl.{key}=…` sets it")
    for url in config.servers:
        _check(url)
    urls = tuple(url.rstrip("/") for url in config.servers)
    if len(set(urls)) != len(urls):
        raise ConfigError(f"repl.servers names one server twice: {', '.join(config.servers)}")
    token = read_token(config.token_file, option="repl.token_file")
    if not token:
        raise ConfigError(f"repl.servers needs their token: set {VARIABLE}, or repl.token_file to a file that holds it")
    return RemotePool(urls, token=token, tls=_tls(config), session_s=session_s)


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = url.startswith(("ws://", "wss://")) and parts.hostname and parts.port and parts.path in ("", "/")
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError is one
        good = plain = False
    if not (good and plain):
        raise ConfigError(
            f'repl.servers: {url!r} is not the address of a pool server, as in "ws://127.0.0.1:7321" or "wss://host:7321"'
        )


def _tls(config: ReplConfig) -> ssl.SSLContext | None:
    authority = config.certificate_authority
    secure = any(url.startswith("wss:") for url in config.servers)
    if authority and not secure:
        raise ConfigError("repl.certificate_authority has no effect: no address in repl.servers begins with wss://")
    if not secure:
        return None
    if authority and (problem := file_problem(Path(authority))):
        raise ConfigError(f"repl.certificate_authority: cannot use {authority}: {problem}")
    try:
        return ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"repl.certificate_authority: cannot use {authority}: {error}") from None
