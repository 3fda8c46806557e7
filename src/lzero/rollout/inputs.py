"""Fingerprint a run's inputs: tasks, corpus, prompt, model, code. A resumed run must read the same.

Tasks, corpora and prompts are hashed completely (about a second per gigabyte). Of large weight files, 64 blocks each are hashed, because
training changes every part of them. Of code, only the module that a key names is hashed, and a change of it is only a warning.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import attrgetter
from pathlib import Path

import msgspec

from lzero.agent.prompt import template_files
from lzero.config import Config
from lzero.data.sources import Listed, Shuffled
from lzero.engine.kinds import kind_of
from lzero.errors import DataError, StoreError
from lzero.models import resolve
from lzero.plugins import load_object
from lzero.protocols import Environment, TaskSource, WithFiles
from lzero.store.inputs import INPUTS_FILE, Input, read_inputs
from lzero.text import counted
from lzero.types import Task

CODE = ("reward.function", "reward.score", "agent.tools", "agent.use", "environment.use")
"""Keys that name code."""
WHOLE_BYTES = 64 << 20
"""Bytes of the largest model file that is hashed completely."""
BLOCKS, BLOCK_BYTES = 64, 1 << 20


def run_inputs(
    config: Config, training: TaskSource | None, held_out: TaskSource, environment: Environment
) -> dict[str, Input]:
    """Return the inputs of a run, by key; those without a path (the built-in world) are left out.

    `training`: None for an evaluation. Raises ConfigError, DataError, ModelError.
    """
    tasks, prompt = config.tasks, template_files(config.agent)
    found = {"tasks.eval": _tasks(tasks.eval, held_out)}
    if training is not None:
        found["tasks.train"] = _tasks(tasks.train, training)
    if isinstance(environment, WithFiles):
        found |= {f"environment.options.{name}": _files(path) for name, path in environment.reads().items()}
    if prompt:
        files = counted(len(prompt), "file")
        digest = _digest(map(_whole, prompt))
        found["agent.prompt"] = Input(where=config.agent.prompt, holds=files, digest=digest)
    if kind_of(config).TRAINS:  # the other kinds sample from no model directory
        found["model.path"] = _model(config.model.path)
    for key in CODE:
        value = attrgetter(key)(config)
        found[key] = _code([value] if isinstance(value, str) else value, key=key)
    return {key: value for key, value in found.items() if value is not None}


def changes(there: Mapping[str, Input], here: Mapping[str, Input]) -> dict[str, str]:
    """Return key → a sentence for each input that has changed."""
    found = {}
    for key in there.keys() & here.keys():
        old, new = there[key], here[key]
        if old.digest != new.digest:
            now = f"has {new.holds} now" if old.holds != new.holds else "has other contents now, or another order"
            what = f"held {old.holds}, and {now}" if key not in CODE else "has another source now"
            found[key] = f"{key}: {new.where} {what}"
    return dict(sorted(found.items()))


def compare_inputs(run: Path, here: Mapping[str, Input], *, checkpoint: Path | None, accept: bool) -> list[str]:
    """Return notes on the inputs of the run in a directory that have changed. Raises StoreError as `check_inputs` does."""
    there = read_inputs(run)
    if there is None:
        return [f"{run} holds no {INPUTS_FILE}: whether its tasks, corpus, prompt and model are as before is not known"]
    return check_inputs(run, there, here, checkpoint=checkpoint, accept=accept)


def check_inputs(
    run: Path, there: Mapping[str, Input], here: Mapping[str, Input], *, checkpoint: Path | None, accept: bool
) -> list[str]:
    """Return notes on changed inputs that a resumed run accepts: code, and with `accept` all. Raises StoreError for others."""
    found = changes(there, here)
    data = [sentence for key, sentence in found.items() if key not in CODE]
    if data and not accept:
        new_run = (
            f"or train a new run from its last policy: lzero train {run / 'config.toml'} run.dir= model.path={checkpoint}; "
            if checkpoint
            else ""
        )
        raise StoreError(
            f"what the run in {run} reads has changed since it began: {'; '.join(data)}. Put it back; {new_run}"
            "or resume with --accept-changes: scores before and after are then of different inputs"
        )
    return [f"{sentence}; the run goes on with it" for sentence in found.values()]


def _tasks(spec: str, source: TaskSource) -> Input | None:
    listed = source.source if isinstance(source, Shuffled) else source
    if not isinstance(listed, Listed):
        return None
    digest, hash_of = _hash(), cache(_whole)  # many tasks may name one file
    for index in range(len(listed)):
        digest.update(msgspec.json.encode(_content(listed.task(index), hash_of)))
    return Input(where=spec, holds=counted(len(listed), "task"), digest=digest.hexdigest())


def _content(task: Task, hash_of: Callable[[Path], str]) -> list[object]:
    """Return everything in a task that an episode and its reward may depend on."""
    return [
        *(task.id, task.question, task.answers, task.ability, task.source, task.split, task.difficulty, task.hops),
        [(passage.title, passage.text) for passage in task.passages],
        [(Path(file).name, hash_of(Path(file))) for file in task.files],
        sorted(task.metadata.items()),
    ]


def _whole(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, _hash).hexdigest()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _files(path: Path) -> Input:
    """Return the fingerprint of a file, or of all files below a directory with their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = _digest(f"{file.relative_to(path)} {_whole(file)}" for file in files)
    return Input(where=str(path), holds=counted(len(files), "file"), digest=digest)


def _model(path: str) -> Input:
    directory = resolve(path)
    files = sorted(file for file in directory.iterdir() if file.suffix in (".json", ".jinja", ".safetensors"))
    digest = _digest(f"{file.name} {_sampled(file)}" for file in files)
    return Input(where=path, holds=counted(len(files), "file"), digest=digest)


def _sampled(file: Path) -> str:
    """Return a hash of a file's size and of evenly spread blocks, the first and the last included; a small file is hashed whole."""
    size = file.stat().st_size
    if size <= WHOLE_BYTES:
        digest = _hash(file.read_bytes())
    else:
        digest = _hash(str(size).encode())
        with file.open("rb") as opened:
            for number in range(BLOCKS):
                opened.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
                digest.update(opened.read(BLOCK_BYTES))
    return digest.hexdigest()


def _code(specs: Iterable[str], *, key: str) -> Input | None:
    """Return the fingerprint of the modules that import paths name; None if there are none. Raises ConfigError as `load_object` does."""
    paths = [spec for spec in specs if ":" in spec]
    for spec in paths:
        load_object(spec, key=key)
    modules = [sys.modules[spec.partition(":")[0]] for spec in paths]
    names = [getattr(module, "__file__", None) for module in modules]  # built-in modules have none
    files = [Path(name) for name in names if name and Path(name).is_file()]
    if not files:
        return None
    return Input(where=", ".join(paths), holds=counted(len(files), "file"), digest=_digest(map(_whole, files)))


def _digest(parts: Iterable[str]) -> str:
    return _hash("\n".join(parts).encode()).hexdigest()


def _hash(data: bytes = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(data, digest_size=16)
