"""The learning curve, and episodes as a person reads them."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rollout_fakes import make_episode, make_step, make_task, reward

from lzero.config import load_config
from lzero.errors import StoreError
from lzero.eval.transcript import episode_panel
from lzero.store import Record, RunDirectory
from lzero.types import Episode, Execution, Failure, Parsed, Reward, Stream, Task
from lzero.view.curve import draw_curve, read_curves


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(load_config(None, [f'run.dir="{tmp_path / "run"}"']))


def shown(record: Record) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(episode_panel(record, title="before training"))
    return stream.getvalue()


def record_of(task: Task, episode: Episode) -> Record:
    return Record(task=task, episodes=(episode,), rewards=(reward(task, episode) if episode.failure is None else None,))


def test_the_curve_is_drawn_as_png_and_svg(run: RunDirectory) -> None:
    for update in range(3):
        run.append_metrics({"rollout/score": update / 3, "rollout/score_1_hops": 0.5}, phase="train", update=update)
    run.append_metrics({"score": 0.3, "score_1_hops": 0.4, "score_2_hops": 0.2}, phase="eval", update=0)
    run.append_metrics({"score": 0.9, "score_1_hops": 1.0, "score_2_hops": 0.8}, phase="eval", update=3)
    png = draw_curve(run.path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in png.with_suffix(".svg").read_text()


def test_the_curve_names_what_the_score_is(tmp_path: Path) -> None:
    for function, label in (("", "exact match"), ("mine:judge", "score by mine:judge")):
        config = load_config(None, [f'run.dir="{tmp_path / (function or "own")}"', f'reward.function="{function}"'])
        directory = RunDirectory.create(config)
        directory.append_metrics({"score": 0.3}, phase="eval", update=0)
        draw_curve(directory.path)
        assert f"<!-- {label} -->" in (directory.path / "learning-curve.svg").read_text()


def test_the_points_of_the_curve_are_those_of_the_metrics() -> None:
    whole, by_hops = read_curves(
        [
            {"phase": "eval", "update": 0, "score": 0.25, "score_3_hops": 0.0},
            {"phase": "train", "update": 0, "rollout/score": 0.5},
            {"phase": "sampled", "update": 0, "score": 0.75},
            {"phase": "eval", "update": 1, "score": 1, "score_3_hops": 0.5},
        ]
    )
    assert whole.held_out == ((0, 0.25), (1, 1.0))
    assert whole.training == ((0, 0.5),)
    assert by_hops.keys() == {3}
    assert by_hops[3].held_out == ((0, 0.0), (1, 0.5))


def test_a_run_without_a_score_has_no_curve(run: RunDirectory) -> None:
    with pytest.raises(StoreError, match="holds no score to draw yet"):
        draw_curve(run.path)


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
