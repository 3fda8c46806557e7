"""What a person sees of an episode's steps: all of it, none of it as the terminal's commands or as markup."""

import io
from typing import Any

import msgspec
from builders import make_cell, make_completion, make_episode
from rich.console import Console

from lzero.cli.steps import StepPrinter
from lzero.environments.stateless import StatelessScene
from lzero.types import (
    Budgets,
    Display,
    Episode,
    Failure,
    Notepad,
    Parsed,
    Step,
    Stream,
    ToolCall,
    Usage,
)

BUDGETS = Budgets(max_steps=3, max_tokens=1_000, cell_s=1.0)
HOSTILE = "\x1b[2J\x1b]0;title\x07[red]not red[/red] \x9b31m<|im_end|> \x08\x00[/nothing]"
SHOWN = "[red]not red[/red] 31m<|im_end|> [/nothing]"


def look(text: str = "said", *, code: str | None = "look()", **fields: Any) -> Step:
    outputs = (Stream(name="stdout", text=text), Display(data={"image/png": "AAAA"}))
    call = ToolCall(name="search", arguments={"query": text}, duration_s=0.1, result=text)
    parsed = Parsed(think=text, code=code, well_formed=True, problem="" if code else f"nothing ran {text}")
    defaults = {"parsed": parsed, "completion": make_completion(text=text), "tool_calls": (call,)}
    return make_cell(code, *outputs, **{**defaults, **fields})


def printed(episode: Episode, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    with StepPrinter(Console(file=stream, width=120, force_terminal=terminal, color_system=None), BUDGETS) as printer:
        for number, step in enumerate(episode.steps, 1):
            printer.print_step(step, number)
        printer.print_answer(episode)
    return stream.getvalue()


def test_a_step_shows_thought_code_calls_and_outputs() -> None:
    lines = [line.strip() for line in printed(make_episode(look(), answer="Kato")).splitlines()]
    assert lines[1:7] == [
        "step 1 of 3 · 3 of 1,000 tokens · cell 0.1 s",
        "said",
        "look()",
        '→ search(query="said") said',
        "said",
        "[image/png]",
    ]
    assert lines[-1] == "Kato"


def test_what_is_hostile_is_shown_as_text() -> None:
    text = printed(make_episode(look(HOSTILE, code=HOSTILE), look(HOSTILE, code=None), answer=HOSTILE))
    assert not set(text) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
    assert text.count(SHOWN) >= 6


def test_the_notepad_is_shown_when_it_changes() -> None:
    noted = Notepad(facts=("Liri's rival is Kato",))
    text = printed(make_episode(look(), look(notepad=noted), look(notepad=noted), look()))
    assert text.count("Liri's rival is Kato") == 1
    assert text.count("<notepad>") == 2


def test_the_end_says_how_and_what_it_took() -> None:
    usage = Usage(prompt_tokens=1_200, completion_tokens=30, cost_usd=0.002)
    step = look(completion=make_completion((), usage=usage))
    text = printed(make_episode(step, answer="**Kato** [source](http://127.0.0.1)"))
    assert "finished · 1 step · 1,200 tokens read, 30 written · 0.0020 USD" in text
    assert "Kato source (http://127.0.0.1)" in text
    failure = Failure(kind="engine", what="nobody\x1b[2J answers", where="step 0")
    assert "engine at step 0: nobody answers" in printed(make_episode(answer=None, failure=failure))


def test_the_world_is_shown_before_the_steps_and_at_the_end() -> None:
    stream = io.StringIO()
    printer = StepPrinter(Console(file=stream, width=120, color_system=None))
    printer.on_scene(StatelessScene())
    assert not stream.getvalue()
    printer.on_scene(StatelessScene(observation=f"Your purse holds 5 coins. {HOSTILE}"))
    assert stream.getvalue() == f"Your purse holds 5 coins. {SHOWN}\n"
    printer.print_answer(msgspec.structs.replace(make_episode(), outcome={"coins": 3, "paid": HOSTILE}))
    assert 'outcome {"coins":3,"paid":"' in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_shows_what_comes_and_then_the_step() -> None:
    stream = io.StringIO()
    step = look(HOSTILE)
    with StepPrinter(Console(file=stream, width=120, force_terminal=True, color_system=None)) as printer:
        for piece in (HOSTILE[:3], HOSTILE[3:]):
            printer.on_text("text", piece)
        printer.on_cell("look()")
        printer.on_call(step.tool_calls[0])
        printer.on_step(step)
        printer.on_text("reasoning", "an unfinished thought")
    text = stream.getvalue()
    assert "\x1b[2J" not in text
    assert "\x1b]0;" not in text
    assert text.count("step 1 ·") == 1
    assert "\x1b[?25h" in text[text.rindex("step 2 …") :], "the cursor is back"


def test_what_came_of_a_reply_that_is_begun_anew_is_shown_no_more() -> None:
    stream = io.StringIO()
    with StepPrinter(Console(file=stream, width=120, force_terminal=True, color_system=None)) as printer:
        for kind, piece in (("text", "half a re"), ("restart", ""), ("text", "a whole one")):
            printer.on_text(kind, piece)
    last = stream.getvalue().rpartition("step 1 …")[2]
    assert "a whole one" in last
    assert "half a re" not in last


def test_elsewhere_only_whole_steps_are_printed() -> None:
    stream = io.StringIO()
    with StepPrinter(Console(file=stream, width=120)) as printer:
        printer.on_text("text", "half a re")
        assert stream.getvalue() == ""
        printer.on_step(look())
    assert "\x1b" not in stream.getvalue()
    assert "half a re" not in stream.getvalue()
