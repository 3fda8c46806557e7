"""Which groups an update is trained on: pure functions of what became of its tasks, in the order of the tasks.

    filter   a uniform group (core scores all 0, or all 1)      when refills end too soon      source
    l0       is dropped with probability rollout.drop_uniform   the last drops are taken back  L0, arXiv 2506.23667
    dapo     is dropped                                         the batch stays short          DAPO, arXiv 2503.14476
    none     is kept                                            –

Whatever the filter, a group that our failures or the cut-off left with fewer than two episodes is dropped, and never taken back.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from lzero.config import RolloutConfig
from lzero.store import DROP_STRAGGLER, Record

UNIFORM = ("all_zero", "all_one")
"""Drop reasons of dynamic sampling: such a group teaches little."""

TOO_FEW = "too_few"
"""Drop reason of a group that failures left with fewer than two episodes (or none, where groups have one)."""

SURPLUS = "surplus"
"""Drop reason of the last groups of a refill that brought more than were missing."""


def drop_reason(record: Record, chance: float, config: RolloutConfig) -> str:
    """Why the group is not trained on, or "". `chance` is uniform in [0, 1).

    A group that lost episodes to our failures keeps the rest while two are left. Scores of a single episode are not judged:
    they say nothing about how hard the task is.
    """
    scores = record.scores
    if len(scores) < min(2, config.episodes_per_task):
        return DROP_STRAGGLER if record.stragglers else TOO_FEW
    if len(scores) == 1 or chance >= drop_rate(config):
        return ""
    for value, reason in zip((0.0, 1.0), UNIFORM, strict=True):
        if all(score == value for score in scores):
            return reason
    return ""


def drop_rate(config: RolloutConfig) -> float:
    """The probability that a uniform group is dropped."""
    return {"l0": config.drop_uniform, "dapo": 1.0, "none": 0.0}[config.filter]


def tasks_to_try(records: Sequence[Record], wanted: int) -> int:
    """How many tasks the next round takes. Asking for no more than is missing would take several rounds, and a round is as
    slow as its slowest episode; so it asks for what, at the share of groups kept so far, will be enough, but for no more than `wanted`."""
    if not records:
        return wanted
    num_kept = sum(not record.dropped for record in records)
    missing = wanted - num_kept
    if missing <= 0:
        return 0
    return min(wanted, max(1, round(missing * len(records) / max(num_kept, 1))))


def leave_out(records: Sequence[Record], wanted: int) -> list[Record]:
    """The records with the last groups, those beyond `wanted`, dropped."""
    kept = [place for place, record in enumerate(records) if not record.dropped]
    return _marked(records, kept[wanted:], SURPLUS)


def take_back(records: Sequence[Record], wanted: int) -> tuple[list[Record], int]:
    """The records with as many uniform groups taken back, the last ones first, as are missing; and their number."""
    missing = wanted - sum(not record.dropped for record in records)
    uniform = [place for place, record in enumerate(records) if record.dropped in UNIFORM]
    chosen = uniform[max(0, len(uniform) - missing) :]
    return _marked(records, chosen, ""), len(chosen)


def _marked(records: Sequence[Record], places: Collection[int], reason: str) -> list[Record]:
    """The records, those at `places` dropped for `reason`, or kept where it is empty."""
    return [
        msgspec.structs.replace(record, dropped=reason) if place in places else record
        for place, record in enumerate(records)
    ]


def drops(records: Sequence[Record]) -> str:
    """`all_zero 12, too_few 1`, the most frequent first; "nothing" where no group was dropped."""
    counts = Counter(record.dropped for record in records if record.dropped)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "nothing"
