"""Apply `--addresses` and `--ray`, which say where the programs of a run are, to a configuration."""

from pathlib import Path
from typing import TYPE_CHECKING

from lzero.errors import ConfigError

if TYPE_CHECKING:
    from lzero.config import Config


def with_addresses(config: "Config", file: Path | None) -> "Config":
    """Return the configuration of a run whose servers are those of an address file; None: the configuration as it is.

    The run follows the file's pool servers while it goes on. Its vLLM servers are those that the file names now. Raises ConfigError if the
    file cannot be read, names none, or names vLLM servers for an engine that samples elsewhere.
    """
    if file is None:
        return config
    from lzero.launch.addresses import read_addresses

    found, changes = read_addresses(file), dict[str, object]()
    if found.engine:
        if "urls" not in type(config.engine).model_fields:
            raise ConfigError(
                f'{file} names servers to sample from, and engine.kind = "{config.engine.kind}" uses none: set engine.kind to "vllm"'
            )
        changes["engine"] = config.engine.model_copy(update={"urls": found.engine})
    if found.pool or not found.engine:  # a file without any address waits for pool servers
        changes["repl"] = config.repl.model_copy(update={"addresses": str(file.absolute()), "servers": ()})
    return config.model_copy(update=changes)


def with_ray(config: "Config", address: str) -> "Config":
    """Return the configuration of a run whose programs start on a Ray cluster; "": the configuration as it is."""
    from lzero.config import LaunchConfig

    return config.model_copy(update={"launch": LaunchConfig(ray=address)}) if address else config
