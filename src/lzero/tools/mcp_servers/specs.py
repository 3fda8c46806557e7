"""Read which MCP servers to use: one from a line of text, or several from a file in the format of other programs.

    stdio:npx -y @modelcontextprotocol/server-filesystem /data
    stdio:TOKEN=${GITHUB_TOKEN} github-mcp-server stdio      words NAME=VALUE before the command are its environment, as in a shell
    https://example.org/mcp GITHUB_TOKEN                     the environment variable holds the bearer token
    servers.json, servers.toml                               {"mcpServers": {NAME: {"command": …, "args": […], "env": {…}}
                                                                            NAME: {"url": …, "headers": {…}}}}

`${NAME}` in the value of a variable or a header stands for a variable of the environment, or of `.env`. It is filled in when the server
starts: a `McpSpec` holds no secret, and may be shown and recorded.
"""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from lzero.bounded_toml import parse_toml
from lzero.errors import ConfigError
from lzero.paths import read_bounded

Lookup = Callable[[str], str | None]
"""Returns the value of a variable; None if there is none: `os.environ.get`."""

STDIO = "stdio:"
MAX_BYTES = 1 << 20
"""Bytes of the largest file of servers."""
_RUNNERS = frozenset(("npx", "uvx", "uv", "bunx", "docker", "podman", "python", "python3", "node", "env"))
"""Programs that start others; a server is not named after them."""
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class McpSpec:
    """One server: a `command` to start, or a `url` to connect to."""

    name: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the command, in addition to PATH, HOME and LANG."""
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ConfigError(f"the MCP server {self.name!r} needs either a command or a url")
        if self.command and self.headers:
            raise ConfigError(f"the MCP server {self.name!r} is a command, which takes no headers")
        if self.url and self.environment:
            raise ConfigError(f"the MCP server {self.name!r} is a url, which takes no environment")


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A server in a file."""

    type: Literal["stdio", "http", "streamable-http"] = "stdio"
    command: str = ""
    args: list[str] = []
    env: dict[str, str] = {}
    url: str = ""
    headers: dict[str, str] = {}


@dataclass(frozen=True)
class Filled:
    """The environment or the headers of a server, with the secrets filled in."""

    values: dict[str, str] = field(repr=False)
    _secrets: dict[str, str] = field(repr=False)

    def hide(self, text: str) -> str:
        """Return `text` with the values of secrets replaced by their names."""
        for value, name in sorted(self._secrets.items(), key=lambda secret: -len(secret[0])):  # one may begin another
            text = text.replace(value, f"${{{name}}}")
        return text


def fill(spec: McpSpec, lookup: Lookup) -> Filled:
    """Return a server's entry with its variables replaced by values from `lookup`. Raises ConfigError that names one that is not set."""
    secrets: dict[str, str] = {}

    def value_of(match: re.Match[str]) -> str:
        value = lookup(match[1])
        if not value:
            raise ConfigError(
                f"the MCP server {spec.name!r} needs the variable {match[1]}, which is not set in the environment or in .env"
            )
        if spec.headers and not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"the MCP server {spec.name!r} takes {match[1]}, which contains characters that a header cannot hold"
            )
        if len(value) >= 6:  # shorter values also occur in ordinary words
            secrets[value] = match[1]
        return value

    wanted = spec.headers or spec.environment
    return Filled({name: _REFERENCE.sub(value_of, value) for name, value in wanted.items()}, secrets)


def read_specs(text: str) -> tuple[McpSpec, ...]:
    """Return the server, or the servers, that `text` names. Raises ConfigError."""
    if text.startswith(STDIO):
        return (_of_command(text),)
    if text.startswith(("http://", "https://")):
        return (_of_url(text),)
    if text.endswith((".json", ".toml")):
        return _of_file(Path(text).expanduser())
    raise ConfigError(
        f'{text!r} is not an MCP server: write "stdio:COMMAND ARGUMENT …", a URL, or a .json or .toml file with "mcpServers"'
    )


def _of_command(text: str) -> McpSpec:
    try:
        words = shlex.split(text.removeprefix(STDIO))
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a valid command: {error}") from None
    environment = {}
    while words and (match := _ASSIGNMENT.fullmatch(words[0])):
        environment[match[1]] = match[2]
        words.pop(0)
    if not words:
        raise ConfigError(f"{text!r} has no command")
    named = [word for word in words if not word.startswith("-") and Path(word).name not in _RUNNERS]
    name = Path((named or words)[0]).stem
    return McpSpec(name=name, command=tuple(words), environment=environment)


def _of_url(text: str) -> McpSpec:
    url, *variables = text.split()
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or len(variables) > 1 or not all(map(_VARIABLE.fullmatch, variables)):
        raise ConfigError(
            f'{text!r} is not an MCP server: write "https://host/path", or "https://host/path VARIABLE" for a bearer token'
        )
    headers = {"Authorization": f"Bearer ${{{variables[0]}}}"} if variables else {}
    return McpSpec(name=host.removeprefix("www.").partition(".")[0], url=url, headers=headers)


def _of_file(file: Path) -> tuple[McpSpec, ...]:
    try:
        text = read_bounded(file, max_bytes=MAX_BYTES).decode()
        loaded = json.loads(text) if file.suffix == ".json" else parse_toml(text)
    except OSError as error:
        raise ConfigError(f"cannot read the MCP servers in {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid {file.suffix[1:].upper()}: {error}") from None
    servers = loaded.get("mcpServers") if isinstance(loaded, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise ConfigError(f'{file} has no servers under "mcpServers"')
    return tuple(_of_entry(name, entry, file) for name, entry in servers.items())


def _of_entry(name: str, entry: Any, file: Path) -> McpSpec:
    try:
        found = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the MCP server {name!r} in {file}: {error}") from None
    words = (found.command, *found.args) if found.command else ()
    return McpSpec(name=name, command=words, environment=found.env, url=found.url, headers=found.headers)
