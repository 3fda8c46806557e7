"""`lzero eval` of a model behind an endpoint, which a server on loopback plays: the world's expert, in words."""

from typing import Any

import pytest
from chat_servers import ChatServer, choice, ended, streams, usage
from starlette.responses import JSONResponse, Response

from lzero.config import load_config
from lzero.data.world import POLICIES
from lzero.eval.evaluate import Evaluator
from lzero.rollout.budgets import fit_budgets
from lzero.rollout.compose import build, eval_tasks

pytestmark = pytest.mark.sandbox
MODELS = JSONResponse({"object": "list", "data": [{"id": "sage", "object": "model"}]})


def answer(body: dict[str, Any]) -> Response:
    transcript = "".join(f"{message['role']}\n{message['content']}\n" for message in body["messages"])
    reply = POLICIES["expert"](transcript, 0)
    return streams(choice(content=reply), ended(), usage(len(transcript) // 4, len(reply) // 4))(body)


async def test_an_endpoint_is_scored_as_any_model_is() -> None:
    async with ChatServer(answer, models=MODELS) as server:
        chat = ("engine.kind=chat", "engine.model=sage", f"engine.url={server.url}", "engine.key=")
        config = fit_budgets(load_config(None, [*chat, "eval.num_tasks=6", "rollout.concurrency=3"]))
        assert (config.agent.max_tokens, config.agent.response_tokens) == (32_000, 4_096)
        async with build(config) as parts:
            found = await Evaluator(runner=parts.runner, source=eval_tasks(config), config=config).greedy()
    assert found.score == 1.0
    assert found.score_by_hops == {1: 1.0, 2: 1.0, 3: 1.0}
    assert found.metrics["rollout/tokens_per_step"] > 10
    assert {body["model"] for body in server.bodies} == {"sage"}
    assert {body["temperature"] for body in server.bodies} == {0.0}
    (episode,) = found.records[0].episodes
    assert all(step.completion.usage is not None and not step.completion.token_ids for step in episode.steps)
