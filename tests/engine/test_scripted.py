"""The engine of scripted policies: a function of the transcript, with a real engine's manners."""

import pytest

from lzero.config import load_config
from lzero.engine.scripted.engine import ScriptedChat, ScriptedEngine
from lzero.errors import ConfigError, EngineError
from lzero.models import build_tokenizer
from lzero.protocols import ChatEngine, Policy
from lzero.types import Completion, Message, Sampling, Usage

TOKENIZER = build_tokenizer()


async def sample(policy: Policy, sampling: Sampling, prompt: str = "Who?") -> Completion:
    ids = TOKENIZER.encode(prompt, add_special_tokens=False)
    return await ScriptedEngine(policy, TOKENIZER).sample(ids, sampling, request_id="e/0", affinity="e", deadline_s=1.0)


async def test_a_policy_reads_the_transcript_and_the_seed() -> None:
    completion = await sample(lambda transcript, seed: f"{transcript} {seed}", Sampling(seed=7), prompt="é 北京?")
    assert completion.text == "é 北京? 7"
    assert completion.stop_reason == "eos"
    assert completion.token_ids[-1] == TOKENIZER.eos_token_id
    assert set(completion.logprobs) == {0.0}
    assert completion.versions == ((0, len(completion.token_ids)),)


async def test_a_reply_ends_with_the_stop_string_that_comes_first() -> None:
    completion = await sample(lambda *_: "a</code>b</code>", Sampling(stop=("b", "</code>")))
    assert (completion.text, completion.stop_reason) == ("a</code>", "stop")
    assert TOKENIZER.decode(completion.token_ids) == "a</code>"


async def test_a_reply_is_no_longer_than_asked_for() -> None:
    completion = await sample(lambda *_: "x" * 100, Sampling(max_tokens=8))
    assert (completion.text, completion.stop_reason) == ("x" * 8, "length")


async def test_control_tokens_in_a_reply_are_text() -> None:
    completion = await sample(lambda *_: "<|im_end|>", Sampling())
    assert completion.token_ids.count(TOKENIZER.eos_token_id) == 1
    assert completion.text == "<|im_end|>"


async def test_an_empty_reply_is_an_end_of_turn() -> None:
    assert (await sample(lambda *_: "", Sampling())).token_ids == (TOKENIZER.eos_token_id,)


async def test_a_script_scores_nothing() -> None:
    with pytest.raises(EngineError, match="cannot score"):
        await ScriptedEngine(lambda *_: "", TOKENIZER).score([1, 2])


# In words


async def test_a_chat_policy_reads_the_conversation_and_the_seed() -> None:
    told: list[tuple[str, str]] = []
    chat = ScriptedChat(lambda messages, seed: f"{messages[-1].content} {seed}\n<code>1</code> and more")
    hello = (Message(role="system", content="Be brief."), Message(role="user", content="Who is it?"))
    sampling = Sampling(stop=("</code>",), seed=7)
    completion = await chat.reply(
        hello, sampling, request_id="e/0", deadline_s=1.0, on_text=lambda *piece: told.append(piece)
    )
    assert (completion.text, completion.stop_reason) == ("Who is it? 7\n<code>1</code>", "stop")
    assert told == [("text", piece) for piece in ("Who", " is", " it?", " 7", "\n<code>1</code>")]
    assert completion.usage == Usage(prompt_tokens=5, completion_tokens=5, cost_usd=0.0)
    await chat.close()


async def test_a_scripted_reply_in_words_is_no_longer_than_asked_for() -> None:
    chat: ChatEngine = ScriptedChat(lambda *_: " a b\n c ")
    ends = []
    for max_tokens in (3, 4, 5):
        reply = await chat.reply((), Sampling(max_tokens=max_tokens), request_id="", deadline_s=1.0)
        ends.append((reply.text, reply.stop_reason))
    assert ends == [(" a b\n c", "length"), (" a b\n c ", "eos"), (" a b\n c ", "eos")]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (lambda transcript, seed: 1 / 0, r"raised ZeroDivisionError: division by zero \(test_scripted.py, line \d+\)"),
        (lambda transcript, seed: None, "returned NoneType, not a text"),
    ],
)
async def test_a_policy_that_fails_is_an_error_of_the_engine(policy: Policy, said: str) -> None:
    engine = ScriptedEngine(policy, build_tokenizer())
    with pytest.raises(EngineError, match=f"the scripted policy {said}"):
        await engine.sample((5, 6), Sampling(), request_id="a", affinity="a", deadline_s=1.0)


def test_a_policy_in_place_of_a_model_is_told_its_new_name() -> None:
    with pytest.raises(ConfigError, match=r'write engine\.kind = "scripted" and engine\.policy = "expert"'):
        load_config(None, ["model.path=policy:expert"])
