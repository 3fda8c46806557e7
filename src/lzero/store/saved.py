"""Save an agent's episode to `episode.jsonl`: two lines of typed JSON, which are validated when they are read.

    line 1   the header: format and its version, task, model, configuration, tools
    line 2   the Episode

`lzero run` and `NBAgent` write it; a training run stores its many episodes in tables.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct, structs

from lzero import __version__
from lzero.errors import StoreError
from lzero.json_bounds import has_too_many
from lzero.paths import read_bounded
from lzero.protocols import ToolStub
from lzero.store.writing import as_store_error, write_whole
from lzero.types import Episode, Json, Task

EPISODE_FILE: Final = "episode.jsonl"
MAX_BYTES: Final = 1 << 30
"""Bytes of the largest file that is read: hundreds of steps with outputs of the maximum size."""
MAX_VALUES: Final = 10_000_000
"""The most values of a saved episode, some gigabytes in memory. One of a hundred steps has hundreds of thousands, most of them tokens."""
VERSION: Final = 2
"""Version of the format. It increases with every change of a saved episode, the fields of `Episode` included."""


class _Kind(Struct, frozen=True, kw_only=True):
    """The fields of the first line that every version has."""

    format: Literal["lzero-episode"]
    version: int
    lzero: str = "an unknown version"


class _Header(_Kind, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Literal["lzero-episode"] = "lzero-episode"
    version: int = VERSION
    task: Task
    model: str
    """The model's name, for people."""
    config: dict[str, Json] = {}
    """`Config.model_dump(mode="json")`, or some sections of it."""
    tools: tuple[ToolStub, ...] = ()
    """The agent's tools, without its built-in ones (`submit_final_answer`, `notepad`)."""
    lzero: str = __version__
    """The version of lzero that saved it."""


class SavedEpisode(_Header, frozen=True, kw_only=True):
    """An episode with its task, model, configuration and tools.

    SavedEpisode(task=Task(…), episode=Episode(…), model="gpt-5", config={"agent": {"max_steps": 12, …}, "repl": {…}})
    """

    episode: Episode


def write_saved(directory: Path, saved: SavedEpisode) -> Path:
    """Write `episode.jsonl` into `directory`, which is made if missing, and return its path. Raises StoreError.

    Replaces an existing file completely or not at all.
    """
    header = structs.asdict(saved)
    episode = header.pop("episode")
    file = directory / EPISODE_FILE
    with as_store_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_whole(file, b"".join(msgspec.json.encode(line) + b"\n" for line in (header, episode)))
    return file


def read_saved(path: Path) -> SavedEpisode:
    """Read the saved episode in a directory, or in a file of any name.

    Raises StoreError if there is none, or if the file has another format or version, too many values, is truncated or was changed.
    """
    file = path / EPISODE_FILE if path.is_dir() else path
    if path.is_dir() and file.is_symlink():
        raise StoreError(f"{file} is a symbolic link, which is not followed: put the file itself there, or name it")
    try:
        lines = read_bounded(file, max_bytes=MAX_BYTES).split(b"\n")
    except OSError as error:
        raise StoreError(f"there is no saved episode at {file}: {error.strerror}") from None
    if any(has_too_many(line, MAX_VALUES) for line in lines):
        raise StoreError(
            f"{file} has more than {MAX_VALUES:,} values, and no episode has so many: it was not saved by lzero"
        )
    _check_kind(file, lines[0])
    if len(lines) < 3:
        raise StoreError(f"{file} is truncated: it ends in line {len(lines)}, and an episode has two complete lines")
    if len(lines) > 3 or lines[2]:
        raise StoreError(f"{file} has a third line, and an episode has two: remove it")
    try:
        header = msgspec.json.decode(lines[0], type=_Header)
        episode = msgspec.json.decode(lines[1], type=Episode)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{file} has no readable episode; it was truncated or changed: {error}") from None
    return SavedEpisode(episode=episode, **structs.asdict(header))


def _check_kind(file: Path, line: bytes) -> None:
    try:
        kind = msgspec.json.decode(line, type=_Kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise StoreError(
            f"{file} is not a saved episode: its first line is not the header that `lzero run` writes to {EPISODE_FILE}"
        ) from None
    if kind.version > VERSION:
        raise StoreError(
            f"{file} was saved by lzero {kind.lzero}, in version {kind.version} of the format; this is lzero {__version__}, which "
            f"reads version {VERSION}: update it"
        )
    if kind.version < VERSION:
        raise StoreError(
            f"{file} is in version {kind.version} of the format, which lzero {__version__} no longer reads: use lzero "
            f"{kind.lzero}"
        )
