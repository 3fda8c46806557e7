"""Measure the README's promises completely, through real sandboxes. `make test-long` runs these; they take about half an hour."""

from pathlib import Path
from typing import Any

import pytest
from commands import last_line, succeed

from lzero.store import RunDirectory

CONTROL_LR = "train.lr=2e-4"
"""A fifth of the demo's. AdamW moves the weights by the full rate even if the gradient is noise, and at the demo's rate that noise alone
destroys the policy within 12 updates."""
CRITIC = ("algo.estimator=gae", "critic.kind=model", "critic.lr=1e-3", "critic.epochs=4")

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(1800)]


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the JSON at the end of a command's output."""
    succeed(*arguments, "--json")
    return last_line(capsys)


def test_the_expert_is_always_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(capsys, "eval", "engine.kind=scripted", "engine.policy=expert", f"run.dir={tmp_path / 'run'}")
    assert (found["score"], found["num_tasks"], found["num_failed"]) == (1.0, 300, 0)


def test_who_never_searches_hardly_ever_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(
        capsys, "eval", "engine.kind=scripted", "engine.policy=never_searches", f"run.dir={tmp_path / 'run'}"
    )
    assert found["score"] <= 0.02  # one of 191 names is right


def test_the_base_model_leaves_something_to_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(capsys, "eval", "eval.num_tasks=500", f"run.dir={tmp_path / 'run'}")
    assert 0.20 <= found["score"] <= 0.40


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(capsys, "train", f"run.seed={seed}", f"run.dir={tmp_path / 'run'}")
    assert found["score_before"] <= 0.40
    assert found["score_after"] >= 0.90


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns_with_a_critic_that_learns_what_a_state_is_worth(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    found = outcome(capsys, "train", *CRITIC, f"run.seed={seed}", f"run.dir={run}")
    assert found["score_after"] >= 0.90
    lines = [line for line in RunDirectory.open(run).read_metrics() if line["phase"] == "train"]
    explained = [float(str(line["critic/explained_variance"])) for line in lines]
    assert explained[0] < 0.05
    assert max(explained) > 0.2


def test_the_score_stays_where_it_was_when_rewards_are_shuffled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = outcome(capsys, "train", CONTROL_LR, "algo.shuffle_rewards=true", f"run.dir={tmp_path / 'run'}")
    assert abs(found["score_after"] - found["score_before"]) <= 0.05


def test_the_same_settings_learn_from_true_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome(capsys, "train", CONTROL_LR, f"run.dir={tmp_path / 'run'}")
    assert found["score_after"] - found["score_before"] >= 0.20
