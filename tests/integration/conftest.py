"""A model so small that a whole training run takes seconds."""

from pathlib import Path

import pytest
from small_models import TINY

from lzero.data.world import vocabulary
from lzero.models import build_tokenizer, new_model, save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory: Qwen3 with random weights, and the world's words in its tokenizer. Copy it before changing it."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = build_tokenizer(vocabulary())
    save_model(new_model(TINY, tokenizer, seed=0), tokenizer, directory)
    return directory


@pytest.fixture(scope="session")
def tiny_run(tiny_model: Path) -> tuple[str, ...]:
    """Settings of `lzero train`: two updates, of two tasks with two episodes each, and three held-out tasks."""
    return (
        f"model.path={tiny_model}",
        "train.updates=2",
        "train.checkpoint_every=1",
        "rollout.tasks_per_update=2",
        "rollout.episodes_per_task=2",
        "eval.num_tasks=3",
        "agent.max_steps=2",
        "agent.max_tokens=256",
        "agent.response_tokens=12",
        "repl.zygotes=1",
    )
