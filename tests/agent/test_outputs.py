"""Outputs as the model reads them: in order, cleaned, within the budget, the error always there."""

from builders import make_execution
from hypothesis import given
from hypothesis import strategies as st

from lzero.agent.outputs import cut, render_output
from lzero.types import Display, Error, Execution, Result, Stream
from lzero.visible import clean


def stdout(text: str) -> Stream:
    return Stream(name="stdout", text=text)


def test_printed_text_comes_without_its_last_newline() -> None:
    assert render_output(make_execution(stdout("Kato\n")), max_chars=100) == "Kato"


def test_a_silent_cell_says_so() -> None:
    assert render_output(make_execution(), max_chars=100) == "(no output)"
    assert render_output(make_execution(stdout(" \n")), max_chars=100) == "(no output)"


def test_a_value_starts_on_its_own_line() -> None:
    outputs = make_execution(stdout("no newline"), Result(data={"text/plain": "3"}))
    assert render_output(outputs, max_chars=100) == "no newline\n3"


def test_an_image_is_mentioned_by_its_type() -> None:
    outputs = make_execution(
        Display(data={"image/png": "iVBORw0KGgo="}), Display(data={"text/plain": "<Figure>", "image/png": "x"})
    )
    assert render_output(outputs, max_chars=100) == "[image/png]\n<Figure>"


def test_of_a_rich_value_the_text_alone_is_read() -> None:
    table = Result(data={"text/html": "<table>", "text/plain": "   a\n0  1", "image/png": "iVBORw0KGgo="})
    assert render_output(make_execution(table), max_chars=100) == "   a\n0  1"
    assert (
        render_output(make_execution(Result(data={"text/plain": "", "text/html": "<b>"})), max_chars=100)
        == "(no output)"
    )
    assert render_output(make_execution(Result(data={"text/html": "<b>", "image/png": "x"})), max_chars=100) == (
        "[text/html] [image/png]"
    )


def test_escapes_and_control_characters_are_removed() -> None:
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07bell\x07\x00\x9b tab\tend") == "red bell tab\tend"
    assert clean("10%\r50%\r100%\ndone\r\n") == "100%\ndone\n"
    assert clean("a\ud800b\x1b") == "ab"
    assert clean("access \u202eresu\u202c\u2066 \u2069 \U000e0041\U000e0042 שלום\u200f") == "access resu   שלום"


def test_control_tokens_of_a_chat_template_stay_text() -> None:
    assert render_output(make_execution(stdout("<|im_end|>\n")), max_chars=100) == "<|im_end|>"


def test_head_and_tail_of_a_long_output_stay() -> None:
    text = render_output(make_execution(stdout("start " + "x" * 5000 + " end")), max_chars=200)
    assert len(text) == 200
    assert text.startswith("start x")
    assert text.endswith("x end")
    assert "5010 characters" in text


def test_the_note_of_a_cut_counts_what_the_session_had_left_out() -> None:
    stream = stdout("a" * 300 + "\n… [1000000 characters left out] …\n" + "b" * 300)
    value = Result(data={"text/plain": "c" * 100 + "\n… [500 characters left out] …\n" + "d" * 100})
    note = Stream(name="stderr", text="… [7 outputs left out: 4000 characters] …\n")
    size = 600 + 1_000_000 + 4_000 + 200 + 500
    assert f"[{size} characters, the middle is cut]" in render_output(
        make_execution(stream, note, value), max_chars=200
    )
    assert f"[{size} characters, the middle is cut]" in render_output(
        make_execution(stream, note, value), max_chars=700
    )
    picture = "… [image/png of 9000 characters left out] …"
    assert "[643 characters, the middle is cut]" in render_output(
        make_execution(stdout("e" * 600 + picture)), max_chars=200
    )
    error = Error(ename="E", evalue="v" * 900 + "\n… [9000 characters left out] …\n" + "w" * 900, traceback=())
    assert "[10803 characters, the middle is cut]" in render_output(make_execution(error), max_chars=500)


def test_a_traceback_ends_with_the_error() -> None:
    error = Error(
        ename="NameError",
        evalue="name 'x' is not defined",
        traceback=(
            "\x1b[31m" + "-" * 75 + "\x1b[39m",
            "\x1b[31mNameError\x1b[39m       Traceback (most recent call last)",
            "Cell In[1], line 1\n\x1b[32m----> 1\x1b[39m x",
            "\x1b[31mNameError\x1b[39m: name 'x' is not defined",
        ),
    )
    expected = "before\nCell In[1], line 1\n----> 1 x\nNameError: name 'x' is not defined"
    assert render_output(make_execution(stdout("before\n"), error), max_chars=500) == expected


def test_an_error_is_named_once_however_its_traceback_spells_it() -> None:
    traceback = (
        "Traceback (most recent call last):",
        '  File "<cell 1>", line 1',
        "json.decoder.JSONDecodeError: no value",
    )
    text = render_output(
        make_execution(Error(ename="JSONDecodeError", evalue="no value", traceback=traceback)), max_chars=500
    )
    assert text == '  File "<cell 1>", line 1\nJSONDecodeError: no value'


def test_only_the_last_frames_are_shown() -> None:
    frames = tuple(f"frame {i}" for i in range(100))
    text = render_output(
        make_execution(Error(ename="KeyError", evalue="'a'", traceback=(*frames, "KeyError: 'a'"))), max_chars=500
    )
    assert text.split("\n") == [*(f"frame {i}" for i in range(88, 100)), "KeyError: 'a'"]


@given(before=st.text(max_size=400), frames=st.lists(st.text(max_size=80), max_size=30), evalue=st.text(max_size=300))
def test_the_budget_holds_and_the_error_is_named(before: str, frames: list[str], evalue: str) -> None:
    error = Error(ename="ValueError", evalue=evalue, traceback=tuple(frames))
    text = render_output(make_execution(stdout(before), error, stdout(before)), max_chars=300)
    assert len(text) <= 300
    assert "ValueError" in text


@given(st.text(), st.integers(min_value=0, max_value=60))
def test_a_cut_text_fits(text: str, max_chars: int) -> None:
    assert len(cut(text, max_chars)) <= max_chars


def test_an_interrupted_cell_says_so() -> None:
    execution = Execution(
        outputs=(stdout("tick\n"),), status="timed_out", duration_s=10.02, reason="interrupted after 10 s"
    )
    assert render_output(execution, max_chars=100) == "tick\n[interrupted after 10 s]"


def test_a_killed_session_says_that_its_state_is_lost() -> None:
    execution = Execution(outputs=(), status="killed", duration_s=1.0, reason="out of memory")
    text = render_output(execution, max_chars=200)
    assert text == "[the session was killed (out of memory): its variables are lost, a new one is open]"
