"""Find out whether this process is one of several ranks, from torchrun's variables. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from lzero.config import Config
from lzero.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Place:
    """A rank's place among all, and where they meet."""

    rank: int
    size: int
    local_rank: int
    """The rank's number on its machine: its GPU."""
    host: str
    port: int

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Self | None:
        """Return the place that torchrun's variables name; None if there are none. Raises ConfigError if they are incomplete or wrong."""
        if "RANK" not in variables or "WORLD_SIZE" not in variables:
            return None
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not variables.get(name)]
        if missing:
            raise ConfigError(
                f"RANK and WORLD_SIZE are set, but not {' and '.join(missing)}: start the ranks with torchrun, or set all of its variables"
            )
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
        try:
            rank, size, local_rank, port = (int(variables.get(name) or variables["RANK"]) for name in names)
        except ValueError as error:
            raise ConfigError(f"{', '.join(names)} have to be whole numbers: {error}") from None
        if not 0 <= rank < size:
            raise ConfigError(f"RANK = {rank} does not fit WORLD_SIZE = {size}: ranks are numbered from 0")
        return cls(rank=rank, size=size, local_rank=local_rank, host=variables["MASTER_ADDR"], port=port)

    def variables(self) -> dict[str, str]:
        """Return torchrun's variables for this place."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }


def placed(config: Config) -> tuple[Config, Place | None]:
    """Return the configuration with `train.ranks` as torchrun started them, and this process's place; None without torchrun.

    Raises ConfigError if the configuration names another number of ranks.
    """
    place = Place.from_environment(os.environ)
    if place is None:
        return config, None
    if config.train.ranks not in (1, place.size):
        raise ConfigError(
            f"train.ranks = {config.train.ranks}, but {place.size} ranks were started (WORLD_SIZE): leave the key out, or make them equal"
        )
    train = config.train.model_copy(update={"ranks": place.size})
    return config.model_copy(update={"train": train}), place
