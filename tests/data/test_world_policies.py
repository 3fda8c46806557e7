"""Scripted policies act on text alone; each is good or bad in its own way."""

import ast
import re

import pytest

from lzero.data.world import POLICIES, RECALL, WorldSource
from lzero.data.world.policies import read
from lzero.protocols import Policy
from lzero.types import Task

REPLY = re.compile(r"<think>([^<]+)</think>\n<code>\n([^<]+)\n</code>")
MAX_STEPS = 6


def attempt(policy: Policy, task: Task, *, seed: int = 0) -> tuple[list[str], str | None]:
    """Return the replies of an episode and the submitted answer, with a search that returns the entry of a name."""
    transcript = f"{task.question}\n[{MAX_STEPS} steps and 640 tokens left]"
    texts = {passage.title: passage.text for passage in task.passages}
    replies = []
    for step in range(MAX_STEPS):
        replies.append(policy(transcript, seed * 1000 + step))
        match = REPLY.fullmatch(replies[-1])
        code = match.group(2) if match else ""
        search = re.fullmatch(r'print\(search\("(\w+)"\)\)', code)
        answer = re.fullmatch(r'submit_final_answer\("(\w+)"\)', code)
        if answer:
            return replies, answer.group(1)
        output = (
            f"{search.group(1)}: {texts[search.group(1)]}" if search else "SyntaxError: unterminated string literal"
        )
        transcript += (
            f"{replies[-1]}\n<output>\n{output}\n</output>\n[{MAX_STEPS - 1 - step} steps and 500 tokens left]"
        )
    return replies, None


def score(policy: str, *, hops: int, count: int = 100) -> float:
    source = WorldSource(0, "eval", (hops,))
    right = 0
    for index in range(count):
        task = source.task(index)
        right += attempt(POLICIES[policy], task, seed=index)[1] in task.answers
    return right / count


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_the_expert_is_always_right_in_as_few_steps_as_can_be(hops: int) -> None:
    source = WorldSource(0, "eval", (hops,))
    for index in range(100):
        task = source.task(index)
        replies, answer = attempt(POLICIES["expert"], task)
        assert answer in task.answers
        assert len(replies) == hops + 1


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"syntax_error", "weak", "recall"}))
def test_cells_parse(policy: str) -> None:
    for index in range(30):
        for reply in attempt(POLICIES[policy], WorldSource(0, "eval").task(index), seed=index)[0]:
            match = REPLY.fullmatch(reply)
            assert match is not None
            ast.parse(match.group(2))
            assert len(match.group(1)) > 10


def test_answering_early_is_right_for_one_hop_only() -> None:
    assert score("early", hops=1) == 1.0
    assert score("early", hops=2) == 0.0


def test_a_wrong_hop_misses_nearly_always() -> None:
    assert score("wrong_hop", hops=1) <= 0.3
    assert score("wrong_hop", hops=2) <= 0.3


def test_some_cells_of_syntax_error_do_not_parse_and_it_tries_again() -> None:
    source = WorldSource(0, "eval", (2,))
    broken = 0
    for index in range(30):
        for reply in attempt(POLICIES["syntax_error"], source.task(index), seed=index)[0]:
            match = REPLY.fullmatch(reply)
            assert match is not None
            try:
                ast.parse(match.group(2))
            except SyntaxError:
                broken += 1
    assert 30 <= broken <= 90
    assert score("syntax_error", hops=1) >= 0.9


def test_the_weak_policy_mostly_stops_at_the_first_fact() -> None:
    assert score("weak", hops=1) >= 0.7
    assert 0.05 <= score("weak", hops=2) <= 0.35
    assert score("weak", hops=3) <= 0.15


def test_a_thought_tells_what_is_left_of_the_path() -> None:
    task = WorldSource(0, "eval", (3,)).task(0)
    replies, _ = attempt(POLICIES["expert"], task, seed=0)
    path = read(task.question).relations
    assert f"; {path[1]} {path[2]} to go. I need the {path[1]} of " in replies[1]
    assert f"; {path[2]} to go. I need the {path[2]} of " in replies[2]
    assert "to go" not in replies[3]


def test_never_submits_uses_its_steps_up() -> None:
    for index in range(30):
        replies, answer = attempt(POLICIES["never_submits"], WorldSource(0, "eval").task(index), seed=index)
        assert answer is None
        assert len(replies) == MAX_STEPS


def test_guessing_without_a_search_is_worth_nearly_nothing() -> None:
    assert score("never_searches", hops=1, count=2000) <= 0.02
    assert score("never_searches", hops=3, count=2000) <= 0.02


def test_recall_repeats_the_facts_asked_for() -> None:
    source = WorldSource(0, RECALL)
    for index in range(30):
        task = source.task(index)
        replies, answer = attempt(POLICIES["recall"], task)
        assert answer in task.answers
        assert len(replies) == 1


def test_policies_are_pure() -> None:
    question = WorldSource(0, "eval", (3,)).task(0).question
    for name in set(POLICIES) - {"recall"}:
        assert POLICIES[name](question, 5) == POLICIES[name](question, 5)


def test_a_transcript_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="no question"):
        read("Hello")
