"""A model so small that a whole training run takes seconds; a pool and a REPL of its own for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from repl_sessions import no_tools

from lzero.data.world import vocabulary
from lzero.models import Architecture, build_tokenizer, new_model, save_model
from lzero.repl import LocalPool, LocalRepl

TINY = Architecture(hidden_size=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16, mlp_size=16)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: Qwen3 of random weights, with the world's words in its tokenizer. Copy it before changing it."""
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
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    """One zygote for all tests of a module; they have to run in the module's event loop."""
    async with LocalPool() as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def repl(pool: LocalPool) -> AsyncIterator[LocalRepl]:
    repl = await pool.open((), no_tools, seed=7)
    yield repl
    await repl.close()
