"""Trackers by name: what TensorBoard reads, what W&B keeps offline, and what is refused before a run begins."""

import subprocess
import sys
from pathlib import Path

import pytest

from lzero.config import Config, make_config
from lzero.errors import ConfigError
from lzero.train.trackers import check_trackers, open_trackers
from lzero.types import Json


def tracked_by(*names: str, wandb: str = "offline") -> Config:
    return make_config({"run": {"trackers": names, "wandb": wandb}})


def test_tensorboard_reads_what_was_tracked_and_a_resumed_run_counts_nothing_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tracked_by("tensorboard")
    with open_trackers(config, tmp_path) as track:
        for update in range(4):
            track("train", update, {"train/loss": float(update)})
        track("eval", 0, {"score": 0.5})
    with open_trackers(config, tmp_path, update=2) as track:
        track("train", 2, {"train/loss": 20.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(0, 0.0), (1, 1.0), (2, 20.0)]
    assert [event.value for event in events.Scalars("eval/score")] == [0.5]


def test_tensorboard_still_shows_the_evaluation_that_a_resumed_run_begins_with(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tracked_by("tensorboard")
    with open_trackers(config, tmp_path) as track:
        track("eval", 0, {"score": 0.25})
        track("train", 0, {"train/loss": 1.0})
        track("train", 1, {"train/loss": 2.0})
        track("eval", 2, {"score": 0.5})
    history: list[dict[str, Json]] = [
        {"phase": "train", "update": 1, "train/loss": 2.0},
        {"phase": "eval", "update": 2, "score": 0.5, "reward/std": None},
    ]
    with open_trackers(config, tmp_path, update=2, history=history) as track:
        track("train", 2, {"train/loss": 3.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/score")] == [(0, 0.25), (2, 0.5)]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from lzero.config import make_config
from lzero.errors import StoreError
from lzero.train.trackers import open_trackers

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with open_trackers(make_config({"run": {"trackers": ["tensorboard"]}}), Path(sys.argv[1])) as track:
        for update in range(1000):
            track("train", update, {"train/loss": 1.0})
except StoreError as error:
    print(error)
"""


def test_a_disk_that_has_no_room_for_tensorboard_is_one_clear_error(tmp_path: Path) -> None:
    command = (sys.executable, "-c", FULL_DISK, str(tmp_path))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    assert done.stdout.startswith(f"cannot write {tmp_path}/tensorboard: File too large")


def test_wandb_stays_on_the_machine_and_a_resumed_run_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    run = tmp_path / "run"
    run.mkdir()
    for update in range(2):
        with open_trackers(tracked_by("wandb"), run, update=update) as track:
            track("train", update, {"train/loss": 1.5})
    name = (run / "wandb" / "id").read_text()
    kept = sorted(path.name for path in (run / "wandb").glob("offline-run-*"))
    assert len(kept) == 2
    assert all(path.endswith(f"-{name}") for path in kept)
    written = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"train/loss" in written
    assert b"x" * 40 not in written


def test_a_run_goes_on_when_the_service_of_wandb_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of this very process
    command = (sys.executable, "-c", DEAD_SERVICE, str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "went on\n"
    assert done.stderr.count("Weights & Biases failed (") == 1


DEAD_SERVICE = """
import sys
from pathlib import Path
import psutil
from lzero.config import make_config
from lzero.train.trackers import open_trackers

with open_trackers(make_config({"run": {"trackers": ["wandb"]}}), Path(sys.argv[1])) as track:
    (service,) = (child for child in psutil.Process().children() if "wandb" in child.name())
    service.kill()
    service.wait(timeout=30)
    for update in range(1000):
        track("train", update, {"train/loss": 1.0})
print("went on")
"""


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'"tensorboard" is not installed: pip install "lzero\[tracking\]"'):
        check_trackers(tracked_by("tensorboard"))


def test_wandb_online_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="needs a key: set WANDB_API_KEY"):
        check_trackers(tracked_by("wandb", wandb="online"))
    check_trackers(tracked_by("wandb"))


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.trackers"):
        tracked_by("tensorbord")
