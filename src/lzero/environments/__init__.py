"""Worlds that agents act in. `environment.use` names a built-in one (BUILT_IN), or yours by its import path.

An environment opens a scene for each episode: the episode's tools, its first observation, and its state at the end. `environment.use` may
name any callable that makes an object with the methods of `lzero.protocols.Environment`; its parameters are the options.
"""

from lzero.config import EnvironmentConfig
from lzero.environments.search import corpus_search
from lzero.errors import ConfigError
from lzero.plugins import find_plugin, make_plugin
from lzero.protocols import Environment

BUILT_IN = {
    "search": "lzero.environments.search:SearchEnvironment",
    "none": "lzero.environments.stateless:Nothing",
    "trl": "lzero.environments.trl:TrlEnvironment",
}
"""Name → import path."""

__all__ = ["BUILT_IN", "corpus_search", "open_environment"]


def open_environment(config: EnvironmentConfig) -> Environment:
    """Return the environment that `environment.use` names, with its options.

    Raises ConfigError if it cannot be used, and DataError if its data cannot be read.
    """
    setting = f'environment.use = "{config.use}"'
    factory = find_plugin(config.use, BUILT_IN, key="environment.use")
    made = make_plugin(factory, options=config.options, setting=setting, key="environment.options")
    missing = [name for name in ("scene", "close") if not callable(getattr(made, name, None))]
    if missing:
        raise ConfigError(f"{setting} makes a {type(made).__name__}, which has no method {' and no '.join(missing)}")
    environment: Environment = made
    return environment
