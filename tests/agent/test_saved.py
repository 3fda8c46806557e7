"""An agent's run on disk: what is written is read again, and what is something else is refused in a sentence."""

from pathlib import Path

import msgspec
import pytest
from builders import make_cell, make_saved
from hypothesis import given, settings
from saved_strategies import saved_episodes

from lzero.agent.recorded import has_notepad, tools_of
from lzero.agent.save import save_run
from lzero.agent.setting import Ticket, episode_of
from lzero.config import AgentConfig
from lzero.errors import StoreError
from lzero.protocols import ToolStub
from lzero.store import SavedEpisode, new_directory, read_saved, write_beneath, write_saved
from lzero.types import Failure, Notepad, Sampling, Stream, ToolCall


@given(saved=saved_episodes())
@settings(deadline=None)
def test_what_is_saved_is_read_again(saved: SavedEpisode, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("run")
    file = write_saved(directory, saved)
    assert read_saved(directory) == saved == read_saved(file)


def lines(directory: Path) -> list[bytes]:
    return (
        write_saved(directory, make_saved(make_cell("1", Stream(name="stdout", text="1\n")))).read_bytes().split(b"\n")
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: b"", "not a saved episode"),
        (lambda lines: b"\x00\xff\n\n", "not a saved episode"),
        (lambda lines: b'{"name": "search", "arguments": {}}\n', "not a saved episode"),
        (lambda lines: b"[" * 100_000, "not a saved episode"),
        (lambda lines: lines[0], "truncated"),
        (lambda lines: lines[0] + b"\n", "truncated"),
        (lambda lines: lines[0] + b"\n" + lines[1], "truncated"),
        (lambda lines: lines[0] + b"\n" + lines[1][:-9] + b"\n", "truncated or changed"),
        (lambda lines: lines[0] + b"\n" + b"[" * 100_000 + b"\n", "truncated or changed"),
        (lambda lines: lines[0] + b"\n" + lines[1].replace(b'"ok"', b'"fine"') + b"\n", "'fine'"),
        (lambda lines: lines[0] + b"\n" + lines[1].replace(b'"finished"', b'"failed"') + b"\n", "status 'failed'"),
        (lambda lines: lines[0] + b"\n" + lines[1] + b"\n" + lines[1], "third line"),
        (lambda lines: lines[0].replace(b'"version":2', b'"version":3') + b"\n", "version 3 .* update it"),
        (lambda lines: lines[0].replace(b'"version":2', b'"version":0') + b"\n", "version 0 .* no longer reads"),
        (lambda lines: lines[0].replace(b'"task":', b'"tusk":') + b"\n" + lines[1] + b"\n", "tusk"),
    ],
)
def test_what_is_no_saved_episode_is_refused(change: object, told: str, tmp_path: Path) -> None:
    assert callable(change)
    (tmp_path / "episode.jsonl").write_bytes(change(lines(tmp_path)))
    with pytest.raises(StoreError, match=told):
        read_saved(tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no saved episode"):
        read_saved(tmp_path)
    with pytest.raises(StoreError, match=r"none\.jsonl: No such file"):
        read_saved(tmp_path / "none.jsonl")


def test_a_directory_holds_the_episode_a_notebook_and_files(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    assert save_run(run, make_saved(), {"plots/a.txt": b"a", "b": b"b"}) == ()
    assert sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()) == [
        "episode.jsonl",
        "files/b",
        "files/plots/a.txt",
        "notebook.ipynb",
    ]
    save_run(run, make_saved(answer="Titu"))
    assert read_saved(run).episode.answer == "Titu"


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        save_run(tmp_path / "file" / "run", make_saved())


def test_files_of_a_workspace_stay_beneath_their_directory(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "link").symlink_to(outside)
    (directory / "there").symlink_to(outside / "there")
    hostile = ("../a", "/a", "b/../../a", "link/a", "", ".", "nul\0", "x" * 300, "good/x", "good")
    left_out = write_beneath(directory, dict.fromkeys((*hostile, "there"), b"a"))
    assert set(left_out) == {*hostile} - {"good/x"}
    assert list(outside.iterdir()) == []
    assert (directory / "there").read_bytes() == (directory / "good/x").read_bytes() == b"a"


def test_every_run_has_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len({new_directory("agent") for _ in range(3)}) == 3


def test_tools_are_found_in_the_calls_where_they_are_not_written_down() -> None:
    calls = (
        ToolCall(name="search", arguments={"query": "a"}, duration_s=0.0),
        ToolCall(name="search", arguments={"query": "a", "limit": 3}, duration_s=0.0),
        ToolCall(name="submit_final_answer", arguments={"answer": "a"}, duration_s=0.0),
    )
    saved = make_saved(make_cell("search('a')", tool_calls=calls))
    assert tools_of(saved) == (ToolStub(name="search", parameters=("query", "limit")),)
    assert not has_notepad(saved)
    assert has_notepad(make_saved(make_cell("1", notepad=Notepad(draft="a"))))
    named = msgspec.structs.replace(
        saved, tools=(ToolStub(name="echo", parameters=("text",)), ToolStub(name="notepad", parameters=("state",)))
    )
    assert [tool.name for tool in tools_of(named)] == ["echo"]


def test_what_is_left_of_an_interrupted_episode_is_an_episode(tmp_path: Path) -> None:
    saved = make_saved(make_cell("1"))
    ticket = Ticket(id="e1", index=0, seed=3, sampling=Sampling(temperature=0.3, top_p=0.9))
    lost = Failure(kind="lost", what="interrupted", where="step 1")
    episode = episode_of(saved.task, ticket, AgentConfig(), steps=saved.episode.steps, answer="Kato", failure=lost)
    save_run(tmp_path, msgspec.structs.replace(saved, episode=episode))
    read = read_saved(tmp_path).episode
    assert (read.status, len(read.steps), read.answer) == ("failed", 1, "Kato")
    assert read.sampling == Sampling(temperature=0.3, top_p=0.9, max_tokens=32, stop=("</code>",), seed=3)
