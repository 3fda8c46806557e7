"""What `lzero show` and `lzero replay` are given: a saved run of an agent, or an episode of a training run."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lzero.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from lzero.store import SavedEpisode

SavedPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH", help="A directory that lzero run has written, its episode.jsonl, or a training run's directory."
    ),
]
EpisodeId = Annotated[str, typer.Option("--episode", help="Which episode of a training run, by its id.")]


def open_saved(path: Path, episode_id: str) -> "SavedEpisode":
    """Raises StoreError, and ConfigError for an `episode_id` that would not act."""
    from lzero.store import read_saved

    if (path / "config.toml").is_file():
        return _of_training(path, episode_id)
    if episode_id:
        raise ConfigError(f"--episode {episode_id}: acts with a training run's directory, and {path} is none")
    return read_saved(path)


def _of_training(path: Path, episode_id: str) -> "SavedEpisode":
    from lzero.store import RunDirectory, SavedEpisode, read_episodes, read_records

    config = RunDirectory.open(path).config
    for record in read_records(path) if episode_id else ():
        for episode in record.episodes:
            if episode.id == episode_id:
                sections = config.model_dump(mode="json")
                return SavedEpisode(task=record.task, episode=episode, model=config.model.path, config=sections)
    some = ", ".join(episode.id for episode in islice(read_episodes(path), 3)) or "it holds none yet"
    problem = f"there is no episode {episode_id!r}" if episode_id else "it holds many episodes"
    raise StoreError(f"{path} is a training run: {problem}; name one with --episode ({some} …)")
