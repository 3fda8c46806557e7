"""Puzzles of reasoning-gym, solved by code in the sandbox: a scripted policy writes the program, and never the answer."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lzero.config import load_config
from lzero.eval.evaluate import Evaluator
from lzero.rollout.budgets import fit_budgets
from lzero.rollout.compose import build, eval_tasks

pytest.importorskip("reasoning_gym", reason="pip install 'lzero[reasoning-gym]'")
pytestmark = pytest.mark.sandbox

PROGRAMS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"arithmetic problem: (.+) =", lambda found: found[1]),
    (r"Greatest Common Divisor.*: ([\d, ]+)\.", lambda found: f"__import__('math').gcd({found[1]})"),
    (r"Least Common Multiple.*: ([\d, ]+)", lambda found: f"__import__('math').lcm({found[1]})"),
    (
        r"Simplify the fraction (\d+)/(\d+)",
        lambda found: f"str(__import__('fractions').Fraction({found[1]}, {found[2]}))",
    ),
    (r'letter "(.)" appear in the text: "(.*)"\?', lambda found: f"{found[2].lower()!r}.count({found[1]!r})"),
)
WEIGHTS = "{chain_sum = 2, gcd = 1, lcm = 1, fraction_simplification = 1, letter_counting = 1}"


def solver(transcript: str, seed: int) -> str:
    (code,) = [program(found) for pattern, program in PROGRAMS if (found := re.search(pattern, transcript))]
    return f"<think>A line of Python finds it.</think>\n<code>\nsubmit_final_answer({code})\n</code>"


def careless(transcript: str, seed: int) -> str:
    return "<think>I guess, without a look.</think>\n<code>\nsubmit_final_answer(0)\n</code>"


@pytest.mark.parametrize(("policy", "least", "most"), [("solver", 1.0, 1.0), ("careless", 0.0, 0.3)])
async def test_a_mixture_is_solved_by_code(
    monkeypatch: pytest.MonkeyPatch, policy: str, least: float, most: float
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    config = load_config(
        None,
        [
            *("engine.kind=scripted", f"engine.policy={Path(__file__).stem}:{policy}"),
            *("tasks.eval=reasoning_gym:mix", "tasks.train=reasoning_gym:mix", f"tasks.options.weights={WEIGHTS}"),
            "tasks.options.settings={fraction_simplification = {styles = ['plain']}}",
            *("reward.function=reasoning_gym", "environment.use=none", "eval.num_tasks=12", "rollout.concurrency=8"),
        ],
    )
    config = fit_budgets(config)
    async with build(config) as parts:
        found = await Evaluator(runner=parts.runner, source=eval_tasks(config), config=config).greedy()
    assert found.num_failed == 0
    assert len({record.task.source for record in found.records}) == 5
    wrong = [
        (record.task.question, record.task.answers, record.episodes[0].answer)
        for record in found.records
        if record.scores != (1.0,)
    ]
    assert least <= found.score <= most, wrong[:3]
