"""Real questions of HotpotQA, answered over real passages by a script that knows where to look, but must find what it submits.

The set is looked for in `shared/data` beside the checkout.
"""

from pathlib import Path

import pytest
from agent_oracle import Oracle, answerable, open_search

from lzero.agent.conversation import ChatModel
from lzero.agent.episode import run_episode
from lzero.agent.nb_agent import FOR_A_PERSON
from lzero.agent.outputs import render_output
from lzero.agent.setting import Setting, Ticket
from lzero.config import AgentConfig
from lzero.engine.scripted.engine import ScriptedChat
from lzero.repl import LocalPool
from lzero.rewards import exact_match
from lzero.types import Sampling

DATA = Path(__file__).parents[3] / "shared" / "data" / "multihop"
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no public data set in {DATA}"),
]


@pytest.mark.parametrize(
    "number", [8, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])], ids=["sample", "whole"]
)
async def test_what_stands_in_the_corpus_is_found_and_submitted(number: int, kept_indexes: Path) -> None:
    tasks = answerable(DATA, number)
    assert len(tasks) == number
    search = open_search(DATA, cache=kept_indexes)
    agent = AgentConfig.model_validate(FOR_A_PERSON)
    right = 0
    async with LocalPool() as pool:
        setting = Setting(agent=agent, model=ChatModel(ScriptedChat(Oracle(tasks)), 60.0), pool=pool, deadline_s=300.0)
        for index, task in enumerate(tasks):
            ticket = Ticket(id=task.id, index=index, seed=index, sampling=Sampling())
            episode = await run_episode(task, ticket, setting, tools=[search])
            seen = [render_output(step.execution, max_chars=10**6) for step in episode.steps if step.execution]
            if episode.answer is not None:
                assert any(episode.answer in text for text in seen[:-1]), task.id
                right += exact_match(episode.answer, task.answers)
    assert right >= 0.98 * number
