"""The engine of scripted policies: a function of the transcript, with a real engine's manners."""

import pytest

from lzero.engine.scripted import ScriptedEngine
from lzero.errors import EngineError
from lzero.models import build_tokenizer
from lzero.protocols import Policy
from lzero.types import Completion, Sampling

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
