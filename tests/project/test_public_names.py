"""`import lzero`: the names that people need, each from one place, and quick to have."""

import subprocess
import sys

import pytest

import lzero

NAMES = [
    "Config",
    "Environment",
    "Episode",
    "Estimator",
    "LocalPool",
    "Loss",
    "LzeroError",
    "NBAgent",
    "Reward",
    "RewardContext",
    "Scene",
    "Step",
    "Task",
    "TaskSource",
    "Tool",
    "ToolError",
    "Watcher",
    "corpus_search",
    "load_config",
    "make_config",
    "tool",
]
NEED_TORCH = {"Loss"}


def test_the_public_names_are_these() -> None:
    assert lzero.__all__ == NAMES == sorted(lzero._MODULES)
    assert set(NAMES) <= set(dir(lzero))


def test_each_name_is_there_and_documented() -> None:
    assert all(getattr(lzero, name).__doc__ for name in NAMES)
    with pytest.raises(AttributeError, match="module 'lzero' has no attribute 'Agent'"):
        _ = lzero.Agent  # type: ignore[attr-defined]


def test_no_name_needs_torch_but_those_that_speak_of_tensors() -> None:
    code = f"""
import sys, lzero
for name in {sorted(set(NAMES) - NEED_TORCH)}:
    getattr(lzero, name)
    assert "torch" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
