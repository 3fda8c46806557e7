"""A saved episode as a notebook: valid whatever is in it, and nothing of it passes for something else."""

import contextlib
import io
import json
import re
from typing import Any

import nbformat
import pytest
from builders import make_cell, make_saved
from hypothesis import given, settings
from saved_strategies import saved_episodes

from lzero.agent.notebook import prose, to_notebook
from lzero.store import SavedEpisode
from lzero.types import Display, Error, Notepad, Result, Stream, Todo, ToolCall


def notebook(saved: SavedEpisode) -> Any:
    return json.loads(to_notebook(saved))


def cells(saved: SavedEpisode) -> dict[str, Any]:
    return {cell["id"]: cell for cell in notebook(saved)["cells"]}


def preamble(saved: SavedEpisode) -> dict[str, Any]:
    """Return the names that the preamble defines, run as in Jupyter."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cells(saved)["preamble"]["source"], "<preamble>", "exec"), names)  # noqa: S102
    return names


@given(saved=saved_episodes())
@settings(deadline=None)
def test_every_episode_makes_a_valid_notebook(saved: SavedEpisode) -> None:
    made = to_notebook(saved)
    read = nbformat.reads(made.decode(), as_version=4)
    nbformat.validate(read)
    assert nbformat.reads(nbformat.writes(read), as_version=4) == read
    for cell in read.cells:
        if cell.cell_type == "markdown":
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", cell.source)
            assert not re.search(
                r"<(?!/?(?:details|summary|ol|li|code|pre|br)\b)[A-Za-z/!?]", cell.source.replace("<details open>", "")
            )
            assert "![" not in re.sub(r"<(?:li|pre)>.*", "", cell.source)


@given(saved=saved_episodes())
@settings(deadline=None, max_examples=25)
def test_every_preamble_runs(saved: SavedEpisode) -> None:
    preamble(saved)


def test_cells_stand_in_the_order_of_the_episode() -> None:
    call = ToolCall(name="search", arguments={"query": "Liri"}, duration_s=0.0, result="rival Kato")
    noted = Notepad(todos=(Todo(text="look", status="done"),), facts=("a < b",))
    saved = make_saved(
        make_cell(
            "print(search('Liri'))", Stream(name="stdout", text="rival Kato\n"), tool_calls=(call,), notepad=noted
        ),
        make_cell(None, think="Nothing to run.", notepad=noted),
        make_cell("submit_final_answer('Kato')", notepad=noted),
        answer="**Kato**, see <b>Liri</b>",
    )
    made = notebook(saved)
    assert [cell["id"] for cell in made["cells"]] == [
        "title",
        "preamble",
        "step-1",
        "step-1-code",
        "step-1-after",
        "step-2",
        "step-2-after",
        "step-3",
        "step-3-code",
        "answer",
    ]
    assert (made["nbformat"], made["nbformat_minor"], made["metadata"]["kernelspec"]["name"]) == (4, 5, "python3")
    by_id = {cell["id"]: cell for cell in made["cells"]}
    assert by_id["title"]["source"].startswith("# Who is the rival of Liri?\n\n*scripted · finished after 3 steps")
    assert by_id["preamble"]["metadata"]["lzero"]["preamble"] is True
    assert by_id["step-1"]["source"] == "**Step 1**\n\nA thought of some length."
    assert by_id["step-1-code"]["source"] == "print(search('Liri'))"
    assert by_id["step-1-code"]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "rival Kato\n"}]
    assert "rival Kato" in by_id["step-1-after"]["source"]
    assert "[x] 1. look<br>facts:<br>1. a &lt; b" in by_id["step-1-after"]["source"]
    assert "nothing ran" in by_id["step-2-after"]["source"]
    assert by_id["answer"]["source"] == "## Answer\n\n**Kato**, see &lt;b>Liri&lt;/b>"
    assert [by_id[f"step-{number}-code"]["execution_count"] for number in (1, 3)] == [1, 2]


def test_outputs_are_in_the_shape_of_nbformat() -> None:
    saved = make_saved(
        make_cell(
            "x",
            Display(data={"image/png": "AAAA", "text/plain": "<Figure>"}),
            Result(data={"application/json": '{"a": [1]}', "text/html": "<b>1</b>"}),
            Error(ename="ValueError", evalue="no", traceback=("one", "two")),
            status="error",
        )
    )
    cell = cells(saved)["step-1-code"]
    assert cell["outputs"] == [
        {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "<Figure>"}, "metadata": {}},
        {
            "output_type": "execute_result",
            "data": {"application/json": {"a": [1]}, "text/html": "<b>1</b>"},
            "metadata": {},
            "execution_count": 1,
        },
        {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["one", "two"]},
    ]
    assert cell["metadata"]["tags"] == ["raises-exception"]


def test_what_killed_its_session_or_never_ended_is_not_run_by_whoever_runs_the_notebook() -> None:
    made = cells(
        make_saved(
            make_cell("1"),
            make_cell("while True: pass", status="timed_out"),
            make_cell("a", status="killed"),
            make_cell("2"),
        )
    )
    tags = [made[f"step-{number}-code"]["metadata"].get("tags") for number in (1, 2, 3, 4)]
    assert tags == [None, ["skip-execution"], ["skip-execution"], ["raises-exception"]]
    assert [made[f"step-{number}-code"]["execution_count"] for number in (1, 2, 3, 4)] == [1, 2, 3, 1]
    assert "The session was killed" in made["step-3-after"]["source"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("if a < b and c<5: **bold**", "if a < b and c<5: **bold**"),
        ("<script>x</script> <!-- --> <?x?>", "&lt;script>x&lt;/script> &lt;!-- --> &lt;?x?>"),
        ("&lt;b&gt; & &#60;", "&amp;lt;b&amp;gt; & &amp;#60;"),
        ("![a](http://127.0.0.1)", "!\\[a](http://127.0.0.1)"),
        ("\x1b[2Ja\x00b\x9b", "ab"),
    ],
)
def test_a_strangers_markdown_holds_no_html_and_loads_nothing(text: str, shown: str) -> None:
    assert prose(text) == shown


def test_tools_of_the_preamble_answer_as_they_did() -> None:
    calls = (
        ToolCall(name="search", arguments={"query": "a", "limit": 2}, duration_s=0.0, result=["one"]),
        ToolCall(name="search", arguments={"query": "a", "limit": 2}, duration_s=0.0, result=["two"]),
        ToolCall(name="search", arguments={}, duration_s=0.0, error="search takes one text", fault="agent"),
        ToolCall(name="submit_final_answer", arguments={"answer": "Kato"}, duration_s=0.0, result="submitted"),
    )
    names = preamble(make_saved(make_cell("…", tool_calls=calls)))
    search = names["search"]
    search("a", 2).append("changed by a cell")
    assert [search("a", limit=2), search(limit=2, query="a")] == [["two"], ["two"]]
    for arguments in ((), ("never asked",)):
        with pytest.raises(
            names["ToolError"], match="takes one text" if not arguments else "when the run was recorded"
        ):
            search(*arguments)
    assert names["submit_final_answer"]("Kato") == "submitted"
    assert "notepad" not in names


def test_the_preamble_has_a_notepad_where_the_run_had_one() -> None:
    notepad = preamble(make_saved(make_cell("…", notepad=Notepad(draft="a"))))["notepad"]
    notepad.add_facts("Liri's rival is Kato")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print(notepad)
    assert out.getvalue() == "1. fact: Liri's rival is Kato\n"
