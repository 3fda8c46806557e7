r"""Mathematical match by math-verify (extra `math`): \frac{1}{2} is 0.5, (x+1)^2 is x^2+2x+1, {1,2} is {2,1}.

Nothing of an answer is ever evaluated as Python. Answers are read as LaTeX by math-verify's ANTLR grammar, never by its reader of plain
expressions, which ends in sympy's `parse_expr` and so in `eval`. Two other ways lead there, and `_refuse_text` closes both: sympy makes a
number of a token by `parse_expr`, and its `lambdify` executes names of functions, which an answer may choose. All of it runs in a fork with
limits on memory and time.
"""

import logging
import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from lzero.apart import score_apart
from lzero.extras import need
from lzero.rewards.answers import exact_match
from lzero.rewards.scores.numeric import number_of
from lzero.types import Task

need("math", what='reward.score = "math"')
import math_verify  # noqa: E402 # after the check that it is installed
from sympy import Float, Integer  # noqa: E402
from sympy.parsing import sympy_parser  # noqa: E402

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its own limits of time are off

MAX_CHARS = 2_000
"""The longest answer that is read; a longer one is compared as text."""
_PLAIN_NUMBER = re.compile(r"-?\$?(?:[1-9]\d{0,2}(?:,\d{3})+|0|[1-9]\d{0,39})(?:\.\d{1,40})?", re.ASCII)
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|max|min|gcd|lcm|pi|infty"
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(rf"(?![A-Za-z]*(?:{_FUNCTIONS})(?![A-Za-z]))[^\W\d_]{{3,}}")
_FUNCTION = re.compile(rf"(?<![A-Za-z\\])(?!sqrt ?\()({_FUNCTIONS})(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_DELIMITED = re.compile(r"\$(?=\S)[^$]*(?<=\S)\$(?!\d)|\$\$[^$]*\$\$|\\\(.*\\\)|\\\[.*\\\]|\\boxed\b", re.DOTALL)
"""LaTeX in its delimiters; $18 or $19 are two amounts of money."""
_EXPONENT = re.compile(r"(?<=\d)[eE]([-+]?\d+)(?!\w)")
_SUPERSCRIPT = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_SPELLINGS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge "}
)
_INTEGER = re.compile(r"[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?", re.ASCII)


def mathematical(answer: str, task: Task) -> float:
    """Return 1 if the answer is mathematically equal to a gold answer, else 0.

    Words are compared by exact match: math-verify would take "stop" and "post" for the same product of variables. Raises OSError if this
    machine cannot make a fork.
    """
    answer = answer.strip()
    if not answer:
        return 0.0
    unsure = []
    for gold in map(str.strip, task.answers):
        verdict = _without_library(answer, gold)
        if verdict:
            return 1.0
        if verdict is None:
            unsure.append(gold)
    if not unsure or len(answer) > MAX_CHARS:
        return 0.0
    _warm_up()
    return float(score_apart(lambda: _verified(answer, unsure), name="math-verify", answer=answer) == "equal")


def _without_library(answer: str, gold: str) -> bool | None:
    """Return whether they are equal if plain text tells; None if it does not."""
    if answer == gold:
        return gold != ""
    if _is_words(gold) or len(gold) > MAX_CHARS:
        return exact_match(_TEXT.sub(r"\1", answer), [_TEXT.sub(r"\1", gold)])
    if number_of(gold) is not None and _PLAIN_NUMBER.fullmatch(gold):
        if exact_match(answer, [gold]):
            return True
        if _PLAIN_NUMBER.fullmatch(answer) and "." not in answer + gold:
            return False
    return None


def _is_words(gold: str) -> bool:
    return _WORD.search(_COMMAND.sub(" ", _TEXT.sub(r" \1 ", gold))) is not None


@cache
def _warm_up() -> None:
    """Fill the caches of grammar and library, which forks inherit, with formulas of our own."""
    for formula in (r"\frac{1}{2}", "x^{2}+2x-1=0", r"\sqrt{3}\pi", "(1,2]", r"\{1,2\}", "0.5", r"\sin(x)", r"x\le 3"):
        _read(formula)
    math_verify.verify(_read("(x+1)^{2}"), _read("x^{2}+2x+1"), timeout_seconds=None)


def _verified(answer: str, golds: Sequence[str]) -> str:
    """Return "equal" if math-verify finds the answer equal to a gold answer. Runs in a fork only."""
    logging.disable(logging.CRITICAL)  # files of the parent's log are open here, too
    _refuse_text()
    found = _read(_latex(answer))
    for gold in golds:
        wanted = _read(_latex(gold))
        if not wanted and exact_match(answer, [gold]):
            return "equal"
        if wanted and found and math_verify.verify(wanted, found, timeout_seconds=None):
            return "equal"
    return ""


def _read(latex: str) -> list[Any]:
    """Return what math-verify extracts from a text with delimited LaTeX, or from LaTeX alone: sympy objects, [] for none."""
    delimited = latex if _DELIMITED.search(latex) else f"$${latex}$$"
    reader = [math_verify.LatexExtractionConfig()]
    found: list[Any] = math_verify.parse(delimited, reader, fallback_mode="no_fallback", parsing_timeout=0)
    return found


def _latex(text: str) -> str:
    """Return a formula in LaTeX: `_latex("sqrt(3)*x**2") == r"\\sqrt(3)*x^2"`, `_latex("½") == r"\\frac{1}{2}"`."""
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0]).replace('−', '-')}}}", text)
    text = "".join(map(_fraction, text.translate(_SPELLINGS)))
    text = _EXPONENT.sub(r" \\cdot 10^{\1}", _FUNCTION.sub(r"\\\1", text.replace("**", "^")))
    return text if _DELIMITED.search(text) else text.replace("$", "")


def _fraction(character: str) -> str:
    over, bar, under = unicodedata.normalize("NFKC", character).partition("⁄")
    return f"\\frac{{{over}}}{{{under}}}" if bar and not character.isascii() else character


def _refuse_text() -> None:
    """Let nothing compile or execute text in this process from now on, but sympy's own code for monomials, which holds numbers only."""
    sympy_parser.parse_expr = _number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("compile", "exec") and _is_text(event, arguments):
            caller = sys._getframe(1)
            if caller.f_globals.get("__name__") != "sympy.polys.monomials":
                raise RuntimeError("an answer leads to code, which does not run")

    sys.addaudithook(watch)


def _is_text(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether the code comes from a text, not from a file of a module."""
    name = arguments[1] if event == "compile" else getattr(arguments[0], "co_filename", "<string>")
    return not isinstance(name, str) or name.startswith("<")


def _number(text: str, *_: Any, **__: Any) -> Integer | Float:
    """Return the number that sympy's `parse_expr` would, for the text of a number only."""
    if _INTEGER.fullmatch(text):
        return Integer(int(text))
    if _DECIMAL.fullmatch(text) is None or not any(map(str.isdigit, text)):
        raise SyntaxError(f"{text!r:.80} is no number")
    return Float(text)
