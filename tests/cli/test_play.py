"""A person's input becomes a reply, and the end of an episode is summarised."""

import os
from collections.abc import Awaitable, Callable

import pytest
from builders import make_episode, make_task

from lzero.cli.keyboard import Keyboard
from lzero.cli.stage import GaveUp, PlayEngine, ending, read_reply, tool_names
from lzero.config import Config
from lzero.errors import EngineError
from lzero.models import build_tokenizer
from lzero.tools.search import PassageIndex, Search
from lzero.types import Budgets, Episode, Failure, Reward, Sampling

TASK = make_task("t1", answers=("Kato", "Kato I"))


def typed(text: str) -> Callable[[], Awaitable[str | None]]:
    lines = iter(text.split("\n"))

    async def next_line() -> str | None:
        return next(lines, None)

    return next_line


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("print(1)\n\nprint(2)\n", "<code>\nprint(1)\n</code>"),
        ("\n  \nfor x in y:\n    print(x)\n\n", "<code>\nfor x in y:\n    print(x)\n</code>"),
        ("print(1)", "<code>\nprint(1)\n</code>"),
        (
            "<think>First\n\nthen.</think>\n<code>\nx = 1\n\nprint(x)\n</code>\nmore",
            "<think>First\n\nthen.</think>\n<code>\nx = 1\n\nprint(x)\n</code>",
        ),
    ],
    ids=["an empty line ends", "leading empty lines", "the input ends", "a whole reply"],
)
async def test_typed_lines_become_a_reply(text: str, reply: str) -> None:
    assert await read_reply(typed(text)) == reply


async def test_the_lines_after_a_reply_are_the_next_ones() -> None:
    lines = typed("print(1)\n\nprint(2)\n\n")
    assert [await read_reply(lines), await read_reply(lines)] == [
        "<code>\nprint(1)\n</code>",
        "<code>\nprint(2)\n</code>",
    ]
    with pytest.raises(GaveUp):
        await read_reply(lines)


async def test_the_keyboard_gives_lines_until_the_input_ends() -> None:
    reading, writing = os.pipe()
    os.write(writing, "é\r\nlast".encode())
    os.close(writing)
    keyboard = Keyboard(reading)
    assert [await keyboard.line() for _ in range(4)] == ["é", "last", None, None]
    os.close(reading)


async def test_only_what_is_new_of_a_prompt_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()

    async def answer(transcript: str, seed: int) -> str:
        return f"reply {seed}"

    stage = PlayEngine(answer, tokenizer, echo=True)
    ids = list(tokenizer.encode("first", add_special_tokens=False))
    for number, more in enumerate((" second", " third\x1b[31m")):
        completion = await stage.sample(
            ids, Sampling(seed=number, max_tokens=50), request_id="r", affinity="a", deadline_s=1
        )
        ids += [*completion.token_ids, *tokenizer.encode(more, add_special_tokens=False)]
    assert capsys.readouterr().out == "firstreply 0\n secondreply 1\n"
    with pytest.raises(EngineError):
        await stage.score(ids)


async def test_a_reply_that_is_cut_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(transcript: str, seed: int) -> str:
        return "a long reply"

    stage = PlayEngine(answer, build_tokenizer(), echo=True)
    await stage.sample([100], Sampling(max_tokens=6), request_id="r", affinity="a", deadline_s=1)
    assert "a long\n(cut off after 6 tokens" in capsys.readouterr().out


def episode(answer: str | None, failure: Failure | None = None) -> Episode:
    budgets, status = Budgets(max_steps=6, max_tokens=640, cell_s=10), "failed" if failure else "out_of_steps"
    return make_episode(answer=answer, failure=failure, budgets=budgets, status=status)


def test_the_end_shows_answer_gold_score_and_reward() -> None:
    reward = Reward(score=1.0, per_step=(0.4, 0.5), parts={"qa": (0.4, 0.4), "format": (0.0, 0.1)})
    assert ending(TASK, episode("Kato"), reward, Config()).split("\n") == [
        "",
        "status  out of steps, 0 of 6 steps",
        "answer  Kato",
        "gold    Kato | Kato I",
        "score   1",
        "reward  0.9 = qa 0.8, format 0.1",
    ]


def test_our_failure_is_told_without_a_score() -> None:
    failed = ending(TASK, episode(None, Failure(kind="repl", what="the zygote died", where="step 2")), None, Config())
    assert "lzero failed (repl, step 2): the zygote died" in failed
    assert "score" not in failed


def test_a_person_reads_which_tools_there_are() -> None:
    assert tool_names((), notepad=False) == "submit_final_answer(answer)"
    found = tool_names((Search(PassageIndex(())),), notepad=True)
    assert found == "search(query), submit_final_answer(answer), notepad"
