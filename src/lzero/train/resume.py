"""Find the checkpoint that a run resumes from, and check that it fits the run's configuration, model and vocabulary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.config import Config
from lzero.errors import ConfigError, ModelError, StoreError
from lzero.models import load_tokenizer, parameter_shapes
from lzero.store import RunDirectory
from lzero.store.resumable import is_resumable
from lzero.text import counted
from lzero.train.checkpoint import LaterFormat, checkpoints, newest_checkpoint, read_manifest, state_files
from lzero.train.stored import stored
from lzero.types import Json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHOWN = 5
"""The most differences that an error names."""


def checkpoint_to_resume(run: RunDirectory) -> Path | None:
    """Return the newest checkpoint of a run; None if it has none. Raises StoreError if it is broken.

    Resuming from an earlier one would repeat updates and forget their records, which only a person should decide.
    """
    found = checkpoints(run.checkpoints)
    if not found:
        return None
    try:
        read_manifest(found[0])
    except LaterFormat:
        raise
    except StoreError as error:
        whole = newest_checkpoint(run.checkpoints)
        assert whole is not None
        broken = " ".join(map(str, found[: found.index(whole)]))
        raise StoreError(f"{error}. To resume from {whole.name} instead, first run: rm -r {broken}") from None
    try:
        stored(state_files(found[0]))  # reads only their headers
    except ModelError as error:
        raise StoreError(f"{error}. To resume from the checkpoint before it, first run: rm -r {found[0]}") from None
    return found[0]


def check_config(checkpoint: Path, config: Config) -> None:
    """Raise StoreError, with each key and both values, if a checkpoint has another configuration than the run.

    Keys that a resumed run may change, and its directory, do not count. Raises ConfigError for fewer updates than the checkpoint has.
    """
    manifest = read_manifest(checkpoint)
    if config.train.updates < manifest.progress.update:
        made = counted(manifest.progress.update, "update")
        raise ConfigError(
            f"train.updates = {config.train.updates} is less than what the run has made ({made}): raise it"
        )
    there, here = _flat(manifest.config), _flat(config.model_dump(mode="json"))
    defaults = _flat(Config().model_dump(mode="json"))
    differences = [
        f"{key} is {_shown(there, key, defaults)} in the checkpoint and {_shown(here, key, defaults)} in this run"
        for key in sorted(there.keys() | here.keys())
        if key != "run.dir" and not is_resumable(key)
        if _shown(there, key, defaults) != _shown(here, key, defaults)
    ]
    if differences:
        raise StoreError(f"{checkpoint} has another configuration than this run: {'; '.join(differences)}")


def check_model(checkpoint: Path, tokenizer: "PreTrainedTokenizerFast", *, initial: Path) -> None:
    """Raise StoreError if the shapes or the vocabulary of a checkpoint differ from those of the model in `initial`.

    `tokenizer` is the checkpoint's. The model in `initial` samples, and is the reference.
    """
    there, here = parameter_shapes(checkpoint), parameter_shapes(initial)
    differences = [
        f"{name} has shape {there.get(name, 'none')} in the checkpoint and {here.get(name, 'none')} in the model"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    own, others = tokenizer.get_vocab(), load_tokenizer(initial).get_vocab()
    differences += [
        f"token {token!r} has id {own.get(token, 'none')} in the checkpoint and {others.get(token, 'none')} in the model"
        for token in sorted(own.keys() | others.keys())
        if own.get(token) != others.get(token)
    ]
    if differences:
        raise StoreError(f"{checkpoint} belongs to another model than the one in {initial}: {_some(differences)}")


def _flat(config: Mapping[str, Json]) -> dict[str, Json]:
    """Return "section.key" → value."""
    return {
        f"{section}.{key}": value
        for section, values in config.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }


def _shown(values: Mapping[str, Json], key: str, defaults: Mapping[str, Json]) -> str:
    """Return a value for an error message. A key that an earlier version lacked has its default."""
    return repr(values[key]) if key in values else repr(defaults[key]) if key in defaults else "no key"


def _some(differences: Sequence[str]) -> str:
    left = len(differences) - SHOWN
    return "; ".join(differences[:SHOWN]) + (f"; and {left} more" if left > 0 else "")
