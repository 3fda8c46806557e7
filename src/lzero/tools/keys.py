"""Find keys of services in the environment, or in a `.env` file. They stay on the host, and out of all messages and records."""

import os
import re
from pathlib import Path

from lzero.errors import ConfigError
from lzero.paths import read_bounded

DEFAULT_FILE = ".env"
"""File in the working directory that is read if it exists."""
MAX_BYTES = 1 << 20
"""Bytes of the largest file of keys."""
_LINE = re.compile(
    r"""\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
    (?: "(?P<double>[^"]*)"\s*(?:\#.*)? | '(?P<single>[^']*)'\s*(?:\#.*)? | (?P<bare>[^"'#\s](?:.*?))?(?:(?:^|\s+)\#.*)?\s* )""",
    re.VERBOSE,
)


class Secret:
    """A key that is shown only by `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written down")


def find_key(variable: str, *, env_file: str = "") -> Secret | None:
    """Return the key in the environment variable `variable`, or else in `env_file` ("": `.env`, if it exists); None if there is none.

    Raises ConfigError for a file that cannot be read, and for a key that no header could carry.
    """
    value = os.environ.get(variable, "").strip() or _of_file(env_file).get(variable, "").strip()
    if not value:
        return None
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ConfigError(
            f"{variable} contains characters that a key cannot have (spaces, line breaks, non-ASCII letters)"
        )
    return Secret(value)


def need_key(variable: str, *, purpose: str, env_file: str = "") -> Secret:
    """Return the key that `find_key` finds. Raises ConfigError, which names the variable and the key's `purpose`, if there is none."""
    key = find_key(variable, env_file=env_file)
    if key is None:
        raise ConfigError(f"{purpose} needs a key: set {variable} in the environment, or in {env_file or DEFAULT_FILE}")
    return key


def find_variable(name: str, *, env_file: str = "") -> str | None:
    """Return a value from the environment or `env_file`, in any form, because a program's variable need not fit into a header.

    Raises ConfigError for a file that cannot be read.
    """
    return os.environ.get(name) or _of_file(env_file).get(name) or None


def read_env_file(file: Path) -> dict[str, str]:
    """Return the variables of a file of NAME=value lines, with `export`, quotes and comments; nothing in them is expanded.

    Raises ConfigError that names the line, but does not show it.
    """
    try:
        text = read_bounded(file, max_bytes=MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read the keys in {file}: {reason}") from None
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ConfigError(f"{file}, line {number}: write NAME=value, with the value in quotes or without")
        variables[found["name"]] = found["double"] or found["single"] or found["bare"] or ""
    return variables


def _of_file(env_file: str) -> dict[str, str]:
    if env_file:
        return read_env_file(Path(env_file))
    default = Path(DEFAULT_FILE)
    return read_env_file(default) if default.is_file() else {}
