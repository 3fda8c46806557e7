"""`lzero data`: the commands, their errors, and what is left when one is killed."""

import json
import random
import signal
from pathlib import Path

import pytest
from builders import make_record, make_run, make_task
from commands import Command, exit_code, last_line, succeed
from set_files import bytes_of, ids_of, make_set


def many(directory: Path, count: int) -> str:
    tasks = (
        make_task(f"{n}", question=f"Who is the {n % 900} one?", hops=1 + n % 3, split="train") for n in range(count)
    )
    return make_set(directory, *tasks)


def test_the_stages_of_a_set_are_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = many(tmp_path / "made", 1_000)
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    succeed("data", "dedupe", made, "--out", one)
    succeed("data", "filter", one, "--min", "hops=2", "--only", "split=train,dev", "--out", two)
    succeed("data", "stratify", two, "--by", "hops", "--rows", "100", "--out", three, "--json")
    manifest = last_line(capsys)
    assert (manifest["rows_in"], manifest["counts"]) == (600, {"hops=2": 50, "hops=3": 50})
    assert [manifest["stage"], manifest["inputs"][0]["made"]["stage"]] == ["stratify", "filter"]
    plot = tmp_path / "plot.svg"
    succeed("data", "stats", three, "--plot", str(plot))
    told = capsys.readouterr().out
    assert "← dedupe: 1,000 in, 900 out" in told
    assert "split: train 100" in told
    assert plot.read_text("utf-8").startswith("<?xml")
    assert exit_code("data", "leaks", three, "--against", made) == 1
    assert "100 of 100 rows leak a benchmark" in capsys.readouterr().out
    assert exit_code("data", "leaks", three, "--against", made, "--out", str(tmp_path / "no")) == 1
    assert "nothing is written" in capsys.readouterr().err


def test_a_filter_takes_the_pass_rates_of_evaluations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.write_records(
        [make_record(answer, position=n) for n, answer in enumerate(("yes", "no"))], phase="eval", update=0
    )
    made = make_set(tmp_path / "made", *(make_task(f"task-{n}", question=f"{n}?") for n in range(3)))
    bound = ("--run", str(run.path), "--max", "pass_rate=0.9")
    succeed("data", "filter", made, *bound, "--out", str(tmp_path / "out"))
    assert ids_of(tmp_path / "out") == ["task-1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("filter", "--min", "hops=two"), "--min hops='two': give a number"),
        (("filter",), "at least one bound"),
        (("filter", "--min", "hops"), "write NAME=VALUE"),
        (("filter", "--min", "hops=1", "--run", "r"), "--run has an effect with a bound on pass_rate only"),
        (("dedupe", "--threshold", "0.9"), "--threshold has an effect with --near only"),
        (("dedupe", "--by", "question"), "--by 'question': name one of answers"),
        (("stratify", "--by", "hobs", "--rows", "3"), "no row has 'hobs'"),
        (("leaks", "--against", "x", "--drop", "--allow"), "give one of the two"),
        (("merge", "--column", "question=q"), "each input is a set"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    made = make_set(tmp_path / "made", make_task("a", hops=1))
    assert exit_code("data", arguments[0], made, *arguments[1:], "--out", str(tmp_path / "out")) == 1
    assert said in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["made"]


@pytest.mark.integration
def test_a_stage_that_is_killed_leaves_nothing_and_its_repetition_gives_the_same_bytes(tmp_path: Path) -> None:
    made = many(tmp_path / "made", 5_000)
    draw = random.Random(16)
    codes = set()
    for name, *options in (("merge",), ("dedupe",), ("filter", "--min", "hops=2")):
        arguments = ("data", name, made, *options, "--out")
        out, whole, partial = (tmp_path / each for each in (name, f"{name}-whole", f".{name}.partial"))
        killed = Command(*arguments, str(out))
        while killed.process.is_alive() and not partial.exists():
            killed.process.join(0.002)
        killed.process.join(draw.uniform(0, 0.2))
        killed.process.kill()
        ended = killed.end()
        codes.add(ended.code)
        assert out.exists() == (ended.code == 0), ended.err
        succeed("data", name, made, *options, "--out", str(whole))
        if not out.exists():
            succeed(*arguments, str(out))
        assert bytes_of(out) == bytes_of(whole)
        assert not list(tmp_path.glob(".*"))
        assert json.loads((out / "manifest.json").read_text("utf-8"))["rows_in"] == 5_000
    assert -signal.SIGKILL in codes, "none was killed in time"
