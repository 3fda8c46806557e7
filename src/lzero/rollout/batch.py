"""Make the batch of an update from the records of the tasks that were tried for it, and log what is unusual about it."""

import logging
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from lzero.config import RolloutConfig
from lzero.errors import TrainError
from lzero.rollout.failures import Failing, explain
from lzero.rollout.filters import drops, leave_out, take_back
from lzero.rollout.runner import Runner
from lzero.rollout.summary import summarise
from lzero.store import Record
from lzero.types import Group

logger = logging.getLogger(__name__)


class Collected(Struct, frozen=True, kw_only=True):
    """The batch of one update, as a stream returns it."""

    groups: tuple[Group, ...]
    """Groups to train on, in the order of their tasks."""
    records: tuple[Record, ...]
    """Every task that was tried, in order, with dropped ones and failed episodes."""
    metrics: dict[str, float]
    failing: Failing = Failing()
    """Failed attempts by task."""


def make_batch(
    update: int, records: Sequence[Record], *, config: RolloutConfig, runner: Runner, seconds: float
) -> Collected:
    """Return the batch of an update from the judged records of the tasks that were tried for it. `seconds`: wall time of the rollout.

    Leaves out surplus groups. If groups are missing, filter "l0" takes back uniform ones. Raises TrainError if no group is left.
    """
    wanted = config.tasks_per_update
    records, num_taken_back = leave_out(records, wanted), 0
    if config.filter == "l0":
        records, num_taken_back = take_back(records, wanted)
    groups = tuple(record.group() for record in records if not record.dropped)
    if not groups:
        raise TrainError(_nothing_left(update, records))
    _log_short_batch(update, records, groups, num_taken_back, config)
    failing = runner.take_failures()
    _log_failing_tasks(update, failing)
    metrics = {
        **summarise(records),
        **runner.scorer.take_metrics(),
        **_batch_metrics(update, groups, config),
        "groups/taken_back": float(num_taken_back),
        "time/rollout_s": seconds,
        **failing.metrics(),
    }
    metrics["rollout/tokens_per_s"] = metrics.get("rollout/tokens", 0.0) / max(seconds, 1e-9)
    return Collected(groups=groups, records=tuple(records), metrics=metrics, failing=failing)


def _batch_metrics(update: int, groups: Sequence[Group], config: RolloutConfig) -> dict[str, float]:
    num_episodes = sum(len(group.episodes) for group in groups)
    lags = token_lags(groups, update)
    return {
        "groups/missing": float(config.tasks_per_update - len(groups)),
        "groups/missing_episodes": float(len(groups) * config.episodes_per_task - num_episodes),
        "rollout/lag": sum(lag * count for lag, count in lags.items()) / max(1, lags.total()),
        "rollout/lag_max": float(max(lags, default=0)),
    }


def token_lags(groups: Sequence[Group], update: int) -> Counter[int]:
    """Return how many tokens have each lag: the number of updates between the policy that drew a token and the one that learns from it."""
    lags: Counter[int] = Counter()
    for version, count in sum((group.versions for group in groups), Counter()).items():
        lags[update - version] += count
    return lags


def _log_short_batch(
    update: int, records: Sequence[Record], groups: Sequence[Group], num_taken_back: int, config: RolloutConfig
) -> None:
    """Log a warning if the batch is smaller than wanted, and a message if groups were taken back."""
    wanted, num_episodes = config.tasks_per_update, sum(len(group.episodes) for group in groups)
    wanted_episodes = wanted * config.episodes_per_task
    if num_taken_back:
        logger.info("update %d: took back %d of %d groups, all uniform", update, num_taken_back, len(groups))
    if num_episodes < wanted_episodes:
        logger.warning(
            "update %d trains on %d of %d groups and %d of %d episodes; it tried %d groups and dropped: %s",
            update,
            len(groups),
            wanted,
            num_episodes,
            wanted_episodes,
            len(records),
            drops(records),
        )


def _log_failing_tasks(update: int, failing: Failing) -> None:
    """Log a warning about tasks whose episodes keep failing: their answers are never scored, and a policy may learn to fail."""
    often = [str(each) for each in failing.worst if each.often]
    if often:
        logger.warning(
            "update %d: attempts failed at %d of %d tasks, again and again at %s; lzero show RUN --failed lists them",
            update,
            failing.failing_tasks,
            failing.tasks,
            "; ".join(often),
        )


def _nothing_left(update: int, records: Sequence[Record]) -> str:
    if not any(record.scores for record in records):
        failures = [episode.failure for record in records for episode in record.episodes if episode.failure]
        return f"update {update}: all {len(records)} groups lost their episodes to failures: {explain(failures)}"
    return (
        f"update {update}: none of {len(records)} groups is left to train on; dropped: {drops(records)}. "
        'Raise rollout.max_refills, choose tasks of another difficulty, or try rollout.filter = "l0"'
    )
