"""Show the metrics of metrics.jsonl in TensorBoard and Weights & Biases while the run goes on (`run.trackers`).

    tensorboard   RUN/tensorboard/      tensorboard --logdir RUN/tensorboard
    wandb         RUN/wandb/            offline: nothing leaves the machine until `wandb sync`; online with run.wandb = "online"

Metrics of training keep their names; those of evaluations get the prefix `eval/` or `sampled/`. The packages are in the extra
lzero[tracking].
"""

import importlib.util
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import tomli_w

from lzero.config import Config
from lzero.errors import ConfigError, TrainError
from lzero.store import Phase
from lzero.store.writing import as_store_error, write_whole
from lzero.tools.keys import find_key, need_key
from lzero.types import Json

logger = logging.getLogger(__name__)
KEY = "WANDB_API_KEY"
PROJECT = "lzero"

Track = Callable[[Phase, int, Mapping[str, float]], None]
"""Receives (phase, update, metrics), as they are appended to metrics.jsonl."""


def check_trackers(config: Config) -> None:
    """Raise ConfigError for a tracker without its package or key."""
    for name in config.run.trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f'run.trackers: "{name}" is not installed: pip install "lzero[tracking]"')
    if "wandb" in config.run.trackers and config.run.wandb == "online":
        need_key(KEY, purpose='run.wandb = "online"', env_file=config.tools.env_file)


@contextmanager
def open_trackers(
    config: Config, directory: Path, *, update: int = 0, history: Sequence[Mapping[str, Json]] = ()
) -> Iterator[Track]:
    """Yield a function that sends metrics to every tracker of the run in `directory`, which resumes from `update`.

    `history`: the lines of metrics.jsonl. TensorBoard drops all metrics of an update that is repeated. The evaluations of this policy are
    not repeated, so they are sent again from `history`.

    Raises TrainError if a service cannot be reached, StoreError for a full disk.
    """
    openers = {"tensorboard": _tensorboard, "wandb": _wandb}
    with ExitStack() as stack:
        tracks = [
            stack.enter_context(openers[name](config, directory, update)) for name in dict.fromkeys(config.run.trackers)
        ]

        def track(phase: Phase, number: int, metrics: Mapping[str, float]) -> None:
            named = {name if phase == "train" else f"{phase}/{name}": value for name, value in metrics.items()}
            for one in tracks:
                one(phase, number, named)

        again: tuple[Phase, ...] = ("eval", "sampled")
        for phase, line in product(again, history):
            if (line["phase"], line["update"]) == (phase, update):
                track(phase, update, {name: value for name, value in line.items() if isinstance(value, float)})
        yield track


@contextmanager
def _tensorboard(config: Config, directory: Path, update: int) -> Iterator[Track]:
    from torch.utils.tensorboard import SummaryWriter

    place = directory / "tensorboard"
    with as_store_error(place):
        writer = SummaryWriter(str(place), purge_step=update)

    def track(phase: Phase, number: int, metrics: Mapping[str, float]) -> None:
        with as_store_error(place):
            for name, value in metrics.items():
                writer.add_scalar(name, value, number)
            writer.flush()

    try:
        if not update:
            writer.add_text("config", f"```toml\n{tomli_w.dumps(config.model_dump(mode='json'))}\n```")
        yield track
    finally:
        with as_store_error(place):
            writer.close()


def _lasting_id(file: Path) -> str:
    """Return the run's id, from the file or new, so that a resumed run keeps its id."""
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        write_whole(file, secrets.token_hex(4).encode())
    return file.read_text(encoding="ascii")


@contextmanager
def _wandb(config: Config, directory: Path, update: int) -> Iterator[Track]:
    import wandb

    online = config.run.wandb == "online"
    key = find_key(KEY, env_file=config.tools.env_file) if online else None
    settings = wandb.Settings(
        api_key=key.reveal() if key else None,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    try:
        run = wandb.init(
            project=PROJECT,
            name=directory.name,
            dir=str(directory),
            mode=config.run.wandb,
            id=_lasting_id(directory / "wandb" / "id"),
            resume="allow",
            config=config.model_dump(mode="json"),
            settings=settings,
        )
    except wandb.Error as error:
        raise TrainError(
            f'run.wandb = "{config.run.wandb}": Weights & Biases cannot be reached or refuses the key: {error}'
        ) from None
    lost: list[Exception] = []

    def unless_lost(say: Callable[[], object]) -> None:
        """Call `say`, and stop calling it after a failure. wandb's service is a process that may end early; metrics.jsonl has all metrics
        anyway."""
        try:
            if not lost:
                say()
        except Exception as error:  # of many kinds, few of which are wandb's own
            lost.append(error)
            logger.warning(
                "Weights & Biases failed (%r): lzero sends it no more metrics; metrics.jsonl has all of them", error
            )

    try:
        run.define_metric("update")
        run.define_metric("*", step_metric="update")
        yield lambda phase, number, metrics: unless_lost(lambda: run.log({"update": number, **metrics}))
    finally:
        unless_lost(run.finish)
