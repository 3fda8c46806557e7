"""`inputs.json` in a run's directory: fingerprints of the files that the run read, so that a resumed run reads the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from lzero.errors import StoreError
from lzero.paths import read_bounded
from lzero.store.writing import write_whole

INPUTS_FILE: Final = "inputs.json"
MAX_BYTES: Final = 16 << 20
"""Largest inputs.json."""


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fingerprint of what one key of the configuration names. `Input(where="train.jsonl", holds="5 tasks", digest="9f…")`."""

    where: str
    """The key's value."""
    holds: str
    """Size in words, for messages."""
    digest: str
    """Hash of the content, in its order; independent of the path."""


def write_inputs(run: Path, inputs: Mapping[str, Input]) -> None:
    """Write the inputs of a run, by key. Raises StoreError."""
    write_whole(run / INPUTS_FILE, msgspec.json.format(msgspec.json.encode(inputs)))


def read_inputs(run: Path) -> dict[str, Input] | None:
    """Read what `write_inputs` wrote; None if nothing did. Raises StoreError for a file that is broken."""
    file = run / INPUTS_FILE
    try:
        return msgspec.json.decode(read_bounded(file, max_bytes=MAX_BYTES), type=dict[str, Input])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise StoreError(f"{file} cannot be read: {error}. To resume without comparing the inputs: rm {file}") from None
