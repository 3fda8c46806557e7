"""Check the configuration of a `RemotePool` before it connects to any server, and read the token that servers and clients share."""

import os
import secrets
import ssl
import stat
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from lzero.config import ReplConfig
from lzero.errors import ConfigError
from lzero.launch.addresses import Watched
from lzero.paths import file_problem
from lzero.repl.keys import REMOTE, check_acting
from lzero.repl.remote.pool import RemotePool

VARIABLE = "LZERO_POOL_TOKEN"
MIN_CHARS = 16


def remote_pool(config: ReplConfig, *, session_s: float = 0.0) -> RemotePool:
    """Return the pool that the configuration asks for. `session_s`: as for `RemotePool`.

    Raises ConfigError for an invalid address, a missing token, or a key without effect.
    """
    check_acting(config, REMOTE, "REPLs live on pool servers, where `lzero pool serve repl.{key}=…` sets it")
    if config.servers and config.addresses:
        raise ConfigError("repl.servers and repl.addresses both name pool servers: set one of them")
    key = "repl.servers" if config.servers else "repl.addresses"
    watched = None if config.servers else Watched(Path(config.addresses), partial(check_url, key=key))
    for url in config.servers:
        check_url(url, key=key)
    urls = tuple(url.rstrip("/") for url in config.servers) if watched is None else watched.pool
    if len(set(urls)) != len(urls):
        raise ConfigError(f"repl.servers names one server twice: {', '.join(config.servers)}")
    token = read_token(config.token_file, option="repl.token_file")
    if not token:
        raise ConfigError(f"{key} needs the servers' token: set {VARIABLE}, or repl.token_file to a file that holds it")
    tls = _tls(config, secure=watched is not None or any(url.startswith("wss:") for url in urls))
    return RemotePool(urls, token=token, tls=tls, session_s=session_s, watch=watched.look if watched else None)


def check_url(url: str, *, key: str) -> None:
    """Raise ConfigError for what is no address of a pool server; `key` names the setting in the message."""
    try:
        parts = urlsplit(url)
        good = url.startswith(("ws://", "wss://")) and parts.hostname and parts.port and parts.path in ("", "/")
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        (parts.hostname or "").encode("idna")
    except ValueError:  # UnicodeError is one
        good = plain = False
    if not (good and plain):
        raise ConfigError(
            f'{key}: {url!r} is not the address of a pool server, as in "ws://127.0.0.1:7321" or "wss://host:7321"'
        )


def _tls(config: ReplConfig, *, secure: bool) -> ssl.SSLContext | None:
    authority = config.certificate_authority
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


def new_token() -> str:
    return secrets.token_urlsafe(32)


def read_token(file: str, *, option: str) -> str:
    """Read the token from `file`, or from the environment if `file` is "". Return "" if neither is set. `option` names the file's setting.

    It is never a configuration value, because every run saves these.

    Raises ConfigError if others may read the file, or the token is invalid.
    """
    if not file:
        return _checked(os.environ.get(VARIABLE, ""), VARIABLE)
    path = Path(file).expanduser()
    if path.is_dir():
        raise ConfigError(f"{option}: cannot read the token in {path}: {file_problem(path)}")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_IROTH:
            raise ConfigError(f"{option}: other users can read the token in {path} (mode {mode:o}): chmod 600 {path}")
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{option}: cannot read the token in {path}: {reason}") from None
    if not text:
        raise ConfigError(f"{option}: {path} is empty")
    return _checked(text, f"{option}: {path}")


def _checked(token: str, place: str) -> str:
    """Return the token. Raises ConfigError if it is invalid; the message does not contain it, because messages end up in logs."""
    if token and (len(token) < MIN_CHARS or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(
            f"{place}: a token is {MIN_CHARS} or more printable ASCII characters without spaces, on one line"
        )
    return token
