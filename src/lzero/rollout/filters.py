"""Choose the groups that an update trains on: pure functions of the tasks' records, in the order of the tasks.

    filter   a uniform group (core scores all 0, or all 1)      if refills end too early       source
    l0       is dropped with probability rollout.drop_uniform   the last drops are taken back  L0, arXiv 2506.23667
    dapo     is dropped                                         the batch stays short          DAPO, arXiv 2503.14476
    none     is kept                                            –

With every filter, a group that lzero's failures or the cut-off left with fewer than two episodes is dropped, and never taken back.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from lzero.config import RolloutConfig
from lzero.store import DROP_STRAGGLER, Record

UNIFORM = ("all_zero", "all_one")
"""Drop reasons of dynamic sampling: a uniform group teaches little."""

TOO_FEW = "too_few"
"""Drop reason of a group that failures left with fewer than two episodes (with none, if groups have one)."""

SURPLUS = "surplus"
"""Drop reason of the last groups of a refill that brought more groups than were missing."""


def drop_reason(record: Record, chance: float, config: RolloutConfig) -> str:
    """Return why the group is not trained on; "" if it is. `chance`: uniform in [0, 1).

    A group that lost episodes to lzero's failures keeps the rest if at least two are left. A single episode is not judged by its score,
    which says nothing about the difficulty of the task.
    """
    scores = record.scores
    if len(scores) < min(2, config.episodes_per_task):
        return DROP_STRAGGLER if DROP_STRAGGLER in record.drop_reasons else TOO_FEW
    if len(scores) == 1 or chance >= drop_rate(config):
        return ""
    for value, reason in zip((0.0, 1.0), UNIFORM, strict=True):
        if all(score == value for score in scores):
            return reason
    return ""


def drop_rate(config: RolloutConfig) -> float:
    """Return the probability that a uniform group is dropped."""
    return {"l0": config.drop_uniform, "dapo": 1.0, "none": 0.0}[config.filter]


def tasks_to_try(records: Sequence[Record], wanted: int) -> int:
    """Return the number of tasks of the next round, at most `wanted`.

    It is the number that suffices at the share of groups kept so far. Only the missing number would need several rounds, and a round is as
    slow as its slowest episode.
    """
    if not records:
        return wanted
    num_kept = sum(not record.dropped for record in records)
    missing = wanted - num_kept
    if missing <= 0:
        return 0
    return min(wanted, max(1, round(missing * len(records) / max(num_kept, 1))))


def leave_out(records: Sequence[Record], wanted: int) -> list[Record]:
    """Return the records with the groups beyond `wanted`, the last ones, dropped."""
    kept = [place for place, record in enumerate(records) if not record.dropped]
    return _marked(records, kept[wanted:], SURPLUS)


def take_back(records: Sequence[Record], wanted: int) -> tuple[list[Record], int]:
    """Return the records with missing groups replaced by uniform ones, the last ones first, and the number of groups taken back."""
    missing = wanted - sum(not record.dropped for record in records)
    uniform = [place for place, record in enumerate(records) if record.dropped in UNIFORM]
    chosen = uniform[max(0, len(uniform) - missing) :]
    return _marked(records, chosen, ""), len(chosen)


def _marked(records: Sequence[Record], places: Collection[int], reason: str) -> list[Record]:
    """Return the records with those at `places` dropped for `reason`, or kept if it is ""."""
    return [
        msgspec.structs.replace(record, dropped=reason) if place in places else record
        for place, record in enumerate(records)
    ]


def drops(records: Sequence[Record]) -> str:
    """Return the drop reasons with counts, most frequent first: "all_zero 12, too_few 1"; "nothing" if no group was dropped."""
    counts = Counter(record.dropped for record in records if record.dropped)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "nothing"
