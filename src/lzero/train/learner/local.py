"""Learn in the process that samples, for a run on one machine."""

from collections.abc import Mapping, Sequence
from functools import partial

from lzero.store import RunDirectory
from lzero.train.checkpoint import Progress, Snapshot, take_snapshot
from lzero.train.metrics import Stopwatch, advantage_metrics
from lzero.train.publish import publish
from lzero.train.skipped import write_skipped
from lzero.train.trainer import Trainer
from lzero.train.transfer.in_process import InProcess, LoadingEngine
from lzero.types import Group


class LocalLearner:
    """A `Trainer` and the engine of the same process. Implements `Learner`.

    It computes in the engine's thread, where torch's threads are warm. It records advantages and skipped steps in `run`.
    """

    def __init__(self, trainer: Trainer, engine: LoadingEngine, run: RunDirectory) -> None:
        self._trainer = trainer
        self._engine = engine
        self._transfer = InProcess(engine)
        self._run = run

    @property
    def skipped_in_a_row(self) -> int:
        return self._trainer.skips.in_a_row

    async def learn(self, groups: Sequence[Group], *, update: int) -> dict[str, float]:
        return await self._engine.compute(partial(self._update, groups, update))

    async def publish(self, *, version: int) -> dict[str, float]:
        return await publish(self._trainer.model, self._engine, self._transfer, version=version)

    async def close(self) -> None:
        await self._transfer.close()

    def snapshot(self, progress: Progress, score: float | None) -> Snapshot:
        mine = self._trainer
        return take_snapshot(
            mine.model, mine.tokenizer, [mine.optimizer], config=mine.config, progress=progress, score=score
        )

    def _update(self, groups: Sequence[Group], update: int) -> dict[str, float]:
        """Make one update of the weights from `groups`, and return its metrics and the seconds of each phase."""
        trainer, watch = self._trainer, Stopwatch()
        samples = trainer.samples(groups)
        scores = trainer.score(samples)
        watch.lap("score")
        advantages: Mapping[str, tuple[float, ...]] = trainer.advantages(groups, samples, scores, update=update)
        self._run.write_advantages(advantages, update=update)
        watch.lap("credit")
        keep = partial(write_skipped, self._run, update=update)
        metrics = trainer.update(trainer.scored(samples, scores, advantages), update=update, on_skip=keep)
        watch.lap("optimise")
        seconds = watch.seconds["time/score_s"] + watch.seconds["time/optimise_s"]
        speed = sum(len(sample.token_ids) for sample in samples) / max(seconds, 1e-9)
        return {**metrics, **advantage_metrics(advantages), "train/tokens_per_s": speed, **watch.seconds}
