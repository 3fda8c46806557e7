"""Which checkpoint a run goes on from, and whether it belongs to it: to its configuration, its model, its vocabulary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lzero.config import Config
from lzero.errors import ConfigError, StoreError
from lzero.models import load_tokenizer, parameter_shapes
from lzero.store import RunDirectory
from lzero.store.run_directory import RESUMABLE
from lzero.text import counted
from lzero.train.checkpoint import LaterFormat, checkpoints, newest_checkpoint, read_manifest
from lzero.types import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHOWN = 5
"""Differences that an error names."""


def checkpoint_to_resume(run: RunDirectory) -> Path | None:
    """The newest checkpoint of a run, None if it has none. Raises StoreError if it is broken: going on from an earlier one
    does updates again, and forgets what is recorded of them; that is for a person to decide."""
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
    return found[0]


def check_config(checkpoint: Path, config: Config) -> None:
    """Refuse a checkpoint of another configuration, but for what a resumed run may change and where it lies. Raises StoreError, which
    names each key and both values; and ConfigError for fewer updates than it has made."""
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
        if key != "run.dir" and not key.startswith(RESUMABLE)
        if _shown(there, key, defaults) != _shown(here, key, defaults)
    ]
    if differences:
        raise StoreError(f"{checkpoint} has another configuration than this run: {'; '.join(differences)}")


def check_model(
    checkpoint: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", *, initial: Path
) -> None:
    """Refuse a checkpoint, loaded as `model` and `tokenizer`, whose shapes or vocabulary are not those of the model in `initial`, which
    samples and is the reference. Raises StoreError with what differs."""
    there = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    here = parameter_shapes(initial)
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
    """ "section.key" → value."""
    return {
        f"{section}.{key}": value
        for section, values in config.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }


def _shown(values: Mapping[str, Json], key: str, defaults: Mapping[str, Json]) -> str:
    """A key that an earlier version did not have was at its default."""
    return repr(values[key]) if key in values else repr(defaults[key]) if key in defaults else "no key"


def _some(differences: Sequence[str]) -> str:
    left = len(differences) - SHOWN
    return "; ".join(differences[:SHOWN]) + (f"; and {left} more" if left > 0 else "")
