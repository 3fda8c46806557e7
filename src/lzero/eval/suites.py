"""Suites: what `lzero eval NAME` evaluates on, as keys of the configuration.

hotpotqa             a set that `lzero data download` has written to data/, its held-out split, with the score that its benchmark reports
raw/hotpotqa         the same in another directory
world, dev.jsonl, hf:OWNER/NAME, package.module:factory      anything that `tasks.eval` takes
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lzero.config.tasks import HUB, names_factory, names_world
from lzero.data.public_sets import PUBLIC_SETS, PublicSet
from lzero.errors import ConfigError
from lzero.rewards.scores import reward_key

DATA = Path("data")
"""Directory of the sets, in which `lzero data download` writes them."""
_SCORERS = ("score", "function")
"""Keys of [reward] that select a scorer."""

Values = dict[str, dict[str, Any]]


def with_suite(values: Mapping[str, Any], name: str, *, data: Path = DATA) -> dict[str, Any]:
    """Return the values of a configuration with the keys that a suite sets: tasks, scorer and the run's name.

    with_suite({}, "gsm8k") == {"tasks": {"eval": "data/gsm8k:test"}, "reward": {"score": "numeric"}, "run": {"name": "gsm8k"}}

    A scorer and a name of the run's in `values` stay. Raises ConfigError for an unknown suite, with the nearest name; for a set that is not
    downloaded; and if `values` name other tasks.
    """
    tasks, known = _tasks_of(name, data)
    own: Values = {section: dict(given) for section, given in values.items() if isinstance(given, Mapping)}
    if "eval" in own.get("tasks", {}):
        raise ConfigError(
            f"the suite {name!r} and tasks.eval = {own['tasks']['eval']!r} both name the tasks: leave one of them out"
        )
    own.setdefault("tasks", {})["eval"] = tasks
    if known is not None:
        own.setdefault("run", {}).setdefault("name", known.name)
        if not any(key in own.get("reward", {}) for key in _SCORERS):
            section, _, key = reward_key(known.scorer).partition(".")
            own.setdefault(section, {})[key] = known.scorer
    return {**values, **own}


def _tasks_of(name: str, data: Path) -> tuple[str, PublicSet | None]:
    """Return the tasks that a suite names, as `tasks.eval` does, and the public set that they are from. Raises ConfigError."""
    before, _, split = name.partition(":")
    path = Path(before).expanduser()
    known = PUBLIC_SETS.get(path.name)
    is_name = known is not None and before == known.name
    if known is not None and (is_name or path.is_dir()):
        directory = data / before if is_name and not path.is_dir() else path
        if not directory.is_dir():
            raise ConfigError(
                f"the suite {before!r} is not here: there is no directory {directory}. Run `lzero data download {before} --out {data}`, "
                f"or name its directory: lzero eval DIRECTORY/{before}"
            )
        return f"{directory}:{_split(known, split)}", known
    is_path = path.exists() or "/" in name or path.suffix != ""
    if is_path or name.startswith(HUB) or names_world(name) or names_factory(name):
        return name, None
    raise ConfigError(unknown(name))


def unknown(name: str) -> str:
    """Return the message about a name that no suite has, with the nearest one."""
    names = ["world", *PUBLIC_SETS]
    (nearest,) = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.0)
    return (
        f"no suite is named {name!r:.80}; did you mean {nearest!r}? There are {', '.join(names)}, anything that tasks.eval takes, "
        "and configuration files (.toml)"
    )


def _split(known: PublicSet, given: str) -> str:
    """Return the split that is evaluated: the given one, else the last of the set's, which is held out. Raises ConfigError."""
    splits = list(known.splits)
    if given and given not in splits:
        raise ConfigError(f"{known.name} has no split {given!r:.80}: it has {', '.join(splits)}")
    return given or splits[-1]
