"""Store runs on disk: a training run's directory, with its episodes as Parquet tables, and an agent's episode as JSON lines."""

from lzero.store.listing import EpisodeLine, find_record, list_episodes, list_questions
from lzero.store.reading import read_episodes, read_records, read_rows
from lzero.store.record import DROP_STRAGGLER, Phase, Record
from lzero.store.run_directory import RunDirectory, check_new
from lzero.store.saved import EPISODE_FILE, SavedEpisode, read_saved, write_saved
from lzero.store.writing import new_directory, write_beneath

__all__ = [
    "DROP_STRAGGLER",
    "EPISODE_FILE",
    "EpisodeLine",
    "Phase",
    "Record",
    "RunDirectory",
    "SavedEpisode",
    "check_new",
    "find_record",
    "list_episodes",
    "list_questions",
    "new_directory",
    "read_episodes",
    "read_records",
    "read_rows",
    "read_saved",
    "write_beneath",
    "write_saved",
]
