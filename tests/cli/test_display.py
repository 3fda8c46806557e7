"""The display of training: a live table in a terminal, plain lines elsewhere."""

import io

from builders import make_record, numbered_task
from rich.console import Console

from lzero.cli.display import COLUMNS, TrainingDisplay, cells, minutes, sparkline
from lzero.cli.train import description, score_table
from lzero.config import load_config
from lzero.rollout.failures import kinds_in, listed
from lzero.store import Record
from lzero.types import Update

METRICS = {
    "rollout/score": 0.5,
    "reward/total": 0.61,
    "reward/qa": 0.4,
    "reward/format": 0.1,
    "reward/execution": 0.11,
    "rollout/episodes": 256.0,
    "rollout/steps_per_episode": 3.25,
    "rollout/tokens_per_s": 4321.0,
    "failures/repl": 2.0,
    "failures/engine": 0.0,
    "time/update_s": 8.26,
}


def update(version: int) -> Update:
    return Update(policy_version=version, metrics=METRICS)


def test_a_row_shows_every_column() -> None:
    row = cells(update(3), num_updates=24, left_s=75.0)
    assert row == ("3/24", "0.500", "0.610", "0.400", "0.100", "0.110", "256", "3.25", "4,321", "repl 2", "8.3", "1:15")
    assert len(row) == len(COLUMNS)


def test_a_metric_that_was_not_measured_is_a_dash() -> None:
    assert cells(Update(policy_version=1, metrics={}), num_updates=2, left_s=0.0)[1] == "–"


def test_failures_are_told_by_kind() -> None:
    assert listed(kinds_in([{"failures/repl": 1.0}, {"failures/engine": 3.0}])) == "engine 3, repl 1"
    assert listed(kinds_in([{"failures/repl": 0.0}])) == ""


def test_a_sparkline_has_a_block_for_every_value() -> None:
    assert sparkline([0.0, 0.5, 1.0, 1.5, -1.0]) == "▁▅██▁"


def test_minutes() -> None:
    assert minutes(125.9) == "2:05"


def test_a_pipe_gets_one_plain_line_an_update() -> None:
    stream = io.StringIO()
    with TrainingDisplay(Console(file=stream, width=200), num_updates=2) as display:
        display.say("measuring the base model")
        display.updated(update(1))
        display.updated(update(2))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "measuring the base model"
    assert lines[1].split() == list(COLUMNS)
    assert [line.split()[0] for line in lines[2:]] == ["1/2", "2/2"]
    assert "\x1b" not in stream.getvalue()


def test_brackets_in_a_warning_are_text() -> None:
    stream = io.StringIO()
    with TrainingDisplay(Console(file=stream, width=200), num_updates=2) as display:
        display.say("making the kernel environment in /runs/[mine]/kernel [/now]")
    assert stream.getvalue() == "making the kernel environment in /runs/[mine]/kernel [/now]\n"


def test_a_terminal_gets_a_live_table() -> None:
    stream = io.StringIO()
    with TrainingDisplay(Console(file=stream, width=200, force_terminal=True), num_updates=2) as display:
        display.updated(update(1))
    assert "\x1b[" in stream.getvalue()
    assert "1/2" in stream.getvalue()


def test_a_plan_names_what_is_trained_on() -> None:
    assert "the built-in world" in description(load_config(None, ["tasks.train=world/sft"]))
    assert "on worldly.jsonl by" in description(load_config(None, ["tasks.train=worldly.jsonl"]))


def test_hops_whose_episodes_all_failed_keep_their_line() -> None:
    def records(failed_hops: int) -> list[Record]:
        tasks = [numbered_task(hops, hops=hops) for hops in (1, 2)]
        return [make_record(None if task.hops == failed_hops else "yes", task=task) for task in tasks]

    stream = io.StringIO()
    Console(file=stream, width=100).print(score_table(records(1), records(2)))
    one, two = [line.split() for line in stream.getvalue().splitlines() if "hop" in line]
    assert one[2:4] == ["nan", "1.000"]
    assert two[2:4] == ["1.000", "nan"]
