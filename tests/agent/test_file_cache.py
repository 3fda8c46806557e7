"""Files of tasks are read once, within bounds, and stay the same for a run."""

import os
from pathlib import Path

import pytest

from lzero.agent.file_cache import FileCache
from lzero.errors import DataError


async def test_a_file_is_read_once_while_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    whole = FileCache.read_now

    def counted(self: FileCache, path: Path) -> bytes:
        reads.append(path)
        return whole(self, path)

    monkeypatch.setattr(FileCache, "read_now", counted)
    small, other, large = (tmp_path / name for name in "abc")
    small.write_bytes(b"1" * 10)
    other.write_bytes(b"2" * 10)
    large.write_bytes(b"3" * 30)
    cache = FileCache(max_bytes=25)
    for path in (small, small, large, large, other, small, other):
        assert await cache.read(path) == path.read_bytes()
    assert reads == [small, large, large, other]


async def test_a_file_that_changed_is_not_given_to_a_later_episode(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"one")
    cache = FileCache(max_bytes=1)
    await cache.read(file)
    assert await cache.read(file) == b"one"
    file.write_bytes(b"two")
    with pytest.raises(DataError, match="has changed since an episode of this run got it"):
        await cache.read(file)


async def test_what_cannot_be_read_within_bounds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 9)
    os.mkfifo(tmp_path / "pipe")
    cache = FileCache(max_file_bytes=8)
    for name, message in {
        "large": "it is larger than 8 bytes",
        "pipe": "it is not a regular file",
        "none": "there is no such file",
        ".": "it is a directory, not a file",
    }.items():
        with pytest.raises(DataError, match=f"cannot give .* to the agent: {message}"):
            await cache.read(tmp_path / name)
