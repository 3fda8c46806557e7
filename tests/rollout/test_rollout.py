"""From a configuration to scores, through real sandboxes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import exit_code

from lzero.config import Config, load_config
from lzero.data.world import vocabulary
from lzero.errors import ConfigError, SandboxError
from lzero.eval.evaluate import Evaluator
from lzero.models import Qwen3Sizes, build_tokenizer, new_model, save_model
from lzero.protocols import OnCall, Repl, ToolSpec
from lzero.repl import LocalPool
from lzero.rollout.compose import build, eval_tasks, train_tasks
from lzero.rollout.stream import SynchronousStream
from lzero.store import Record, RunDirectory, read_episodes

pytestmark = pytest.mark.sandbox


EXPERT = ("engine.kind=scripted", "engine.policy=expert")


def settings(*overrides: str) -> Config:
    return load_config(None, [*EXPERT, "eval.num_tasks=12", "rollout.concurrency=16", *overrides])


async def test_the_expert_answers_every_task_of_the_world() -> None:
    config = settings()
    async with build(config) as parts:
        found = await Evaluator(runner=parts.runner, source=eval_tasks(config), config=config).greedy()
    assert found.score == 1.0
    assert found.score_by_hops == {1: 1.0, 2: 1.0, 3: 1.0}
    assert found.num_failed == 0


async def test_a_batch_of_training_is_collected_and_recorded(tmp_path: Path) -> None:
    config = settings(
        f'run.dir="{tmp_path / "run"}"',
        "rollout.tasks_per_update=4",
        "rollout.episodes_per_task=2",
        "rollout.drop_uniform=0",
    )
    run = RunDirectory.create(config)
    async with build(config) as parts:
        stream = SynchronousStream(parts.runner, train_tasks(config), config=config.rollout, seed=config.run.seed)
        collected = await stream.take(0)
    run.write_records(collected.records, phase="train", update=0)
    assert [episode.answer for episode in read_episodes(run.path)] == [
        group.task.answers[0] for group in collected.groups for _ in range(2)
    ]


async def test_evaluations_are_the_same_at_any_concurrency() -> None:
    found = []
    for concurrency in (2, 16):
        config = settings(
            "engine.kind=scripted", "engine.policy=wrong_hop", "eval.num_tasks=12", f"rollout.concurrency={concurrency}"
        )
        async with build(config) as parts:
            evaluation = await Evaluator(runner=parts.runner, source=eval_tasks(config), config=config).greedy()
        found.append(
            [(record.scores, [len(episode.steps) for episode in record.episodes]) for record in evaluation.records]
        )
    assert found[0] == found[1]


async def test_a_repl_that_we_lose_is_replaced_by_a_fresh_one(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = 0
    open_repl = LocalPool.open

    async def open_flaky(self: LocalPool, tools: list[ToolSpec], on_call: OnCall, *, seed: int) -> Repl:
        nonlocal opened
        opened += 1
        repl = await open_repl(self, tools, on_call, seed=seed)
        if opened % 3 == 2:  # the first one is the pool's own probe
            await repl.close()  # so that it is gone at its first cell
        return repl

    monkeypatch.setattr(LocalPool, "open", open_flaky)
    config = settings("eval.num_tasks=6", "rollout.concurrency=1")
    async with build(config) as parts:
        found = await Evaluator(runner=parts.runner, source=eval_tasks(config), config=config).greedy()
    assert found.score == 1.0
    assert found.metrics["failures/repl"] == 3


async def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"genius.*expert"):
        async with build(settings("engine.kind=scripted", "engine.policy=genius")):
            pass


async def test_a_machine_without_isolation_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: LocalPool) -> None:
        raise SandboxError("no namespaces")

    monkeypatch.setattr(LocalPool, "start", start)
    with pytest.raises(SandboxError, match="no namespaces"):
        async with build(settings()):
            pass


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model with random weights: it writes nonsense, so nothing is right."""
    tokenizer = build_tokenizer(vocabulary())
    sizes = Qwen3Sizes(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_size=32)
    path = tmp_path_factory.mktemp("model") / "random"
    save_model(new_model(sizes, tokenizer, seed=0), tokenizer, path)
    return path


async def test_a_model_of_random_weights_is_evaluated_and_gets_nothing_right(random_model: Path) -> None:
    found = []
    for concurrency in (2, 6):
        overrides = (
            f'model.path="{random_model}"',
            "eval.num_tasks=6",
            "model.device=cpu",
            "run.deterministic=true",
            "agent.max_steps=2",
            "agent.response_tokens=12",
        )
        config = load_config(None, [*overrides, f"rollout.concurrency={concurrency}"])
        async with build(config) as parts:
            evaluator = Evaluator(runner=parts.runner, source=eval_tasks(config), config=config)
            found.append(await evaluator.greedy())
    assert found[0].score == 0.0
    assert found[0].num_failed == 0
    assert [settled(record) for record in found[0].records] == [settled(record) for record in found[1].records]


def settled(record: Record) -> list[object]:
    """Return the part that must not depend on timing."""
    return [
        (episode.status, episode.answer, [(step.prompt, step.completion) for step in episode.steps])
        for episode in record.episodes
    ]


def test_the_command_refuses_a_scripted_policy_on_tasks_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"question": "What is 2 + 2?", "answer": "4"}\n')
    monkeypatch.chdir(tmp_path)
    assert exit_code("eval", "engine.kind=scripted", "engine.policy=expert", "tasks.eval=tasks.jsonl") == 1
    assert "understands only the built-in world" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_plain_lines_in_a_pipe_and_records_the_episodes(tmp_path: Path) -> None:
    arguments = (
        "engine.kind=scripted",
        "engine.policy=expert",
        "tasks.eval=world/sft",
        "eval.num_tasks=6",
        "eval.sampled_episodes=2",
    )
    command = [sys.executable, "-c", "from lzero.cli import main; main()", "eval", *arguments, "run.dir=out", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "greedy EM: 1.000 (6 episodes of 6 tasks; 95 % from 1.000 to 1.000)" in lines
    assert "greedy EM, 3 hops: 1.000 (2 tasks)" in lines
    assert "pass@2: 1.000 (unbiased)" in lines
    last = json.loads(lines[-1])
    assert (last["score"], last["pass_at_k"], last["run_dir"]) == (1.0, {"1": 1.0, "2": 1.0}, "out")
    assert len(list(read_episodes(tmp_path / "out"))) == 18
