"""Every metric of a run is in docs/training.md, and every metric there is one of a run."""

import json
import re
from pathlib import Path

import pytest
from commands import exit_code

pytestmark = pytest.mark.sandbox
PAGE = Path(__file__).parents[2] / "docs" / "training.md"
ELSEWHERE = (
    "on CUDA",
    "with a critic",
    "with a curriculum",
    "with `[judge]`",
    "with `rollout.max_lag`",
    "with vLLM",
    "if the endpoint",
    "with SimpleQA's",
)
"""Words in the sentences of metrics that the tiny run need not have."""


def documented() -> dict[str, str]:
    """Return name, with its <placeholders>, → sentence, from the tables in the section on metrics."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {name: sentence for names, sentence in rows for name in re.findall(r"`([^`]+)`", names)}


def matches(pattern: str, name: str) -> bool:
    return re.fullmatch(re.sub(r"<\w+>", r"[\\w@]+", pattern.replace("+", r"\+")), name) is not None


@pytest.fixture(scope="module")
def measured(tiny_run: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the metric names of a run that measures nearly everything."""
    run = tmp_path_factory.mktemp("runs") / "measured"
    settings = (
        "algo.loss=ppo",
        "train.minibatches=2",
        "algo.importance_cap=2",
        "eval.sampled_episodes=2",
        'run.trackers=["tensorboard"]',
    )
    assert exit_code("train", *tiny_run, *settings, f"run.dir={run}") == 0
    assert list((run / "tensorboard").iterdir())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name for line in lines for name in line} - {"phase", "update"}


def test_every_metric_is_explained(measured: set[str]) -> None:
    patterns = documented()
    assert [name for name in sorted(measured) if not any(matches(pattern, name) for pattern in patterns)] == []


def test_every_metric_that_is_explained_is_measured(measured: set[str]) -> None:
    missing = [
        pattern
        for pattern, sentence in documented().items()
        if not any(word in sentence for word in ELSEWHERE) and not any(matches(pattern, name) for name in measured)
    ]
    assert missing == []
