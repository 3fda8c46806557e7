from builders import make_record, make_task

from lzero.cli.train import most_telling
from lzero.store import Record


def record(name: str, answer: str | None, *, hops: int = 1) -> Record:
    """Return a record of one held-out task with one episode; None is a failed one."""
    return make_record(answer, task=make_task(name, answers=("yes",), hops=hops))


def test_the_task_that_is_shown_was_learned_and_is_the_hardest_of_those() -> None:
    before = [record("a", "yes", hops=3), record("b", "no"), record("c", "no", hops=2), record("d", None, hops=3)]
    after = [record("a", "yes", hops=3), record("b", "yes"), record("c", "yes", hops=2), record("d", "yes", hops=3)]
    pair = most_telling(before, after)
    assert pair is not None
    assert [shown.task.id for shown in pair] == ["c", "c"]


def test_no_task_is_shown_that_was_not_scored_both_times() -> None:
    assert most_telling([record("a", None), record("b", "yes")], [record("a", "yes"), record("b", None)]) is None
