"""What a reply says: its thought, its code, and whether it keeps to the format.

Two readings of the same text. The *strict* one earns the format reward. The *kind* one runs what can be run, because an
agent learns more from a cell's output than from a refusal:

    no thought, or one that is not closed      the code runs
    text around the blocks                     the code runs
    several code blocks                        the first one runs, and `problem` says so
    a ```python fence inside the code block    it is taken off (the format allows it)
    a ```python fence and no code block        what is in it runs
    a code tag inside a closed thought         it is part of the thought
    a thought inside a code block              it is part of the code
    a code block that is not closed            it runs, unless the reply was cut off: half a cell does not run
    no code at all, or an empty block          nothing runs, and `problem` says why
"""

import re
from collections.abc import Sequence

from lzero.types import Parsed

MIN_THINK = 10
MIN_CODE = 5
"""A block must hold more characters than this, surrounding whitespace apart, to be well formed (L0's format reward)."""

_TAGS = ("<think>", "</think>", "<code>", "</code>")
_STRICT = re.compile(r"\s*<think>(.*)</think>\s*<code>(.*)</code>\s*", re.DOTALL)
_FENCES = re.compile(r"^```[ \t]*(?:python3?|py)[ \t]*\n(.*?)^```", re.DOTALL | re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*)```", re.DOTALL | re.IGNORECASE)


def parse(text: str, *, reasoning: str = "", cut_off: bool = False) -> Parsed:
    """Read a reply. `reasoning`: a thought that the model's endpoint told apart from it; `cut_off`: it ended for its length. Never raises.

    >>> parse("<think>Look up the rival.</think>\\n<code>\\nprint(search('Liri'))\\n</code>").code
    "print(search('Liri'))"
    """
    if "<code>" in reasoning and not text.strip():  # an endpoint that took the whole reply for a thought
        text, reasoning = reasoning, ""
    think, others = _split_think(text)
    blocks = _blocks(others)
    code = _unfence(blocks[0][0]) if blocks else ""
    problem = ""
    if not blocks:
        problem = "nothing ran: there is no <code> block"
    elif cut_off and not blocks[0][1]:
        problem = "nothing ran: <code> is not closed by </code>, the reply is longer than a reply may be"
    elif not code:
        problem = "nothing ran: the <code> block is empty"
    runs = not problem
    if runs and len(blocks) > 1:
        problem = f"only the first of {len(blocks)} code blocks ran"
    return Parsed(
        think=think.strip() or reasoning.strip(),
        code=code if runs else None,
        well_formed=_is_well_formed(text),
        problem=problem,
    )


def _blocks(texts: Sequence[str]) -> list[tuple[str, bool]]:
    """The code blocks and whether each is closed; where there is none, Python that stands in fences."""
    blocks = []
    for text in texts:
        _, opened, after = text.partition("<code>")
        while opened:
            block, closed, rest = after.partition("</code>")
            blocks.append((block, bool(closed)))
            _, opened, after = rest.partition("<code>")
    return blocks or [(match[1], True) for text in texts for match in _FENCES.finditer(text)]


def _split_think(text: str) -> tuple[str, list[str]]:
    """The thought, and the texts beside it, in which code is looked for. A thought that is not closed ends where code begins."""
    before, opened, after = text.partition("<think>")
    in_code = before.rfind("<code>") > before.rfind("</code>")
    if not opened or in_code:
        return "", [text]
    think, closed, rest = after.partition("</think>")
    if not closed:
        return after.partition("<code>")[0], [text]
    return think, [before, rest]


def _is_well_formed(text: str) -> bool:
    match = _STRICT.fullmatch(text)
    if match is None or any(text.count(tag) != 1 for tag in _TAGS):
        return False
    think, block = match.groups()
    return len(think.strip()) > MIN_THINK and len(block.strip()) > MIN_CODE and bool(_unfence(block))


def _unfence(block: str) -> str:
    """The code itself: no fence, no blank lines around it. The first line keeps its indentation, which IPython removes."""
    fenced = _FENCE.fullmatch(block.strip())
    lines = (fenced.group(1) if fenced else block).rstrip().split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    return "\n".join(lines)
