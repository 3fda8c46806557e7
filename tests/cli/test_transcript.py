"""Episodes as a person reads them after training."""

import io

import msgspec
from rich.console import Console
from rollout_fakes import make_episode, make_step, make_task, reward

from lzero.cli.transcript import episode_panel
from lzero.store import Record
from lzero.types import Episode, Execution, Failure, Parsed, Reward, Stream, Task


def shown(record: Record) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(episode_panel(record, title="before training"))
    return stream.getvalue()


def record_of(task: Task, episode: Episode) -> Record:
    return Record(task=task, episodes=(episode,), rewards=(reward(task, episode) if episode.failure is None else None,))


def test_a_score_between_wrong_and_right_is_shown_as_it_is() -> None:
    task = make_task()
    half = Reward(score=0.5, per_step=(0.5,), parts={})
    record = Record(task=task, episodes=(make_episode(task),), rewards=(half,))
    assert "score 0.5, 'yes' is right" in shown(record)
    unknown = msgspec.structs.replace(task, answers=())
    assert "score 0.5 · reward 0.500" in shown(msgspec.structs.replace(record, task=unknown))


def test_an_episode_is_shown_step_by_step() -> None:
    task = make_task()
    step = msgspec.structs.replace(
        make_step(7),
        parsed=Parsed(think="Look up Liri.", code='print(search("Liri"))', well_formed=True),
        execution=Execution(outputs=(Stream(name="stdout", text="founder Titu\n"),), status="ok", duration_s=0.1),
    )
    text = shown(record_of(task, msgspec.structs.replace(make_episode(task), steps=(step,))))
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
    task = make_task()
    assert "answered 'no' · wrong: 'yes' was right" in shown(record_of(task, make_episode(task, answer="no")))
    assert "no answer · wrong" in shown(record_of(task, make_episode(task, answer=None)))


def test_a_failed_episode_says_that_it_was_our_doing() -> None:
    task = make_task()
    failure = Failure(kind="repl", what="zygote died", where="step 2")
    text = shown(record_of(task, make_episode(task, answer=None, failure=failure)))
    assert "failed, through no fault of the agent: repl at step 2: zygote died" in text


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    task = make_task()
    evil = "[red]markup[/red] \x1b[2Jgone\x07"
    step = msgspec.structs.replace(
        make_step(), parsed=Parsed(think=evil, code=f"print({evil!r})\x1b]0;x\x07", well_formed=True)
    )
    text = shown(record_of(task, msgspec.structs.replace(make_episode(task, answer=evil), steps=(step,))))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]markup[/red] gone" in text
