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
        metavar="PATH", help="A directory written by lzero run, its episode.jsonl, or the directory of a training run."
    ),
]
EpisodeId = Annotated[str, typer.Option("--episode", help="Id of an episode of a training run.")]


def open_saved(path: Path, episode_id: str) -> "SavedEpisode":
    """Raises StoreError, and ConfigError for an `episode_id` that would not act."""
    from lzero.store import read_saved

    if (path / "config.toml").is_file():
        return _of_training(path, episode_id)
    if episode_id:
        raise ConfigError(f"--episode {episode_id} has no effect: {path} is not the directory of a training run")
    return read_saved(path)


def _of_training(path: Path, episode_id: str) -> "SavedEpisode":
    from lzero.store import RunDirectory, SavedEpisode, read_episodes, read_records

    config = RunDirectory.open(path).config
    for record in read_records(path) if episode_id else ():
        for episode in record.episodes:
            if episode.id == episode_id:
                sections = config.model_dump(mode="json")
                return SavedEpisode(task=record.task, episode=episode, model=config.model.path, config=sections)
    some = ", ".join(episode.id for episode in islice(read_episodes(path), 3)) or "it has none yet"
    problem = f"there is no episode {episode_id!r}" if episode_id else "it has many episodes"
    raise StoreError(f"{path} is a training run: {problem}; name one with --episode ({some} …)")
