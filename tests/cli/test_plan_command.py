"""`lzero plan`, as a person and a script use it."""

import json
from pathlib import Path

import pytest
from builders import make_cell, make_completion, make_episode, make_record, make_run, make_task
from commands import exit_code

RECIPE = str(Path(__file__).parents[2] / "recipes" / "qa-qwen3-0.6b.toml")


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, object]:
    assert exit_code("plan", *arguments, "--json") == code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_recipe_is_planned_by_the_name_of_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("plan", RECIPE, "--gpus", "1", "--gpu", "H100") == 0
    shown = capsys.readouterr().out
    assert "Qwen3-0.6B, 596,049,920 parameters" in shown
    assert "not measured" in shown
    assert "bottleneck" in shown
    assert "without effect on this plan: agent.question_prefix" in shown


def test_a_run_that_does_not_fit_ends_with_code_1_and_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, RECIPE, "--gpu", "H100", "--gpu-memory", "20", code=1)
    assert "rollout.concurrency = 1 saves 2.23 GB" in str(found["problems"])


def test_given_sizes_replace_the_assumed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = (
        planned(capsys, RECIPE, "--gpu", "H200", "--reply-tokens", tokens)["update_s"] for tokens in ("50", "500")
    )
    assert isinstance(short, float)
    assert isinstance(long, float)
    assert short < long


def test_sizes_come_from_a_recorded_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    steps = [
        make_cell("1", completion=make_completion(range(20)), new_ids=range(new), timings={"engine": 1.0, "work": 0.5})
        for new in (100, 30)
    ]
    run.write_records([make_record(make_episode(*steps, name="t/0"), task=make_task("t"))], phase="train", update=0)
    sizes = {"rollout/episodes": 4.0, "rollout/steps_per_episode": 2.0, "rollout/tokens_per_step": 20.0}
    run.append_metrics({**sizes, "train/action_tokens": 120.0}, phase="train", update=0)
    found = planned(capsys, RECIPE, "--gpu", "H100", "--like", str(run.path))["work"]
    assert isinstance(found, dict)
    assert (found["steps"], found["prompt_tokens"], found["output_tokens"], found["cell_s"]) == (2.0, 100.0, 30.0, 0.5)
    assert found["dropped"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["model.path=Unknown-1B", "--gpu", "H100"], "none of the known models"),
        ([RECIPE, "--gpu", "V100"], "lzero knows A100"),
        ([RECIPE, "--gpus", "4"], "need --gpu"),
        ([RECIPE, "--gpu", "H100", "--like", "nowhere"], "nowhere is not a run directory"),
    ],
)
def test_what_cannot_be_planned_is_an_error(capsys: pytest.CaptureFixture[str], arguments: list[str], why: str) -> None:
    assert exit_code("plan", *arguments) == 1
    assert why in capsys.readouterr().err
