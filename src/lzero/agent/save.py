"""Save one run of an agent as a directory.

episode.jsonl    the episode with its task, model, configuration and tools, typed (`lzero.store.saved`)
notebook.ipynb   the same for people (`lzero.agent.notebook`)
files/           files of the workspace, if requested
given/           copies of the task's files: `lzero replay` gives these to the session, and no other file that a record names
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Final

import msgspec

from lzero.agent.file_cache import FileCache
from lzero.agent.notebook import to_notebook
from lzero.errors import ConfigError, DataError
from lzero.store import SavedEpisode, write_beneath, write_saved
from lzero.store.writing import write_whole

NOTEBOOK_FILE: Final = "notebook.ipynb"
FILES_DIRECTORY: Final = "files"
GIVEN_DIRECTORY: Final = "given"
KEPT_BYTES: Final = 256 << 20
"""Maximum size of the copies of a task's files together."""


def save_run(
    directory: Path,
    saved: SavedEpisode,
    files: Mapping[str, bytes] | None = None,
    *,
    given: FileCache | None = None,
) -> tuple[str, ...]:
    """Write the files, each completely or not at all; a failed or interrupted episode is saved like any other.

    `given`: the cache that read the task's files, for the copies; the record has only their names. Returns the paths of `files` that could
    not be written (the agent chooses names), and of copies that could not be kept. Raises StoreError.
    """
    left_out = _keep_given(directory / GIVEN_DIRECTORY, saved.task.files, given or FileCache())
    names = tuple(PurePath(file).name for file in saved.task.files)
    saved = msgspec.structs.replace(saved, task=msgspec.structs.replace(saved.task, files=names))
    write_saved(directory, saved)
    write_whole(directory / NOTEBOOK_FILE, to_notebook(saved))
    return left_out + (write_beneath(directory / FILES_DIRECTORY, files) if files else ())


def given_files(path: Path, saved: SavedEpisode, named: Sequence[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the files for a replay of the record at `path`, and the names of those that are missing.

    The record is not trusted: the files are those of `named` (by their names), and copies next to the record; links are not followed.
    Raises ConfigError for a `named` file that the task did not have.
    """
    names = [PurePath(file).name for file in saved.task.files]
    for file in named:
        if file.name not in names:
            there = f"it had {', '.join(names)}" if names else "it had none"
            raise ConfigError(f"--file {file} has no effect: the episode had no file of that name; {there}")
    by_name = {file.name: file for file in named}
    directory = (path if path.is_dir() else path.parent) / GIVEN_DIRECTORY
    kept = {name: directory / name for name in names if name and _is_own_file(directory, name)}
    found = kept | by_name
    return tuple(found[name] for name in names if name in found), tuple(name for name in names if name not in found)


def _is_own_file(directory: Path, name: str) -> bool:
    file = directory / name
    return not (directory.is_symlink() or file.is_symlink()) and file.is_file()


def _keep_given(directory: Path, files: Sequence[str], cache: FileCache) -> tuple[str, ...]:
    """Copy the files that fit into KEPT_BYTES. Return the names of the others, and of those that are gone or have changed."""
    copies: dict[str, bytes] = {}
    room = KEPT_BYTES
    for file in filter(Path.is_absolute, map(Path, files)):  # names of a record that was read are no places here
        with suppress(OSError, DataError):
            if file.stat().st_size <= room:
                copies[file.name] = cache.read_now(file)
                room -= len(copies[file.name])
    written = set(copies) - set(write_beneath(directory, copies)) if copies else set()
    return tuple(f"{GIVEN_DIRECTORY}/{name}" for name in (PurePath(file).name for file in files) if name not in written)
