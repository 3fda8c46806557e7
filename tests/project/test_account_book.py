"""Worlds with a state, tasks checked on it, and policies, all outside of lzero: examples/account_book, docs/environments.md."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import last_line, succeed

from lzero.store import read_episodes

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "account_book"
PAGE = ROOT / "docs" / "environments.md"
WORLD = (
    *("tasks.train=book:Payments", "tasks.eval=book:Payments", "tasks.options.largest=20"),
    *("environment.use=book:AccountBook", "reward.function=book:settled"),
)
PLAYED = ("engine.kind=scripted", "agent.max_tokens=2000", "agent.response_tokens=200", "rollout.concurrency=16")


@pytest.fixture(autouse=True)
def in_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


def test_the_check_of_a_run_opens_the_world(capsys: pytest.CaptureFixture[str]) -> None:
    succeed("check", *WORLD, "engine.kind=scripted", "engine.policy=book:expert", "agent.max_tokens=2000")
    assert "balance, transfer" in capsys.readouterr().out


def test_it_is_learned_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demos, base, run = (tmp_path / name for name in ("demos", "base", "run"))
    succeed("eval", *WORLD, *PLAYED, "engine.policy=book:expert", "eval.num_tasks=10", f"run.dir={demos}", "--json")
    assert last_line(capsys)["score"] == 1.0
    outcomes = [episode.outcome for episode in read_episodes(demos)]
    assert all(outcome and 0 in balances(outcome) for outcome in outcomes), "each payer has nothing left"

    careless = tmp_path / "careless"
    succeed(
        "eval", *WORLD, *PLAYED, "engine.policy=book:careless", "eval.num_tasks=10", f"run.dir={careless}", "--json"
    )
    assert 0.0 < float(str(last_line(capsys)["score"])) < 1.0

    small = ("sft.tokens=8000", "sft.batch_size=8", f"run.dir={base}")
    succeed("sft", "model.path=fresh", f"sft.episodes=['{demos}', '{careless}']", *small)
    words = json.loads((base / "model" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert {"ĠCleo", "ĠMove", "transfer"} & {piece for piece, _ in words}

    tiny = ("rollout.tasks_per_update=4", "rollout.episodes_per_task=2", "eval.num_tasks=4", "agent.max_steps=2")
    model = (f"model.path={base / 'model'}", "agent.max_tokens=400", "agent.response_tokens=40")
    succeed("train", *WORLD, *model, *tiny, "rollout.filter=none", "train.updates=2", f"run.dir={run}", "--json")
    assert last_line(capsys)["updates"] == 2
    episodes = list(read_episodes(run))
    assert len(episodes) == 2 * 4 + 2 * 8
    assert all(episode.outcome for episode in episodes)


def test_the_world_of_the_page_is_played_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.search(r"^```python\n(# purse\.py\n.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    world = re.search(r'^world="(.*)"$', PAGE.read_text("utf-8"), re.MULTILINE)
    assert block
    assert world
    (tmp_path / "purse.py").write_text(block[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    played = (
        "engine.kind=scripted",
        "engine.policy=purse:payer",
        "rollout.concurrency=2",
        f"run.dir={tmp_path / 'run'}",
    )
    succeed("eval", *world[1].split(), *played, "--json")
    assert last_line(capsys)["score"] == 1.0


def balances(outcome: Mapping[str, Any]) -> Sequence[int]:
    return list(outcome["balances"].values())
