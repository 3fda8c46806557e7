"""Files beneath a directory, as the jail and the host of a Jupyter kernel walk them."""

import os
from importlib import import_module
from pathlib import Path

import pytest

beneath = import_module("lzero.repl.inside.beneath")


def test_what_is_no_file_is_refused_and_not_held_open(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    before = os.listdir("/proc/self/fd")
    for name, kind in (("directory", IsADirectoryError), ("fifo", OSError), ("missing", FileNotFoundError)):
        with pytest.raises(kind), beneath.opened(str(tmp_path), name):
            pass
    assert os.listdir("/proc/self/fd") == before
