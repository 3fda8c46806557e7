from msgspec import structs
from small_episodes import make_completion, make_episode, make_step

from lzero.cli.train import most_telling
from lzero.store import Record
from lzero.types import Failure, Reward, Task

GONE = Failure(kind="repl", what="gone", where="step 0")


def record(task: str, score: float | None, *, hops: int = 1) -> Record:
    """Return a record of one held-out task with one episode; None is a failed one."""
    episode = make_episode(make_step(make_completion([3])), name=f"{task}/0")
    return Record(
        task=Task(id=task, question="?", answers=("yes",), hops=hops),
        episodes=(episode if score is not None else structs.replace(episode, status="failed", failure=GONE),),
        rewards=(None if score is None else Reward(score=score, per_step=(score,), parts={}),),
    )


def test_the_task_that_is_shown_was_learned_and_is_the_hardest_of_those() -> None:
    before = [record("a", 1.0, hops=3), record("b", 0.0), record("c", 0.0, hops=2), record("d", None, hops=3)]
    after = [record("a", 1.0, hops=3), record("b", 1.0), record("c", 1.0, hops=2), record("d", 1.0, hops=3)]
    pair = most_telling(before, after)
    assert pair is not None
    assert [shown.task.id for shown in pair] == ["c", "c"]


def test_no_task_is_shown_that_was_not_scored_both_times() -> None:
    assert most_telling([record("a", None), record("b", 1.0)], [record("a", 1.0), record("b", None)]) is None
