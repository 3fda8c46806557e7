"""A rank that is gone, hangs or fails ends the run on all ranks, by its number, and soon."""

import signal
import time
from pathlib import Path

import pytest
from ranks import TESTS, logs, ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
PROGRAM = str(TESTS / "support" / "lost_rank.py")
ENDS = {
    "fails": "rank 1 failed: MemoryError: no room for a row",
    "killed": "rank 1 gives no sign of life",
    "killed while it waits": "rank 1 gives no sign of life",
    "stopped": "rank 1 gives no sign of life",
}


@pytest.mark.parametrize(
    "how", [how if how in ("fails", "killed") else pytest.param(how, marks=pytest.mark.slow) for how in ENDS]
)
def test_the_run_ends_with_the_rank_s_number(how: str, tmp_path: Path) -> None:
    with ranks([PROGRAM, how], tmp_path) as (first, second):
        first.wait(timeout=300)  # a tenth of the group's timeout, for which gloo waits by itself
        if how != "stopped":
            second.wait(timeout=60)
    assert ENDS[how] in (tmp_path / "rank-0.log").read_text(), logs(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_ranks_end_by_themselves_when_rank_0_is_lost(how: str, tmp_path: Path) -> None:
    with ranks([PROGRAM, f"rank 0 {how}"], tmp_path) as (first, second):
        if how == "killed":
            assert first.wait(timeout=300) == -signal.SIGKILL
        gone = time.monotonic()
        assert second.wait(timeout=300 if how == "stopped" else 60) > 0
    assert how == "stopped" or time.monotonic() - gone < 60
    assert ("rank 0" if how == "killed" else "has not answered rank 1") in (tmp_path / "rank-1.log").read_text()
