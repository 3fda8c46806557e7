"""Tables that a tool gets, and thoughts that an endpoint tells apart, reach their readers as they should."""

import subprocess
import sys

import pytest
from chat_servers import ChatServer, choice, ended, streams, text
from starlette.responses import JSONResponse

from lzero.agent import NBAgent
from lzero.config import ReplConfig
from lzero.errors import ConfigError
from lzero.repl import LocalPool
from lzero.repl.environment import python_of_sessions

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


TABLES = """
import sys
sys.path.append(sys.argv[1])
import math
import pandas as pd
from lzero.tools.values import as_json

frame = pd.DataFrame({"city": ["Lyon", "Nice"], "size": [1.5, math.nan], "day": pd.to_datetime(["2026-01-31", None])})
rows = [
    {"city": "Lyon", "size": 1.5, "day": "2026-01-31T00:00:00"},
    {"city": "Nice", "size": None, "day": None},
]
for value, plain in (
    (frame, rows),
    (frame.set_index("city")[["size"]], [{"city": "Lyon", "size": 1.5}, {"city": "Nice", "size": None}]),
    (pd.Series([1, 2]), [1, 2]),
    (pd.Series(["Lyon", "Lyon", "Nice"]).value_counts(), {"Lyon": 2, "Nice": 1}),
    (pd.Series([1, 2], index=["a", "a"]), [["a", 1], ["a", 2]]),
    (pd.Series([1, None], dtype="Int64"), [1, None]),
    (pd.Timestamp("2026-01-31"), "2026-01-31T00:00:00"),
    (pd.Timedelta(seconds=90), 90.0),
    (pd.NaT, None),
    (pd.Index(["a"]), ["a"]),
):
    found = as_json(value, tool="give")
    assert found == plain, found
"""


async def test_tables_and_columns_of_pandas_become_rows_and_lists() -> None:
    """pandas is in the environment of sessions only."""
    environment = python_of_sessions(ReplConfig()).parents[1]
    (packages,) = environment.glob("lib/python*/site-packages")
    subprocess.run([sys.executable, "-c", TABLES, packages], check=True, timeout=60)


@pytest.mark.parametrize(
    ("past_thoughts", "sent"),
    [
        ("dropped", {"content": "BODY"}),
        ("field", {"content": "BODY", "reasoning": "so be it"}),
        ("text", {"content": "<think>so be it</think>BODY"}),
    ],
)
async def test_thoughts_that_an_endpoint_tells_apart_are_sent_again_as_asked(
    pool: LocalPool, past_thoughts: str, sent: dict[str, str]
) -> None:
    first, last = "<code>\nprint(1)\n</code>", "<code>\nsubmit_final_answer('Kato')\n</code>"
    replies = [streams(choice(reasoning="so be it"), *text(body), ended()) for body in (first, last)]
    async with (
        ChatServer(*replies, models=JSONResponse({"data": [{"id": "m"}]})) as server,
        NBAgent("m", base_url=server.url, pool=pool, past_thoughts=past_thoughts) as agent,
    ):
        episode = await agent.run("Who?")
    assert (episode.answer, episode.steps[0].parsed.think) == ("Kato", "so be it")
    (said,) = [message for message in server.bodies[1]["messages"] if message["role"] == "assistant"]
    assert said == {"role": "assistant"} | sent | {"content": sent["content"].replace("BODY", first)}


async def test_thoughts_of_a_model_that_samples_here_are_its_own(pool: LocalPool) -> None:
    with pytest.raises(ConfigError, match="has an effect with an endpoint only"):
        await NBAgent("nano", pool=pool, past_thoughts="text").run("Who?")
