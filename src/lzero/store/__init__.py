"""What a run leaves on disk: its directory, and the episodes in it as Parquet tables."""

from lzero.store.record import DROP_FAILED, Phase, Record
from lzero.store.run_directory import RunDirectory, check_new, read_episodes, read_groups, read_records

__all__ = [
    "DROP_FAILED",
    "Phase",
    "Record",
    "RunDirectory",
    "check_new",
    "read_episodes",
    "read_groups",
    "read_records",
]
