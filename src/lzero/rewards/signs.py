"""Finds the signs in an answer that are operators, and tells them from dashes and other punctuation.

    -x, f(-x), y=-x, ¬p, ~p            a sign before one letter is kept, glued to it; +x is x
    -(2+3i), -\\frac{1}{2}, -sin(x)     one before a bracket, LaTeX or a function is kept as `-(` or `-\\`; -(5) is -5
    a-b, a - b, (a)-(b)                kept between single letters and brackets; Jean-Luc and Paris - France have dashes
    A+, A-, AA-, C++, C#, 5-           kept at the end of a word: + after any, - after up to three letters or a digit, # after one letter
    x²+1, x^2                          a power of a variable (ijkntxyz) is kept in answers with numbers; m² and mc² are m2, mc2
    - Paris, - x, -Paris, pre-war      list bullets, dashes and hyphens: punctuation

Every step takes linear time.
"""

import re

_LETTER = r"[^\W\d_]"
_END = r"(?=(?:[^\w\s+\-#(\[{\\/*^]|\*\*)*+(?:\s|\Z))"
_SPELLINGS = str.maketrans({**dict.fromkeys("‐‑–−﹣－", "-"), "＋": "+", "～": "~", "∼": "~", "＃": "#", "￢": "¬"})
_SIGN = re.compile("[-+±∓~¬]")
_DETACHED = re.compile(r"(?<=[=(\[{*/^]) - (?=[^\W\d_(\[{\\])")
_NUMBER_IN_BRACKETS = re.compile(
    r"(?<![^\s=,;(\[{])(?P<sign>[-±~])\( ?(?P<number>\d{1,15}(?:,\d{3}){0,6}(?:[./]\d{1,15})?) ?\)(?! ?[\^*/]|[\w(])"
)
_PLUS_PLUS = re.compile(rf"(?<={_LETTER})\+\+(?=\d)")
_BETWEEN = re.compile(
    rf"(?:(?<=[)\]}}])|(?<={_LETTER})(?<![^\W_]{_LETTER}))(?P<space> ?)(?P<sign>[-+])(?P=space)"
    rf"(?:(?={_LETTER}(?![^\W\d_]))|(?P<bracket>(?=[(\[{{\\])))"
    r"|(?<=\d) ?(?P<minus>-) ?(?=\()"
)
_BEFORE = re.compile(
    rf"(?<![^\s=,(\[{{*/^<>|\"'`])(?P<sign>[-±∓~¬])"
    rf"(?:(?P<bracket>[(\[{{])|(?P<call>\\|(?={_LETTER}{{1,12}}\())|(?={_LETTER}(?![^\W\d_])))"
)
_PREFIX = re.compile(rf"[-+±∓~¬][(\\]|[-±∓~¬](?={_LETTER}(?![^\W\d_]))")
_SUFFIX = re.compile(
    rf"(?:(?<=[^\W_])\+\+?|(?<=\d)-|(?<![^\W_]){_LETTER}{{1,3}}(?P<minus>-)|(?<![^\W_]){_LETTER}(?P<sharp>\#)){_END}"
)
_AFTER_NUMBER = re.compile(rf"[-+]{_END}")
_LEFT = re.compile(rf"(?:[)\]}}]|(?<![^\W_]){_LETTER})\Z")
_RIGHT = re.compile(rf"[(\[{{]*{_LETTER}(?![^\W\d_])")


def marked(answer: str) -> str:
    """Return the answer with a space before each operator: `marked("f(-x)") == "f( -x)"`, `marked("a-b") == "a - b"`."""
    text = answer.translate(_SPELLINGS)
    if _SIGN.search(text) is None:
        return text
    text = _DETACHED.sub(" -", text)
    text = _PLUS_PLUS.sub("++ ", _NUMBER_IN_BRACKETS.sub(r"\g<sign>\g<number>", text))
    text = _BETWEEN.sub(
        lambda found: (
            " -" if found["minus"] or (found["bracket"], found["sign"]) == ("", "-") else f" {found['sign']} "
        ),
        text,
    )
    return _BEFORE.sub(
        lambda found: f" {found['sign']}" + ("( " if found["bracket"] else "" if found["call"] is None else "\\ "), text
    )


def parted(token: str) -> tuple[str, str, str]:
    """Return (sign before, word, sign after) of a token of a marked text: `parted("a+,") == ("", "a", "+")`."""
    before = _PREFIX.match(token)
    after = _SUFFIX.search(token)
    start = before.end() if before else 0
    if after is None:
        return token[:start], token[start:], ""
    sign = after["minus"] or after["sharp"] or after.group()
    return token[:start], token[start : after.end() - len(sign)], sign


def is_between(before: str, after: str) -> bool:
    """Return whether a sign between two tokens is an operator: between single letters and brackets it is."""
    return _LEFT.search(before) is not None and _RIGHT.match(after) is not None


def after_number(gap: str) -> str:
    """Return the sign at the end of a number that is followed by `gap`: "-" in 5-, "+" in 18+."""
    found = _AFTER_NUMBER.match(gap)
    return found.group() if found else ""
