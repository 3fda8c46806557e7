"""One run of an agent, as a directory.

episode.jsonl    the episode and what it was made with, typed (`lzero.store.saved`)
notebook.ipynb   the same for people (`lzero.agent.notebook`)
files/           what the workspace held, where it was asked for
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lzero.agent.notebook import to_notebook
from lzero.store import SavedEpisode, write_beneath, write_saved
from lzero.store.writing import write_whole

NOTEBOOK_FILE: Final = "notebook.ipynb"
FILES_DIRECTORY: Final = "files"


def save_run(directory: Path, saved: SavedEpisode, files: Mapping[str, bytes] | None = None) -> tuple[str, ...]:
    """Write all of it, each file whole or not at all; a failed or interrupted episode is saved like any other.

    Returns the paths of `files` that could not be written: names are the agent's. Raises StoreError.
    """
    write_saved(directory, saved)
    write_whole(directory / NOTEBOOK_FILE, to_notebook(saved))
    return write_beneath(directory / FILES_DIRECTORY, files) if files else ()
