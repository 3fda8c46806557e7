"""`lzero compare`: two evaluations, task by task."""

import json
from pathlib import Path

import msgspec
import pytest
from builders import make_record, make_run
from commands import exit_code

from lzero.eval.compare import compare, read_evaluation, side_by_side
from lzero.store import RunDirectory


def run_of(directory: Path, *answers: str | None, update: int = 0) -> RunDirectory:
    """Return a run with an evaluation of a task for each answer; "yes" is right, None failed."""
    run = make_run(directory)
    write(run, *answers, update=update)
    return run


def write(run: RunDirectory, *answers: str | None, update: int) -> None:
    records = [make_record(answer, position=position) for position, answer in enumerate(answers)]
    run.write_records(records, phase="eval", update=update)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = exit_code("compare", *arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_differences_are_paired_by_task(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", "no", "no", "yes", "yes", None, "no")
    other = run_of(tmp_path / "other", "yes", "yes", "yes", "no", "yes")
    found = compare(read_evaluation(one.path, phase="eval"), read_evaluation(other.path, phase="eval"))
    assert (found.num_tasks, found.unpaired) == (4, 2)
    assert (found.before, found.after, found.difference) == (0.5, 0.75, 0.25)
    assert found.low < 0.25 < found.high
    assert [(flip.task, flip.difference) for flip in found.flips] == [
        ("task-3", -1.0),
        ("task-0", 1.0),
        ("task-1", 1.0),
    ]
    assert found.p_value == 1.0


def test_tasks_of_the_same_id_with_other_questions_are_not_paired(tmp_path: Path) -> None:
    one, other = run_of(tmp_path / "one", "no", "no"), make_run(tmp_path / "other")
    alike, unlike = make_record("yes", position=0), make_record("yes", position=1)
    unlike = msgspec.structs.replace(unlike, task=msgspec.structs.replace(unlike.task, question="Another?"))
    other.write_records([alike, unlike], phase="eval", update=0)
    both = [read_evaluation(run.path, phase="eval") for run in (one, other)]
    assert (compare(*both).num_tasks, compare(*both).unpaired) == (1, 1)
    assert [each.scores[1] is None for each in side_by_side(both)] == [False]


def test_the_command_prints_scores_intervals_and_flips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run_of(tmp_path / "one", "no", "no", "yes"), run_of(tmp_path / "other", "yes", "yes", "no")
    code, printed, _ = said(capsys, str(one.path), str(other.path), "--flips", "2")
    assert code == 0
    runs = [str(run.path).ljust(len(str(other.path))) for run in (one, other)]
    gold = "gold".ljust(len(str(other.path)))
    assert printed.splitlines()[2:] == [
        "difference +0.333 (95 % from -1.000 to +1.000) over 3 tasks; sign test p = 1",
        "1 task lost, 2 gained",
        "",
        "task-2  ?",
        f"  {gold}        yes",
        f"  {runs[0]}  1     'yes'",
        f"  {runs[1]}  0     'no'",
        "",
        "task-0  ?",
        f"  {gold}        yes",
        f"  {runs[0]}  0     'no'",
        f"  {runs[1]}  1     'yes'",
        "… and 1 more (--flips N)",
    ]
    assert printed.startswith("baseline  0.333  ")


def test_one_run_before_and_after_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", "no", "no")
    write(run, "yes", "no", update=12)
    path = str(run.path)
    code, printed, _ = said(capsys, path, path, "--update", "0", "--update", "12", "--json")
    assert code == 0
    line = json.loads(printed)
    assert (line["before"], line["after"], line["num_tasks"]) == (0.0, 0.5, 2)
    assert [flip["task"] for flip in line["flips"]] == ["task-0"]
    assert read_evaluation(run.path, phase="eval").update == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), "name at least two runs"),
        (("one", "one", "--update", "0"), "--update is given 1 times for 2 runs"),
        (
            ("one", "one", "--update", "0", "--update", "3"),
            r'has no evaluation of phase "eval" of update 3; there are those of updates 0',
        ),
        (("one", "one", "--sampled"), 'has no evaluation of phase "sampled"'),
        (("one", "apart"), "have scored no task in common (2 tasks and 0 tasks)"),
        (("one", "nowhere"), "nowhere is not a run directory"),
    ],
)
def test_what_cannot_be_compared_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "one", "no", "yes")
    run_of(tmp_path / "apart", None)
    code, _, errors = said(capsys, *arguments)
    assert code == 1
    assert message in errors
