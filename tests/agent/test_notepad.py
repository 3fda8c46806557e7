"""The notepad as an agent uses it, and what it looks like to the model."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lzero.agent.in_session.notepad import Notepad as SessionNotepad
from lzero.agent.notepad import render_notepad
from lzero.types import Notepad, Todo


def notepad() -> tuple[Any, list[dict[str, Any]]]:
    """Return a notepad as in a session, and the states that the host receives."""
    told: list[dict[str, Any]] = []
    return SessionNotepad({"todos": [], "facts": [], "draft": ""}, lambda state: told.append(state)), told


def texts(pad: Any) -> list[str]:
    return [todo["text"] for todo in pad.todos]


@pytest.mark.parametrize(
    "add",
    [
        lambda pad: pad.add_todo("a", "b"),
        lambda pad: pad.add_todo(["a", "b"]),
        lambda pad: pad.add_todo([{"text": "a"}, {"task": "b", "status": "pending"}]),
        lambda pad: pad.add_todos(("a", ["b"])),
        lambda pad: (pad.add_task("a"), pad.todo("b")),
        lambda pad: pad.add_todo(items=["a", "b"]),
        lambda pad: pad.plan("a", "b"),
    ],
)
def test_a_plan_is_written_in_any_way_that_a_model_guesses(add: Callable[[Any], Any]) -> None:
    pad, told = notepad()
    add(pad)
    assert texts(pad) == ["a", "b"]
    assert told[-1]["todos"] == pad.todos
    assert {todo["status"] for todo in pad.todos} == {"open"}


@pytest.mark.parametrize(
    "tick",
    [
        lambda pad: pad.done(2),
        lambda pad: pad.done("2"),
        lambda pad: pad.done("find the rival"),
        lambda pad: pad.done("RIVAL"),
        lambda pad: pad.mark_done([2]),
        lambda pad: pad.complete("rival"),
        lambda pad: pad.update_todo(2, "completed"),
        lambda pad: pad.update_status("rival", "Done"),
        lambda pad: pad.set_status(2, True),
    ],
)
def test_an_item_is_ticked_off_in_any_way_that_a_model_guesses(tick: Callable[[Any], Any]) -> None:
    pad, _ = notepad()
    pad.add_todo("find the founder", "find the rival")
    tick(pad)
    assert [todo["status"] for todo in pad.todos] == ["open", "done"]


def test_items_are_dropped_opened_again_and_renamed() -> None:
    pad, _ = notepad()
    pad.add_todo("a", "b")
    pad.done()
    pad.drop("b")
    assert [todo["status"] for todo in pad.todos] == ["done", "dropped"]
    pad.reopen(1, 2)
    pad.update_todo(1, text="c")
    assert pad.todos == [{"text": "c", "status": "done"}, {"text": "b", "status": "open"}]


def test_facts_and_draft() -> None:
    pad, told = notepad()
    pad.add_facts("x", ["y"])
    pad.add_fact(founder="Titu")
    pad.remember({"rival": "Kato"})
    pad.remove_fact("y")
    pad.write_draft("one")
    pad.append_to_draft("two")
    assert (pad.facts, pad.draft) == (["x", "founder: Titu", "rival: Kato"], "one\ntwo")
    pad.draft = "three"
    assert told[-1]["draft"] == "three"
    assert "three" in pad.read()
    assert str(pad) == repr(pad) == pad.read()
    pad.clear()
    assert pad.read() == "(the notepad is empty)"


@pytest.mark.parametrize(
    ("mistake", "error", "told"),
    [
        (lambda pad: pad.done(5), ValueError, "no item 5: 1. find the founder"),
        (lambda pad: pad.done("moon"), ValueError, "no item 'moon'"),
        (lambda pad: pad.remove_fact(1), ValueError, "no fact 1: there is none yet"),
        (lambda pad: pad.write_drafft("x"), AttributeError, "did you mean notepad.write_draft"),
        (lambda pad: pad.nothing_like_it, AttributeError, "it has todos, facts"),
    ],
)
def test_a_mistake_is_told_with_what_there_is(mistake: Callable[[Any], Any], error: type[Exception], told: str) -> None:
    pad, _ = notepad()
    pad.add_todo("find the founder")
    with pytest.raises(error, match=told):
        mistake(pad)


def test_what_the_host_refuses_is_not_kept() -> None:
    def refuse(state: object) -> None:
        raise RuntimeError("too large")

    pad: Any = SessionNotepad({"todos": [], "facts": [], "draft": ""}, refuse)
    with pytest.raises(RuntimeError, match="too large"):
        pad.add_facts("x")
    assert pad.facts == []


@given(facts=st.lists(st.text(max_size=300), max_size=30), draft=st.text(max_size=3000), max_chars=st.integers(50, 500))
def test_what_is_shown_is_bounded(facts: list[str], draft: str, max_chars: int) -> None:
    text = render_notepad(Notepad(facts=tuple(facts), draft=draft), max_chars=max_chars)
    assert len(text) <= max_chars + len("<notepad>\n\n</notepad>")


def test_what_is_shown_is_the_plan_the_facts_and_the_draft() -> None:
    assert render_notepad(Notepad(), max_chars=100) == ""
    pad = Notepad(todos=(Todo(text="a", status="done"), Todo(text="b")), facts=("f",), draft="d")
    assert render_notepad(pad, max_chars=100) == "<notepad>\n[x] 1. a\n[ ] 2. b\nfacts:\n1. f\ndraft:\nd\n</notepad>"
