"""Training with examples/own_algorithm: an estimator and a loss outside of lzero."""

import json
from pathlib import Path

import pytest
from commands import exit_code

pytestmark = pytest.mark.integration
EXAMPLE = Path(__file__).parents[2] / "examples" / "own_algorithm"
OWN = ("algo.estimator=best_of_group:Best", "algo.estimator_options.scale=2", "algo.loss=best_of_group:Squashed")


@pytest.fixture(autouse=True)
def in_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


def train(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    return exit_code("train", *arguments), capsys.readouterr().err


def test_a_run_trains_with_them(tiny_run: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    settings = ("algo.entropy_coef=0.01", "train.minibatches=2", "rollout.filter=none", f"run.dir={run}")
    assert train(*tiny_run, *OWN, *settings, capsys=capsys) == (0, "")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["phase"] == "train"]
    assert len(updates) == 2
    assert all("train/squashed" in line and line["train/skipped"] == 0 for line in updates)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("algo.entropy_coef=0", "algo.entropy_coef = 0: Best never gives an advantage above 0"),
        (
            "algo.loss_options.wide=1",
            "unknown key 'algo.loss_options.wide': algo.loss = \"best_of_group:Squashed\" has the options width",
        ),
        ("rollout.episodes_per_task=1", "compares the episodes of a task"),
    ],
)
def test_a_run_that_they_cannot_work_with_is_refused(
    tiny_run: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, told: str
) -> None:
    run = tmp_path / "run"
    code, errors = train(*tiny_run, *OWN, "algo.entropy_coef=0.01", setting, f"run.dir={run}", capsys=capsys)
    assert code == 1
    assert told in errors
    assert not run.exists()
