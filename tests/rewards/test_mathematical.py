"""Mathematical match: what is equal, what is not, and answers that attack the host."""

import builtins
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from builders import make_task

from lzero.apart import run_apart
from lzero.rewards.scores import find_score

pytest.importorskip("math_verify", reason="it needs the extra math")


def is_match(answer: str, *golds: str) -> bool:
    return find_score("math")(answer, make_task(answers=golds)) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("$18", "18"),
        ("18.0", "18"),
        ("007", "7"),
        ("18 dollars", "18"),
        ("2+16", "18"),
        ("½", "0.5"),
        ("50%", "0.5"),
        ("1.5e3", "1500"),
        ("The answer is $\\frac12$.", "1/2"),
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("0.333333", "\\frac{1}{3}"),
        ("sqrt(3)/2", "\\frac{\\sqrt{3}}{2}"),
        ("x**2 + 2*x + 1", "(x+1)^2"),
        ("3√2", "3\\sqrt{2}"),
        ("2*pi", "2π"),
        ("x = 5", "5"),
        ("{2, 1}", "\\{1,2\\}"),
        ("[1,2)", "[1, 2)"),
        ("3 \\ge x", "x ≤ 3"),
        ("4i+3", "3 + 4i"),
        ("5 km", "5\\text{ km}"),
        ("Evelyn", "\\text{Evelyn}"),
        ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ],
)
def test_other_spellings_of_a_value_match(answer: str, gold: str) -> None:
    assert is_match(answer, "no gold answer", gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("19", "18"),
        ("-18", "18"),
        ("18 or 19", "18"),
        ("$18 or $19", "18"),
        ("$18$ or $19$", "18"),
        ("2", "\\frac{1}{2}"),
        ("12", "\\frac{1}{2}"),
        ("0.33", "1/3"),
        ("[1,2]", "(1,2)"),
        ("post", "stop"),
        ("\\text{neve}", "\\text{even}"),
        ("1/0", "5"),
        ("nan", "5"),
        ("\\infty", "5"),
        ("0=1", "x=5"),
        ("\\emptyset", "5"),
        ("", "5"),
    ],
)
def test_another_value_does_not_match(answer: str, gold: str) -> None:
    assert not is_match(answer, gold)


TOUCH = "__import__('os').system('touch run')"
HOSTILE = (
    TOUCH,
    f"$\\text{{{TOUCH}}}(x)=0$",
    f"\\operatorname{{{TOUCH}}}(x) < 3",
    f"5_{{{TOUCH}}}",
    "9^{9^{9^{9}}}",
    "\\operatorname{zeros}(99999,99999)",
    "(" * 900 + "1" + ")" * 900,
    "1e999999999",
    "\\boxed{" * 280,
    "$" * 1_999,
    "9" * 1_999,
    "5" * 100_000,
    "\\sum_{i=1}^{10^9} i",
    "x\0\ud800",
)


def test_a_hostile_answer_runs_nothing_and_scores_nothing_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lzero.apart.SCORER_S", 0.4)
    assert not any(is_match(answer, "6", "x = 6") for answer in HOSTILE)
    assert os.listdir() == []
    assert "math-verify raised TimeoutError" in caplog.text


def test_the_fork_neither_compiles_nor_executes_text_and_reads_numbers_only() -> None:
    import sympy

    from lzero.rewards.scores import mathematical

    name = sympy.Function("__import__('os').getpid")(sympy.Symbol("x"))

    def raised(act: Callable[[], object]) -> str:
        def guarded() -> str:
            mathematical._refuse_text()
            return str(act())

        done = run_apart(guarded, seconds=60.0, memory_bytes=1 << 30)
        return done.text or done.raised[0]

    for runs_text in (builtins.eval, builtins.exec, partial(compile, filename="<string>", mode="eval")):
        assert raised(partial(runs_text, "1 + 1")) == "RuntimeError"
    assert raised(lambda: sympy.lambdify(sympy.Symbol("x"), name)) == "RuntimeError"
    assert raised(lambda: sympy.sympify("[].append")) == "SympifyError"
    assert raised(lambda: sympy.Number("0.50") + sympy.Number("12")) == "12.5000000000000"
    assert raised(lambda: sympy.factor(sympy.Symbol("x") ** 2 - 1)) == "(x - 1)*(x + 1)"


def test_the_librarys_messages_do_not_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert is_match("$\\frac{2}{4}$", "0.5")
    assert [record for record in caplog.records if record.name.startswith("math_verify")] == []
