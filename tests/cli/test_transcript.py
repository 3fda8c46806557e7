"""Episodes as a person reads them after training."""

import io

import msgspec
from builders import make_attempt, make_cell, make_completion, make_record, numbered_task
from rich.console import Console

from lzero.cli.transcript import episode_panel
from lzero.store import Record
from lzero.types import Failure, Reward, Stream


def shown(record: Record) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(episode_panel(record, title="before training"))
    return stream.getvalue()


def test_a_score_between_wrong_and_right_is_shown_as_it_is() -> None:
    half = Reward(score=0.5, per_step=(0.5,), parts={})
    record = msgspec.structs.replace(make_record("yes"), rewards=(half,))
    assert "score 0.5, 'yes' is right" in shown(record)
    unknown = msgspec.structs.replace(record.task, answers=())
    assert "score 0.5 · reward 0.500" in shown(msgspec.structs.replace(record, task=unknown))


def test_an_episode_is_shown_step_by_step() -> None:
    task, found = numbered_task(), Stream(name="stdout", text="founder Titu\n")
    seven = make_completion((3,) * 7)
    step = make_cell('print(search("Liri"))', found, think="Look up Liri.", completion=seven)
    text = shown(make_record(make_attempt(task, steps=(step,))))
    parts = (
        "before training",
        task.question,
        "step 1 · 7 tokens · reward +1.000",
        "Look up Liri.",
        'print(search("Liri"))',
    )
    for part in (*parts, "founder Titu", "answered 'yes' · right · reward 1.000"):
        assert part in text


def test_a_wrong_answer_is_shown_beside_the_right_one() -> None:
    assert "answered 'no' · wrong: 'yes' was right" in shown(make_record("no"))
    assert "no answer · wrong" in shown(make_record(make_attempt(numbered_task(), None)))


def test_a_failed_episode_says_that_it_was_our_doing() -> None:
    failure = Failure(kind="repl", what="zygote died", where="step 2")
    text = shown(make_record(make_attempt(numbered_task(), failure=failure)))
    assert "failed, through no fault of the agent: repl at step 2: zygote died" in text


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    evil = "[red]markup[/red] \x1b[2Jgone\x07"
    step = make_cell(f"print({evil!r})\x1b]0;x\x07", think=evil)
    text = shown(make_record(make_attempt(numbered_task(), evil, steps=(step,))))
    failure = Failure(kind="agent", what=f"raised ValueError: {evil}", where="acting")
    text += shown(make_record(make_attempt(numbered_task(), failure=failure)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]markup[/red] gone" in text
