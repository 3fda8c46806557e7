"""Open the argument of `lzero show` and `lzero replay`: a saved run of an agent, or an episode of a training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from lzero.store import SavedEpisode
    from lzero.types import Reward

SavedPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="A directory written by lzero run, its episode.jsonl, or the directory of a training run."
    ),
]


@dataclass(frozen=True)
class OpenedEpisode:
    """A saved episode; if it belongs to a training run, also its reward and the reason why it was not trained on."""

    saved: "SavedEpisode"
    reward: "Reward | None" = None
    dropped: str = ""


def is_training_run(path: Path) -> bool:
    return (path / "config.toml").is_file()


def open_saved(path: Path, episode_id: str) -> OpenedEpisode:
    """Open an episode; `episode_id` names one of a training run. Raises StoreError, and ConfigError for an id that has no effect."""
    from lzero.store import read_saved

    if is_training_run(path):
        return _of_training(path, episode_id)
    if episode_id:
        raise ConfigError(f"{episode_id!r} names an episode, but {path} is not the directory of a training run")
    return OpenedEpisode(read_saved(path))


def _of_training(path: Path, episode_id: str) -> OpenedEpisode:
    from lzero.engine.kinds import kind_of
    from lzero.store import RunDirectory, SavedEpisode, find_record

    config = RunDirectory.open(path).config
    record = find_record(path, episode_id) if episode_id else None
    if record is None:
        problem = f"has no episode {episode_id!r}" if episode_id else "has many episodes: name one by its id"
        raise StoreError(f"{path} {problem} (lzero show {path} lists them)")
    sections = config.model_dump(mode="json")
    model = kind_of(config).model_name(config)
    saved = SavedEpisode(task=record.task, episode=record.episodes[0], model=model, config=sections)
    return OpenedEpisode(saved, record.rewards[0], record.drop_reasons[0])
