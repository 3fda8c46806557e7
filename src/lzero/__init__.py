"""lzero: train language models, by reinforcement learning with verifiable rewards, to act as general agents."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lzero.agent import NBAgent, Watcher
    from lzero.algo.credit import Estimator
    from lzero.algo.loss import Loss
    from lzero.config import Config, load_config, make_config
    from lzero.environments import corpus_search
    from lzero.errors import LzeroError, ToolError
    from lzero.protocols import Environment, Scene, TaskSource, Tool
    from lzero.repl import LocalPool
    from lzero.rewards.context import RewardContext
    from lzero.tools import tool
    from lzero.types import Episode, Reward, Step, Task

__version__ = "0.1.0"

_MODULES = {
    "Config": "lzero.config",
    "Environment": "lzero.protocols",
    "Episode": "lzero.types",
    "Estimator": "lzero.algo.credit",
    "LocalPool": "lzero.repl",
    "Loss": "lzero.algo.loss",
    "LzeroError": "lzero.errors",
    "NBAgent": "lzero.agent",
    "Reward": "lzero.types",
    "RewardContext": "lzero.rewards.context",
    "Scene": "lzero.protocols",
    "Step": "lzero.types",
    "Task": "lzero.types",
    "TaskSource": "lzero.protocols",
    "Tool": "lzero.protocols",
    "ToolError": "lzero.errors",
    "Watcher": "lzero.agent",
    "corpus_search": "lzero.environments",
    "load_config": "lzero.config",
    "make_config": "lzero.config",
    "tool": "lzero.tools",
}
"""Public name → module that defines it, imported when the name is first used. Only `Loss` needs torch."""

__all__ = [
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


if not TYPE_CHECKING:  # else a type checker would take any name for a public one

    def __getattr__(name):
        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        raise AttributeError(f"module 'lzero' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
