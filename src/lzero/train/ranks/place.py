"""Find out whether this process is one of several ranks, from torchrun's variables. Imports no torch."""

import ipaddress
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import psutil

from lzero.config import Config
from lzero.errors import ConfigError

KEY_VARIABLE = "LZERO_RANKS_KEY"
"""Environment variable with the secret of a run's ranks."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A rank's place among all, and where they meet."""

    rank: int
    size: int
    local_rank: int
    """The rank's number on its machine: its GPU."""
    host: str
    port: int
    key: str = field(default="", repr=False)
    """Secret of the run's ranks, which signs what they write to their store; "" if it has none."""

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
        key = variables.get(KEY_VARIABLE, "")
        return cls(rank=rank, size=size, local_rank=local_rank, host=variables["MASTER_ADDR"], port=port, key=key)

    def variables(self) -> dict[str, str]:
        """Return torchrun's variables for this place, and that of the ranks' secret."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            **({KEY_VARIABLE: self.key} if self.key else {}),
        }

    def interface(self) -> str | None:
        """Return the loopback interface, if the ranks meet at a loopback address: then all of them are on this machine.

        None for a name other than localhost, which may be a loopback address on its own machine only.
        """
        with suppress(ValueError):
            if self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback:
                for name, addresses in psutil.net_if_addrs().items():
                    if any(address.address == "127.0.0.1" for address in addresses):
                        return name
        return None


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
