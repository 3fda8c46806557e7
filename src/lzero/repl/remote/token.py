"""Read the bearer token that a pool server and its clients share. It is never a configuration value, because every run saves these."""

import os
import secrets
import stat
from pathlib import Path

from lzero.errors import ConfigError
from lzero.paths import file_problem

VARIABLE = "LZERO_POOL_TOKEN"
MIN_CHARS = 16


def new_token() -> str:
    return secrets.token_urlsafe(32)


def read_token(file: str, *, option: str) -> str:
    """Read the token from `file`, or from the environment if `file` is "". Return "" if neither is set. `option` names the file's setting.

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
