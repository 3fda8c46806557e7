"""A directory in place of a file, or a file in place of a directory, is an error that says so."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lzero.agent.prompt import system_prompt
from lzero.config import ReplConfig, load_config, make_config
from lzero.errors import LzeroError
from lzero.paths import file_problem
from lzero.repl.environment import find
from lzero.repl.remote.settings import remote_pool
from lzero.store import RunDirectory, check_new
from lzero.tools.cache import Cached
from lzero.tools.keys import read_env_file
from lzero.tools.search import PassageIndex, Search

SECURE = ReplConfig(servers=("wss://127.0.0.1:7",))


def prompt(value: str) -> object:
    return system_prompt(make_config({"agent": {"prompt": value}}).agent, ())


def run_dir(value: str) -> None:
    check_new(make_config({"run": {"dir": value}}))


def token(value: str) -> object:
    return remote_pool(SECURE.model_copy(update={"token_file": value}))


def certificate(value: str) -> object:
    return remote_pool(SECURE.model_copy(update={"certificate_authority": value}))


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (
            prompt,
            'agent.prompt = \'{}\': neither "brief" nor "full" nor a readable file (it is a directory, not a file)',
        ),
        (token, "repl.token_file: cannot read the token in {}: it is a directory, not a file"),
        (certificate, "repl.certificate_authority: cannot use {}: it is a directory, not a file"),
        (lambda value: read_env_file(Path(value)), "cannot read the keys in {}: it is a directory, not a file"),
        (lambda value: load_config(Path(value)), "cannot read the configuration {}: it is a directory, not a file"),
    ],
    ids=["prompt", "token", "certificate", "keys", "configuration"],
)
def test_a_directory_is_not_a_file(
    use: Callable[[str], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LZERO_POOL_TOKEN", "0123456789abcdef")
    with pytest.raises(LzeroError) as caught:
        use(str(tmp_path))
    assert str(caught.value) == told.format(tmp_path)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (run_dir, "run.dir = {} is a file: name a new directory"),
        (lambda value: RunDirectory.open(Path(value)), "{} is a file: name the directory of a run"),
        (lambda value: find(ReplConfig(environment=value)), "repl.environment = {} is a file: name a directory"),
        (
            lambda value: Cached(Search(PassageIndex(())), Path(value) / "answers.sqlite", version=""),
            "cannot write the cache of tool answers: tools.cache = {} is not a directory",
        ),
    ],
    ids=["run.dir", "resume", "environment", "cache"],
)
def test_a_file_is_not_a_directory(use: Callable[[str], object], told: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(LzeroError) as caught:
        use(str(file))
    assert str(caught.value) == told.format(file)


def test_each_reason_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, problem in {
        "file": "",
        ".": "it is a directory, not a file",
        "pipe": "it is not a regular file",
        "none": "there is no such file",
        "file/inside": "part of its path is a file, not a directory",
        "a\0b": "there is no such file",
    }.items():
        assert file_problem(tmp_path / name) == problem
