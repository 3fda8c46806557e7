"""Token budgets fit the model, if the configuration sets none."""

import json
from pathlib import Path
from typing import Any

import pytest

from lzero.config import Config, make_config
from lzero.models import ASSETS
from lzero.rollout.budgets import fit_budgets


def model(path: Path, **settings: Any) -> str:
    (path / "config.json").write_text(json.dumps({"vocab_size": 151_936, **settings}))
    return str(path)


def budgets(path: str, **agent: int) -> tuple[int, int]:
    fitted = fit_budgets(make_config({"model": {"path": path}, "agent": agent})).agent
    return fitted.max_tokens, fitted.response_tokens


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"max_position_embeddings": 131_072}, 16_384),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 2048}}, 2048),
        ({"max_position_embeddings": 32_768, "sliding_window": 4096}, 4096),
        ({"max_position_embeddings": 32_768, "sliding_window": 4096, "use_sliding_window": False}, 16_384),
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": "many", "rope_parameters": []}, 16_384),
        ({}, 16_384),
    ],
)  # fmt: skip
def test_a_model_gets_what_its_context_holds(settings: dict[str, Any], tokens: int, tmp_path: Path) -> None:
    assert budgets(model(tmp_path, **settings)) == (tokens, tokens // 4)


def test_what_is_set_stays(tmp_path: Path) -> None:
    path = model(tmp_path, max_position_embeddings=8192)
    assert budgets(path, max_tokens=1000) == (1000, 250)
    assert budgets(path, response_tokens=100) == (8192, 100)
    assert budgets(path, max_tokens=500, response_tokens=100) == (500, 100)


def test_the_nano_and_what_was_made_from_it_keep_theirs(tmp_path: Path) -> None:
    default = (Config().agent.max_tokens, Config().agent.response_tokens)
    for path in ("nano", "fresh", str(ASSETS / "nano"), str(tmp_path / "missing")):
        assert budgets(path) == default
    (tmp_path / "config.json").write_text("{ cut")
    assert budgets(str(tmp_path)) == (16_384, 4096)


def test_a_checkpoint_gets_the_budgets_that_it_was_trained_with(tmp_path: Path) -> None:
    path = model(tmp_path, max_position_embeddings=8192)
    (tmp_path / "trainer.json").write_text(
        json.dumps({"config": {"agent": {"max_tokens": 700, "response_tokens": 70}}})
    )
    assert budgets(path) == (700, 70)
    assert budgets(path, max_tokens=900) == (900, 70)
