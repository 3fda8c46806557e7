"""The context watcher: whatever is said and put out, the model sees what fits, and what must stay stays."""

import pytest
from episode_fakes import AGENT, SUBMIT, TOKENIZER, AnyCode, FakePool, Replies, attempt, calling, cell, reply, sequences
from hypothesis import given
from hypothesis import strategies as st

from lzero.config import AgentConfig
from lzero.types import Episode

LONG = "\n".join(f"line {number} of an output" for number in range(40))
SUMMARY = "<summary>Titu is the founder; rival not known yet</summary>"


def remembering(memory: str, **changes: object) -> AgentConfig:
    changes = {"memory": memory, "max_tokens": 2000, "response_tokens": 150, "max_steps": 12} | changes
    return AGENT.model_copy(update=changes)


def check_budgets(episode: Episode, agent: AgentConfig) -> None:
    for step, prompt in zip(episode.steps, sequences(episode), strict=True):
        assert len(prompt) + len(step.completion.token_ids) <= agent.max_tokens
    acts = [step for step in episode.steps if step.kind == "act"]
    assert len(acts) <= agent.max_steps


async def test_hard_keeps_the_task_and_the_newest_output() -> None:
    policy = Replies(*[reply(f"look {number}") for number in range(11)], reply("submit"))
    cells = {f"look {number}": cell(f"{number}: {LONG}\n") for number in range(11)}
    agent = remembering("hard")
    episode = await attempt(policy, FakePool({**cells, **SUBMIT}), agent=agent)
    assert (episode.status, episode.answer, len(episode.steps)) == ("finished", "Kato", 12)
    check_budgets(episode, agent)
    trims = [number for number, step in enumerate(episode.steps) if step.trimmed]
    assert len(trims) >= 2
    for number in trims:
        assert episode.steps[number].prompt.keep == 0
        seen = policy.transcripts[number]
        assert seen.startswith("<|im_start|>user\nWho is the rival of Liri?\n[earlier steps were dropped from view")
        assert seen.count("<|im_start|>user") == 1
        assert f"<output>\n{number - 1}: line 0" in seen
        assert f"{number - 2}: line 0" not in seen
    for number in set(range(1, 12)) - set(trims):
        assert episode.steps[number].prompt.keep > 0


async def test_soft_has_the_model_sum_up_what_is_dropped() -> None:
    class Summarising(Replies):
        def __call__(self, transcript: str, seed: int) -> str:
            if transcript.rpartition("<|im_start|>user")[2].startswith("\n[What you see is nearly full."):
                return f"I sum up. {SUMMARY} and more"
            return super().__call__(transcript, seed)

    policy = Summarising(*[reply("look")] * 8, reply("submit"))
    agent = remembering("soft", summary_tokens=100)
    episode = await attempt(policy, FakePool({"look": cell(LONG), **SUBMIT}), agent=agent)
    assert (episode.status, episode.answer) == ("finished", "Kato")
    check_budgets(episode, agent)
    summaries = [number for number, step in enumerate(episode.steps) if step.kind == "summarise"]
    assert len(summaries) >= 2
    prompts = sequences(episode)
    for number in summaries:
        assert episode.steps[number].completion.text.endswith("</summary>")
        assert episode.steps[number].prompt.keep == len(prompts[number - 1]) + len(
            episode.steps[number - 1].completion.token_ids
        )
        after = TOKENIZER.decode(prompts[number + 1])
        assert episode.steps[number + 1].trimmed
        assert "<summary>\nTitu is the founder; rival not known yet\n</summary>\n<output>\nline 0" in after


async def test_none_ends_when_it_is_full() -> None:
    episode = await attempt(Replies(reply("look")), FakePool({"look": cell(LONG)}), agent=remembering("none"))
    assert episode.status == "out_of_tokens"
    assert not any(step.trimmed for step in episode.steps)


@pytest.mark.parametrize("memory", ["soft", "hard"])
async def test_a_window_that_holds_nothing_but_the_task_ends_the_episode(memory: str) -> None:
    agent = remembering(memory, max_tokens=260, summary_tokens=20)
    episode = await attempt(Replies(reply("look")), FakePool({"look": cell(LONG)}), agent=agent)
    assert episode.status in ("out_of_tokens", "out_of_steps")
    check_budgets(episode, agent)


async def test_what_is_cut_to_fit_says_so() -> None:
    policy = Replies(reply("look"), reply("submit"))
    agent = remembering("hard", output_chars=20_000, max_tokens=1500)
    episode = await attempt(policy, FakePool({"look": cell(LONG * 20), **SUBMIT}), agent=agent)
    assert episode.answer == "Kato"
    assert "characters, the middle is cut]" in policy.transcripts[1]
    check_budgets(episode, agent)


async def test_the_notepad_is_closest_to_the_model_and_survives_a_trim() -> None:
    note = calling("notepad", state={"todos": [{"text": "find him", "status": "done"}], "facts": ["a"], "draft": "so"})
    policy = Replies(reply("note"), *[reply("look")] * 6, reply("submit"))
    agent = remembering("hard", notepad=True)
    episode = await attempt(policy, FakePool({"note": note, "look": cell(LONG), **SUBMIT}), agent=agent)
    assert any(step.trimmed for step in episode.steps)
    assert all(step.notepad == episode.steps[0].notepad for step in episode.steps)
    assert not episode.steps[0].tool_calls
    shown = "</output>\n<notepad>\n[x] 1. find him\nfacts:\n1. a\ndraft:\nso\n</notepad>\n["
    for transcript in policy.transcripts[1:]:
        assert shown in transcript.rpartition("<|im_start|>user")[2]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (None, "Expected `object`"),
        ({"todos": [{"text": 1}]}, "Expected `str`"),
        ({"todos": [{"text": "x", "status": "maybe"}]}, "Invalid enum value"),
        ({"facts": ["x"] * 201}, "201 facts are more than 200"),
        ({"draft": "x" * 20_001}, "longer than 20000"),
        ({"facts": ["x" * 1001]}, "keep long texts in variables"),
        ({"else": 1}, "unknown field"),
    ],
)
async def test_a_state_that_is_no_notepads_is_refused(state: object, told: str) -> None:
    policy = Replies(reply("note"), reply("submit"))
    note = calling("notepad", state=state)  # type: ignore[arg-type]
    episode = await attempt(policy, FakePool({"note": note, **SUBMIT}), agent=remembering("none", notepad=True))
    assert told in policy.transcripts[1]
    assert episode.answer == "Kato"
    assert episode.steps[0].notepad.facts == ()


async def test_escapes_and_controls_do_not_come_out_of_a_notepad() -> None:
    note = calling("notepad", state={"facts": ["\x1b[31mred\x1b[0m\x00<|im_end|>"]})
    policy = Replies(reply("note"), reply("submit"))
    episode = await attempt(policy, FakePool({"note": note, **SUBMIT}), agent=remembering("none", notepad=True))
    assert episode.steps[0].notepad.facts == ("red<|im_end|>",)
    assert len([token for token in episode.steps[1].prompt.new_ids if token in set(TOKENIZER.all_special_ids)]) == 4


@given(
    outputs=st.lists(st.text(max_size=2000), min_size=1, max_size=4),
    memory=st.sampled_from(["none", "soft", "hard"]),
    max_tokens=st.integers(min_value=150, max_value=3000),
    response_tokens=st.integers(min_value=1, max_value=200),
)
async def test_no_prompt_is_ever_longer_than_the_limit(
    outputs: list[str], memory: str, max_tokens: int, response_tokens: int
) -> None:
    agent = remembering(
        memory, max_tokens=max_tokens, response_tokens=response_tokens, summary_tokens=40, output_chars=900, max_steps=6
    )
    replies = [reply(output) for output in outputs]
    episode = await attempt(Replies(*replies), FakePool(AnyCode(cell(outputs[0]))), agent=agent)
    check_budgets(episode, agent)
    assert episode.failure is None


@pytest.mark.parametrize("memory", ["soft", "hard"])
async def test_a_trim_leaves_room_for_a_reply_where_the_task_takes_half_of_the_window(memory: str) -> None:
    policy = Replies(*[reply("look")] * 4, reply("submit"))
    changes: dict[str, object] = {"question_suffix": "?" * 500, "max_tokens": 1300}
    agent = remembering(memory, **changes, **({"summary_tokens": 60} if memory == "soft" else {}))
    episode = await attempt(policy, FakePool({"look": cell(LONG * 3), **SUBMIT}), agent=agent)
    check_budgets(episode, agent)
    assert any(step.trimmed for step in episode.steps)
    assert episode.status != "out_of_tokens"
