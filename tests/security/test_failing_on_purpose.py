"""Failing on purpose does not pay: whatever an agent does to its episode, the episode is scored, and is never better off than with an
honest wrong answer. Real sessions, and a policy that says what a test writes.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence

import pydantic
import pytest
import pytest_asyncio
from builders import make_task
from cases import attack
from pool_servers import remote_pool

from lzero.agent.conversation import TokenModel
from lzero.agent.cutoff import Cutoff
from lzero.agent.episode import run_episode
from lzero.agent.renderer import Renderer
from lzero.agent.setting import Setting, Ticket
from lzero.config import AgentConfig, ReplConfig, RewardConfig, RolloutConfig
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.errors import ToolError
from lzero.models import build_tokenizer
from lzero.protocols import ReplPool, Tool
from lzero.repl import LocalPool
from lzero.rewards import make_reward
from lzero.rollout.runner import Runner
from lzero.rollout.scoring import Scorer
from lzero.tools import tool
from lzero.tools.converter import Converter
from lzero.tools.inspect_file import make_inspect_file
from lzero.types import Episode, Reward, Sampling, Task

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

TOKENIZER = build_tokenizer()
RENDERER = Renderer(TOKENIZER)
TASK = make_task()
WRONG = "submit_final_answer('wrong')"
LZERO_S = 60.0
"""Seconds of lzero for its part of an episode."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    async with LocalPool(ReplConfig(disk_mb=16, files=256, processes=16, tool_calls=2_000)) as pool:
        yield pool


async def scored(
    pool: ReplPool, *cells: str, tools: Sequence[Tool] = (), cutoff: Cutoff | None = None, **budgets: float
) -> tuple[Episode, Reward]:
    """Run one episode whose policy gives the cells in turn and repeats the last; check that it is begun once, and scored."""
    replies = [f"<think>A thought of some length.</think>\n<code>\n{code}\n</code>" for code in cells]
    engine = ScriptedEngine(lambda seen, seed: replies[min(seen.count("<output>"), len(replies) - 1)], TOKENIZER)
    values = {"max_steps": 4, "max_tokens": 64_000, "response_tokens": 4_000, "cell_s": 0.5, "work_s": 30.0} | budgets
    agent = AgentConfig.model_validate(values)
    setting = Setting(agent=agent, model=TokenModel(engine, RENDERER, 30.0), pool=pool, deadline_s=LZERO_S)
    begun: list[str] = []

    async def attempt(task: Task, ticket: Ticket, *, seed: int) -> Episode:
        begun.append(ticket.id)
        return await run_episode(task, ticket, setting, tools=tools)

    runner = Runner(attempt, Scorer(make_reward(RewardConfig())), RolloutConfig())
    record = await runner.record(TASK, name="x", num_episodes=1, sampling=Sampling(), seed=1, cutoff=cutoff)
    (episode,), (reward,) = record.episodes, record.rewards
    assert episode.failure is None, episode.failure
    assert not any(runner.take_failures().kinds.values())
    assert len(begun) == 1, "it is not begun again"
    assert reward is not None
    assert len(reward.per_step) == len(episode.steps) > 0
    return episode, reward


def paid(reward: Reward) -> float:
    return sum(reward.per_step)


@tool
async def slow_tool() -> str:
    """Takes its time."""
    await asyncio.sleep(0.1)
    return "x"


@tool
async def hanging_tool() -> str:
    """Never answers."""
    await asyncio.Event().wait()
    return "x"


STALLS = {
    "a cell that sleeps": "import time; time.sleep(100)",
    "a cell that ignores interrupts": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "a process that nobody ends": "import subprocess; subprocess.run(['sleep', '100'])",
    "slow calls again and again": "for _ in range(60): slow_tool()",
    "slow calls whose errors are caught": "while True:\n    try: slow_tool()\n    except BaseException: pass",
    "calls and work in turn": "import time\nwhile True: slow_tool(); time.sleep(0.01)",
    "slow calls in worker processes": "import multiprocessing as m\ndef call(_): slow_tool()\nwith m.Pool(2) as p: p.map(call, range(60))",
    "a call that never ends": "hanging_tool()",
}


@pytest.mark.parametrize("code", STALLS.values(), ids=STALLS)
@attack(85)
async def test_an_agent_that_stalls_is_scored_and_no_better_off_than_with_a_wrong_answer(
    pool: LocalPool, code: str
) -> None:
    _, wrong = await scored(pool, WRONG)
    episode, reward = await scored(pool, code, tools=[slow_tool, hanging_tool], max_steps=9, work_s=1.2)
    assert episode.status == "out_of_time"
    assert paid(reward) <= paid(wrong)


HARMS = {
    "ends its process": "import os; os._exit(3)",
    "kills everything": "import os; os.kill(-1, 9)",
    "kills its init": "import os; os.kill(1, 9); os.kill(os.getpid(), 11)",
    "closes its socket": "import os; os.close(3)",
    "says what is no frame": "import os\nos.write(3, b'\\xff' * 100)\nimport time; time.sleep(10)",
    "says a forged end": 'import os, time\nb = b\'{"type": "done", "id": 99}\'\nos.write(3, len(b).to_bytes(4) + b)\ntime.sleep(10)',
    "breaks its socket after the cell": "import os, threading\nthreading.Timer(0.05, os.close, (3,)).start()",
    "fills its disk": "open('x', 'wb').write(bytes(64 << 20))",
    "makes files without number": "for i in range(10**4): open(str(i), 'w').close()",
    "forks without end": "import os\nwhile True: os.fork()",
    "opens files without end": "held = [open('/dev/null') for _ in range(10**5)]",
    "takes all memory": "x = bytearray(1 << 40)",
    "floods its output": "while True: print('x' * 10**6)",
    "recurses": "def f(): f()\nimport sys; sys.setrecursionlimit(10**9); f()",
    "unplugs its tools": "get_ipython().run_line_magic('reset', '-f'); import sys; sys.modules.clear()",
    "unplugs its notepad": "del notepad; notepad = None; ask = None",
    "calls tools without end": "while True:\n    try: submit_final_answer()\n    except Exception: pass",
    "calls with what no tool takes": "submit_final_answer(answer='x' * 10**6)",
}


@pytest.mark.parametrize("code", HARMS.values(), ids=HARMS)
@attack(86)
async def test_an_agent_that_breaks_its_session_is_scored_and_no_better_off_than_with_a_wrong_answer(
    pool: LocalPool, code: str
) -> None:
    _, wrong = await scored(pool, WRONG)
    _, reward = await scored(pool, code, max_steps=2, notepad=True)
    assert paid(reward) <= paid(wrong)


@tool
def find(pattern: re.Pattern[str]) -> str:
    """Finds a pattern."""
    return "x"


@tool
def open_file(path: pydantic.FilePath) -> str:
    """Opens a file."""
    return "x"


@tool
def repeat(text: str, times: int) -> str:
    """Repeats a text."""
    return repeat_deeply(text, -times) if times < 0 else text * times


def repeat_deeply(text: str, times: int) -> str:
    return text + repeat_deeply(text, times - 1) if times else ""


@attack(86)
@pytest.mark.parametrize("times", ["10**15", "10**4_000", "-10**9"])
async def test_asking_a_tool_for_too_much_is_the_agents(pool: LocalPool, times: str) -> None:
    episode, _ = await scored(pool, f"repeat('x', {times})", WRONG, tools=[repeat], max_steps=2)
    (refused,) = episode.steps[0].tool_calls
    assert refused.fault == "agent"
    assert episode.answer == "wrong"


@attack(86)
@pytest.mark.parametrize("call", ["find('(' * 9_000)", "find('a{1,4294967295}')", "open_file('x' * 9_000)"])
async def test_arguments_that_break_their_conversion_are_the_agents(pool: LocalPool, call: str) -> None:
    episode, _ = await scored(pool, call, WRONG, tools=[find, open_file], max_steps=2)
    (refused,) = episode.steps[0].tool_calls
    assert refused.fault == "agent"
    assert "cannot be converted" in (refused.error or "")
    assert episode.answer == "wrong"


@tool
def decode(text: str) -> str:
    """Decodes a word of JSON, and knows no such word."""
    raise ToolError(f"there is no word {json.loads(text)}", fault="agent")


@attack(86)
async def test_an_error_that_quotes_half_a_character_is_told(pool: LocalPool) -> None:
    episode, _ = await scored(pool, r"decode('\"\\ud800\"')", WRONG, tools=[decode], max_steps=2)
    (refused,) = episode.steps[0].tool_calls
    assert refused.error == "there is no word \ufffd"
    assert episode.answer == "wrong"


@attack(85)
async def test_a_slow_archive_is_the_agents_that_made_it(pool: LocalPool) -> None:
    make = (
        "import zipfile\nwith zipfile.ZipFile('a.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n"
        "    z.writestr('a.html', '<b>' * 4_000_000)\n"
        "print(inspect_file('a.zip', part='a.html'))"
    )
    inspect_file = make_inspect_file(Converter(cpu_s=1, wall_s=30.0))
    episode, _ = await scored(pool, make, WRONG, tools=[inspect_file], cell_s=60.0, work_s=120.0)
    assert (episode.status, episode.answer) == ("finished", "wrong")
    assert [call.fault for call in episode.steps[0].tool_calls] == ["agent"]


LIES = {
    "small pieces": "channel.send({'type': 'chunk', 'data': 'AAAA', 'last': False})",
    "another message": "channel.send({'type': 'ready'})",
    "the end": "import os; os._exit(0)",
}
"""Answers of a session when a tool reads one of its files."""


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@attack(86)
async def test_a_session_that_breaks_as_a_tool_reads_its_file_is_scored(
    pool: LocalPool, lie: str, remote: bool
) -> None:
    tools = [make_inspect_file(Converter())]
    code = (
        f"import _inside_workspace as workspace\ndef serve(message, channel):\n    {lie}\nworkspace.serve = serve\n"
        "inspect_file('a.txt')"
    )
    if remote:
        async with remote_pool(pool) as client:
            episode, _ = await scored(client, code, WRONG, tools=tools, cell_s=5.0)
    else:
        episode, _ = await scored(pool, code, WRONG, tools=tools, cell_s=5.0)
    execution = episode.steps[0].execution
    assert execution is not None
    assert execution.status == "killed"
    assert execution.reason.startswith(("protocol: ", "exit: "))
    assert episode.answer == "wrong"


@attack(85)
async def test_an_agent_that_waits_for_its_round_to_end_is_scored(pool: LocalPool) -> None:
    cutoff = Cutoff(1)

    @tool
    async def others_come_in() -> str:
        """The other episodes of the round end meanwhile."""
        asyncio.get_running_loop().call_later(1.0, cutoff.arrived)
        return "soon"

    stall = "others_come_in()\nimport time; time.sleep(100)"
    episode, reward = await scored(pool, stall, tools=[others_come_in], cutoff=cutoff, cell_s=20.0)
    assert (episode.status, len(episode.steps)) == ("out_of_time", 1)
    assert reward.score == 0.0
