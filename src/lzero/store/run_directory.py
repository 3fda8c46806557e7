"""The directory of a run.

    config.toml       the resolved configuration; `lzero train RUN/config.toml run.dir=` repeats the run in a new directory
    inputs.json       fingerprints of what the run reads from paths: tasks, corpus, prompt, model, code (`lzero.store.inputs`)
    versions.json     the command that made the run; versions of Python, the platform and the libraries that results depend on
    engine.jsonl      version and settings of the servers that sample, a line for each start of the run
    vllm-0.log …      logs of the vLLM servers that lzero started
    sandbox.jsonl     the isolation of the REPLs, a line for each start of the run: tier, kernel, control groups, limits, what is unbounded
    metrics.jsonl     a line for each update or evaluation
    run.log           the log, with times
    episodes/<table>/<phase>-<update>.parquet
    questions/              finished questions of an evaluation under way (`lzero.eval.finished`)
    finished/ order.jsonl   groups that finished before they are trained on, and the order of training (`lzero.store.finished`)
    checkpoints/ tensorboard/ wandb/   the last two if run.trackers asks for them

The .jsonl files and run.log grow. Every other file is written under another name and renamed, so it is complete or absent. `update` counts
from 0. Policy version u sampled all episodes of update u, in training and in evaluation.
"""

import fcntl
import importlib.metadata
import io
import logging
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

import lzero
from lzero.config import Config, load_config
from lzero.errors import ConfigError, StoreError
from lzero.paths import read_bounded
from lzero.store.reading import check_run
from lzero.store.record import Phase, Record
from lzero.store.resumable import FIXED, RESUMABLE, is_resumable
from lzero.store.schemas import RECORD_TABLES
from lzero.store.tables import to_table, to_tables
from lzero.store.writing import append_whole, as_store_error, new_directory, write_whole
from lzero.types import Json
from lzero.visible import VisibleFormatter

logger = logging.getLogger(__name__)

MAX_METRICS_BYTES, MAX_METRICS_VALUES = 1 << 30, 40_000_000
"""Bytes and values of the largest metrics.jsonl that is read: that of some hundred thousand updates."""
MAX_VERSIONS_BYTES = 1 << 20
"""Bytes of the largest versions.json that is read."""
RESUMING = ("lzero train", "lzero eval")
"""Commands that resume their runs."""

QUESTIONS = "questions"
"""Directory of the finished questions of evaluations under way."""

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "msgspec", "pydantic")
"""Libraries whose versions a run records."""


class RunDirectory:
    """The files of a run. `create` makes a new directory, `open` opens an existing one."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(cls, config: Config, *, command: str = "lzero train") -> Self:
        """Make a new directory at `run.dir`, or at a default path that no other run has. Raises StoreError if it exists.

        `command` is the one that can resume the run.
        """
        path = _make_directory(config)
        run = cls(path, config.model_copy(update={"run": config.run.model_copy(update={"dir": str(path)})}))
        # First, because on a full disk only an empty directory remains, which `create` accepts.
        run.keep_changes()
        run._make_parts(command)
        return run

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Open the run at `path`. `overrides` change its configuration in memory; `keep_changes` writes them.

        Raises StoreError if there is no run, ConfigError for a change that a resumed run may not make.
        """
        file = path / "config.toml"
        check_run(path)
        try:
            config = load_config(file)
        except ConfigError as error:
            raise StoreError(f"the configuration of the run in {path} is invalid: {error}") from None
        for override in overrides:
            if not is_resumable(override.partition("=")[0]):
                allowed = ", ".join(f"{section}*" for section in RESUMABLE)
                raise ConfigError(
                    f"{override!r} would change what the run in {path} is; a resumed run may change only {allowed}, "
                    f"without {', '.join(FIXED)}"
                )
        return cls(path, load_config(file, overrides) if overrides else config)

    def keep_changes(self) -> None:
        """Write the current configuration to config.toml. Raises StoreError."""
        write_whole(self.path / "config.toml", tomli_w.dumps(self.config.model_dump(mode="json")).encode())

    def write_records(self, records: Sequence[Record], *, phase: Phase, update: int) -> None:
        """Write all tables of these records, and replace files of an earlier attempt at the same update. Raises StoreError."""
        tables = to_tables(records, phase=phase, update=update)
        for name in RECORD_TABLES:
            self._write_table(name, tables[name], phase=phase, update=update)

    def write_advantages(self, advantages: Mapping[str, Sequence[float]], *, update: int) -> None:
        """Write a side table: episode id → one advantage per step. Raises StoreError."""
        rows = [
            {"episode_id": episode_id, "step": step, "advantage": value}
            for episode_id, values in advantages.items()
            for step, value in enumerate(values)
        ]
        self._write_table("advantages", to_table("advantages", rows), phase="train", update=update)

    def write_skipped(self, rows: Sequence[Mapping[str, Any]], *, update: int) -> None:
        """Write a side table: the samples of optimiser steps that were skipped (`lzero.train.skipped`). Raises StoreError."""
        self._write_table("skipped", to_table("skipped", rows), phase="train", update=update)

    def append_metrics(self, metrics: Mapping[str, Json], *, phase: Phase, update: int) -> None:
        """Append a line to metrics.jsonl, `{"phase": …, "update": …, **metrics}`, or nothing and raise StoreError."""
        line = msgspec.json.encode({"phase": phase, "update": update, **metrics})
        append_whole(self.path / "metrics.jsonl", line + b"\n")

    def append_facts(self, about: Literal["engine", "sandbox"], facts: Mapping[str, Json]) -> None:
        """Append a line to engine.jsonl or sandbox.jsonl at the start of the run, or nothing and raise StoreError."""
        append_whole(self.path / f"{about}.jsonl", msgspec.json.encode(facts) + b"\n")

    def keep_log(self, name: str, log: Path) -> None:
        """Append the log of a program to the file of this name; if that fails, log a warning, as the run itself has not failed."""
        try:
            with log.open("rb") as source, (self.path / name).open("ab") as kept:
                shutil.copyfileobj(source, kept)
        except OSError as error:
            logger.warning("cannot keep %s of the run in %s: %s", name, self.path, error.strerror)

    def read_metrics(self) -> list[dict[str, Json]]:
        """Return the lines of metrics.jsonl, without a last one that a crash truncated. Raises StoreError."""
        file = self.path / "metrics.jsonl"
        with as_store_error(file):
            text = (
                read_bounded(file, max_bytes=MAX_METRICS_BYTES, max_values=MAX_METRICS_VALUES) if file.exists() else b""
            )
        try:
            lines: list[dict[str, Json]] = [
                msgspec.json.decode(line, type=dict[str, Json]) for line in text.split(b"\n")[:-1]
            ]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StoreError(f"{file} has a line that is not a JSON object: {error}") from None
        for number, line in enumerate(lines, 1):
            if not (isinstance(line.get("phase"), str) and isinstance(line.get("update"), int)):
                raise StoreError(
                    f"{file}: line {number} has no text `phase` or no whole number `update`. Remove the line"
                )
        return lines

    def score(self, version: int) -> float | None:
        """Return the held-out score that the greedy evaluation of a policy version recorded; None if there is none. Raises StoreError."""
        for line in self.read_metrics():
            score = line.get("score")
            if (line["phase"], line["update"]) == ("eval", version) and isinstance(score, float):
                return score
        return None

    def check_command(self, command: str) -> None:
        """Raise ConfigError if another command made the run. Without a record of it, a run that has trained is one of `lzero train`."""
        try:
            text = read_bounded(self.path / "versions.json", max_bytes=MAX_VERSIONS_BYTES)
            made_by = msgspec.json.decode(text, type=dict[str, str])
        except (OSError, msgspec.MsgspecError):
            made_by = {}
        has_trained = any(self.checkpoints.glob("*")) or any((self.path / "episodes").glob("*/train-*.parquet"))
        if (maker := made_by.get("command", "lzero train" if has_trained else command)) != command:
            fix = f"resume it with {maker} --resume {self.path}" if maker in RESUMING else "it cannot be resumed"
            raise ConfigError(f"{self.path} is a run of {maker}: {fix}")

    def rewind(self, update: int) -> None:
        """Prepare to resume from policy version `update`: remove everything that the run will repeat. Raises StoreError.

        It removes training of updates ≥ `update`, evaluations of later versions, and an incomplete evaluation of this version, but for the
        questions that it has finished.
        """
        self._make_parts()
        lines = self.read_metrics()
        phases = {line["phase"] for line in lines if line["update"] == update}
        is_evaluated = phases >= ({"eval", "sampled"} if self.config.eval.sampled_episodes else {"eval"})

        def is_ahead(phase: object, number: object) -> bool:
            assert isinstance(number, int)
            return number > update or (number == update and (phase == "train" or not is_evaluated))

        self._remove(lines, is_ahead)
        for file in (self.path / QUESTIONS).glob("*-*.jsonl"):
            number = file.stem.partition("-")[2]
            if number.isdecimal() and int(number) > update:
                with as_store_error(file):
                    file.unlink()

    def forget_evaluation(self, phase: Phase, update: int) -> None:
        """Remove the episodes and metrics of an evaluation that is about to be made again. Raises StoreError."""
        self._remove(self.read_metrics(), lambda other, number: (other, number) == (phase, update))

    def _remove(self, lines: Sequence[Mapping[str, Json]], is_unwanted: Callable[[object, object], bool]) -> None:
        """Remove tables and lines of metrics by their phase and update."""
        for file in sorted((self.path / "episodes").glob("*/*.parquet")):
            phase, _, number = file.stem.partition("-")
            if number.isdecimal() and is_unwanted(phase, int(number)):
                with as_store_error(file):
                    file.unlink()
        kept = [line for line in lines if not is_unwanted(line["phase"], line["update"])]
        if len(kept) < len(lines):
            write_whole(self.path / "metrics.jsonl", b"".join(msgspec.json.encode(line) + b"\n" for line in kept))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the run during the block, so that no other process works in it. Raises StoreError if another process holds the lock.

        The lock ends with its process, even if that is killed.
        """
        with as_store_error(self.path):
            log = (self.path / "run.log").open("ab")
        with log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(f"another process uses {self.path}: wait until it ends, or stop it") from None
            except OSError as error:
                logger.warning(
                    "%s: its file system has no locks (%s); make sure that only one process writes there",
                    self.path,
                    error,
                )
            yield

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Write messages of the loggers below "lzero", and warnings of libraries, to run.log within this context."""
        with as_store_error(self.path):
            log = _LogFile(self.path / "run.log")
        handler = logging.StreamHandler(log)
        handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("lzero")
        level = logger.level
        warned = logging.getLogger("py.warnings")
        logger.addHandler(handler)
        warned.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            warned.removeHandler(handler)
            log.close()

    def _make_parts(self, command: str = "") -> None:
        """Make the parts that are missing; a run may have been killed while it was made."""
        with as_store_error(self.path):
            self.checkpoints.mkdir(exist_ok=True)
            (self.path / "episodes").mkdir(exist_ok=True)
        if not (self.path / "versions.json").exists():
            made_by = {"command": command} if command else {}
            write_whole(self.path / "versions.json", msgspec.json.format(msgspec.json.encode(made_by | versions())))

    def _write_table(self, name: str, table: pa.Table, *, phase: Phase, update: int) -> None:
        file = self.path / "episodes" / name / f"{phase}-{update:06d}.parquet"
        with as_store_error(file):
            file.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_whole(file, buffer.getvalue())


def versions() -> dict[str, str]:
    """Return the versions of everything that a result may depend on, without importing a library."""
    found = {"lzero": lzero.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def check_new(config: Config) -> None:
    """Check before a command does any work that `run.dir` is absent or empty. Raises StoreError if it is not."""
    path = Path(config.run.dir)
    if config.run.dir and path.exists() and not path.is_dir():
        raise StoreError(f"run.dir = {path} is a file: name a new directory")
    if config.run.dir and path.exists() and any(path.iterdir()):
        raise StoreError(
            f"the run directory {path} exists: name another one (run.dir=…), or resume its run with --resume {path}"
        )


class _LogFile:
    """A text stream that drops text on a full disk, because the log must not stop a run. Writing the records stops it."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("ab", buffering=0)

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text.encode())

    def flush(self) -> None:
        """Do nothing: no text is buffered."""

    def close(self) -> None:
        self._file.close()


def _make_directory(config: Config) -> Path:
    if config.run.dir:
        check_new(config)
        path = Path(config.run.dir)
        with as_store_error(path):
            path.mkdir(parents=True, exist_ok=True)
        return path
    return new_directory(config.run.name)
