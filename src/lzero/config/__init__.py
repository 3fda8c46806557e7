"""Every configuration key, once: its type, its default and its description.

The defaults are the demo: reinforcement learning of the bundled nano model on the built-in world. A run's configuration is the defaults,
changed by a TOML file, changed by dotted overrides (`algo.kl_coef=0.01`). Importing it does not load torch.
"""

from lzero.config.agent import AgentConfig
from lzero.config.base import NANO, ROW_FILES, Section
from lzero.config.engine import (
    ChatEngineConfig,
    EngineConfig,
    LocalEngineConfig,
    ScriptedEngineConfig,
    SGLangEngineConfig,
    VLLMEngineConfig,
)
from lzero.config.reading import Config, keys, load_config, make_config, read_values
from lzero.config.repl import ReplConfig
from lzero.config.run import LaunchConfig, ModelConfig, RunConfig
from lzero.config.tasks import (
    HUB,
    EnvironmentConfig,
    JudgeConfig,
    RewardConfig,
    TasksConfig,
    names_factory,
    names_world,
)
from lzero.config.tools import ToolsConfig
from lzero.config.training import (
    AlgoConfig,
    CriticConfig,
    EvalConfig,
    LoraConfig,
    RolloutConfig,
    SftConfig,
    TrainConfig,
)

__all__ = [
    "HUB",
    "NANO",
    "ROW_FILES",
    "AgentConfig",
    "AlgoConfig",
    "ChatEngineConfig",
    "Config",
    "CriticConfig",
    "EngineConfig",
    "EnvironmentConfig",
    "EvalConfig",
    "JudgeConfig",
    "LaunchConfig",
    "LocalEngineConfig",
    "LoraConfig",
    "ModelConfig",
    "ReplConfig",
    "RewardConfig",
    "RolloutConfig",
    "RunConfig",
    "SGLangEngineConfig",
    "ScriptedEngineConfig",
    "Section",
    "SftConfig",
    "TasksConfig",
    "ToolsConfig",
    "TrainConfig",
    "VLLMEngineConfig",
    "keys",
    "load_config",
    "make_config",
    "names_factory",
    "names_world",
    "read_values",
]
