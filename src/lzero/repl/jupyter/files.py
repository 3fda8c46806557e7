"""Read and write files of a plain Jupyter kernel's working directory, on the host. All functions raise OSError."""

import errno
import importlib
from pathlib import Path

from lzero.repl.wire import MAX_LISTED
from lzero.types import WorkspaceFile

# Modules for the jail import nothing of lzero, so the host can import them too.
_beneath = importlib.import_module("lzero.repl.inside.beneath")
_DEEPEST = 64
"""The deepest level of directories that a listing enters; each level takes a descriptor of the host."""


def put(workspace: Path, path: str, data: bytes) -> None:
    with _beneath.written(str(workspace), path) as file:
        file.write(data)


def get(workspace: Path, path: str, max_bytes: int) -> bytes:
    with _beneath.opened(str(workspace), path) as file:
        data: bytes = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, "too large")
    return data


def listing(workspace: Path) -> tuple[WorkspaceFile, ...]:
    files = []
    for path, size in _beneath.regular_files(str(workspace), deepest=_DEEPEST):
        files.append(WorkspaceFile(path=path, size=size))
        if len(files) > MAX_LISTED:
            raise OSError(errno.E2BIG, "more than a listing may hold")
    return tuple(files)
