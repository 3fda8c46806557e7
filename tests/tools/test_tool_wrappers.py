"""Tools around tools: tried again, slowed down, kept on disk."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import CONTEXT
from virtual_time import run

from lzero.errors import DataError, ToolError
from lzero.protocols import WithKernelSource
from lzero.tools.cache import Cached
from lzero.tools.retry import Backoff, RateLimited, Retried, ServiceError
from lzero.types import Json

QUICK = Backoff(tries=3, first_s=0.001)


class Scripted:
    """A tool that fails as scripted, and then counts its calls."""

    name, parameters, description = "count", ("word",), "count(word: str) -> int\nCounts."

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls: list[dict[str, Json]] = []

    async def call(self, arguments: dict[str, Json], context: Any) -> Json:
        assert context is CONTEXT
        self.calls.append(arguments)
        if self.failures:
            raise self.failures.pop(0)
        return len(self.calls)


class Timed(Scripted):
    """One that notes when it is called, by the event loop's clock."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__(*failures)
        self.times: list[float] = []

    async def call(self, arguments: dict[str, Json], context: Any) -> Json:
        self.times.append(asyncio.get_running_loop().time())
        return await super().call(arguments, context)


def down() -> ToolError:
    return ToolError("the server is down", fault="tool")


# Tried again


def test_a_failure_of_the_tool_is_tried_again_after_longer_and_longer_pauses() -> None:
    tool = Timed(down(), ServiceError("busy"))
    assert run(Retried(tool).call({"word": "a"}, CONTEXT)) == 3
    first, second, third = tool.times
    assert 0.25 <= second - first <= 0.5 <= third - second <= 1.0


async def test_a_mistake_of_the_agent_is_not_tried_again() -> None:
    tool = Scripted(ToolError("no word", fault="agent"))
    with pytest.raises(ToolError, match="no word"):
        await Retried(tool, QUICK).call({}, CONTEXT)
    assert len(tool.calls) == 1


async def test_the_last_failure_is_told_and_a_bug_is_no_failure() -> None:
    tool = Scripted(down(), down(), ServiceError("down for good"))
    with pytest.raises(ServiceError, match="for good"):
        await Retried(tool, QUICK).call({}, CONTEXT)
    with pytest.raises(KeyError):
        await Retried(Scripted(KeyError("bug")), QUICK).call({}, CONTEXT)


async def test_what_cannot_get_better_is_not_tried_again() -> None:
    for failure in (ServiceError("the key is refused", permanent=True), ServiceError("busy", retry_after_s=3600.0)):
        tool = Scripted(failure)
        with pytest.raises(ServiceError):
            await Retried(tool, QUICK).call({}, CONTEXT)
        assert len(tool.calls) == 1


def test_a_service_is_left_alone_for_as_long_as_it_asks() -> None:
    tool = Timed(ServiceError("busy", retry_after_s=7.0))
    run(Retried(tool).call({}, CONTEXT))
    assert tool.times == [0.0, 7.0]


@pytest.mark.parametrize(("failures", "fault"), [(0, "agent"), (1, "tool")])
def test_a_tool_that_hangs_is_given_up_and_the_time_is_the_agents_unless_it_failed(failures: int, fault: str) -> None:
    class Hangs(Scripted):
        async def call(self, arguments: dict[str, Json], context: Any) -> Json:
            await super().call(arguments, context)
            return await asyncio.Event().wait()

    hangs = Hangs(*[down() for _ in range(failures)])
    with pytest.raises(ToolError, match=r"no answer within 50 s") as raised:
        run(Retried(hangs, QUICK).call({}, CONTEXT))
    assert raised.value.fault == fault


def test_pauses_follow_from_the_seed_and_stay_below_their_bound() -> None:
    def drawn(seed: int) -> list[float]:
        source = random.Random(seed)
        return [Backoff().pause_s(failures, source) for failures in range(1, 30)]

    assert drawn(7) == drawn(7) != drawn(8)
    assert max(drawn(7)) <= 8.0
    assert Backoff().pause_s(5_000, random.Random(7)) <= 8.0


# Slowed down


def test_calls_start_at_the_rate_and_in_their_order() -> None:
    tool = Timed()

    async def main() -> None:
        limited = RateLimited(tool, per_second=2.0)
        await asyncio.gather(*(limited.call({"word": str(i)}, CONTEXT) for i in range(4)))

    run(main())
    assert tool.times == [0.0, 0.5, 1.0, 1.5]
    assert [call["word"] for call in tool.calls] == ["0", "1", "2", "3"]


def test_a_rate_that_is_not_used_is_not_saved_up() -> None:
    tool = Timed()

    async def main() -> None:
        limited = RateLimited(tool, per_second=1.0)
        await limited.call({}, CONTEXT)
        await asyncio.sleep(1000.0)
        await limited.call({}, CONTEXT)
        await limited.call({}, CONTEXT)

    run(main())
    assert tool.times == [0.0, 1000.0, 1001.0]


def test_a_turn_that_would_come_too_late_is_refused_with_the_key_to_change() -> None:
    async def main() -> None:
        limited = RateLimited(Scripted(), per_second=0.01)
        await limited.call({}, CONTEXT)
        with pytest.raises(ServiceError, match=r"100 s of calls .* raise tools\.calls_per_second") as raised:
            await limited.call({}, CONTEXT)
        assert raised.value.permanent

    run(main())


# Kept on disk


async def test_an_answer_is_asked_once_whatever_the_order_of_its_arguments(tmp_path: Path) -> None:
    tool = Scripted(down())
    cached = Cached(tool, tmp_path / "deep" / "answers.sqlite", version="1")
    with pytest.raises(ToolError):  # is not kept
        await cached.call({"a": 1, "b": "é\ud800"}, CONTEXT)
    assert await cached.call({"a": 1, "b": "é\ud800"}, CONTEXT) == 2
    assert await cached.call({"b": "é\ud800", "a": 1}, CONTEXT) == 2
    assert await cached.call({"b": "other"}, CONTEXT) == 3
    again = Cached(Scripted(), tmp_path / "deep" / "answers.sqlite", version="1")
    assert await again.call({"b": "other"}, CONTEXT) == 3
    newer = Cached(Scripted(), tmp_path / "deep" / "answers.sqlite", version="2")
    assert await newer.call({"b": "other"}, CONTEXT) == 1


async def test_none_is_an_answer_too(tmp_path: Path) -> None:
    class Nothing(Scripted):
        async def call(self, arguments: dict[str, Json], context: Any) -> Json:
            await super().call(arguments, context)
            return None

    cached = Cached(tool := Nothing(), tmp_path / "answers.sqlite", version="1")
    assert [await cached.call({}, CONTEXT) for _ in range(2)] == [None, None]
    assert len(tool.calls) == 1


MANY = """
import asyncio, sys
from pathlib import Path
from lzero.tools.cache import Cached

class Tool:
    name, parameters, description = "double", ("n",), "doubles"
    async def call(self, arguments, context):
        return arguments["n"] * 2

async def main():
    cached = Cached(Tool(), Path(sys.argv[1]), version="1")
    answers = await asyncio.gather(*(cached.call({"n": n % 50}, None) for n in range(200)))
    assert answers == [n % 50 * 2 for n in range(200)]

asyncio.run(main())
"""


def test_several_processes_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    others = [subprocess.Popen([sys.executable, "-c", MANY, file], stderr=subprocess.PIPE) for _ in range(3)]
    for other in others:
        _, said = other.communicate(timeout=60)
        assert other.returncode == 0, said.decode()
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (50,)
    connection.close()


def _text(file: Path) -> None:
    file.write_text("this is no database, " * 100, encoding="utf-8")


def _other_table(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE answers (something INTEGER)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("spoil", [_text, _other_table, Path.mkdir])
def test_a_file_that_is_no_cache_is_refused_and_left_as_it_is(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    file = tmp_path / "answers.sqlite"
    spoil(file)
    with pytest.raises(DataError, match=r"cannot be used as a cache of tool answers: .*; delete it"):
        Cached(Scripted(), file, version="1")
    assert file.exists()


def test_a_cache_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the cache"):
        Cached(Scripted(), tmp_path / "file" / "answers.sqlite", version="1")


def test_a_tools_own_side_of_the_session_comes_along() -> None:
    class TwoSided(Scripted):
        kernel_source = "count = ask"

    wrapped = RateLimited(Retried(TwoSided()), per_second=1.0)
    assert isinstance(wrapped, WithKernelSource)
    assert wrapped.kernel_source == "count = ask"
    assert not isinstance(Retried(Scripted()), WithKernelSource)
    assert (wrapped.name, wrapped.parameters, wrapped.description) == ("count", ("word",), Scripted.description)
