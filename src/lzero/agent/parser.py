"""Parse a reply: its thought, its code, and whether it keeps to the format.

There are two readings of a text. The *strict* one earns the format reward. The *lenient* one runs what can be run, because an agent learns
more from a cell's output than from a refusal:

    no thought, or one that is not closed      the code runs, unless the reply was cut off in the thought
    a </think> without <think>                 everything before it is thought: a draft in it does not run
    text around the blocks                     the code runs
    several code blocks                        the first one runs, and `problem` says so
    a ```python fence inside the code block    it is removed (the format allows it), with the text around it
    a ```python fence and no code block        its content runs
    a code tag inside a closed thought         it is part of the thought
    a thought inside a code block              it is part of the code
    a block or fence that is not closed        it runs, unless the reply was cut off: half a cell does not run
    no code at all, or an empty block          nothing runs, and `problem` says why

`lzero.agent.blocks` defines fences.
"""

import re
from itertools import dropwhile

from lzero.agent.blocks import Block, Blocks, find_blocks, unfenced
from lzero.types import Parsed

MIN_THINK = 10
MIN_CODE = 5
"""A well-formed block has more characters than this, without surrounding whitespace (L0's format reward)."""

_TAGS = ("<think>", "</think>", "<code>", "</code>")
_STRICT = re.compile(r"\s*<think>(.*)</think>\s*<code>(.*)</code>\s*", re.DOTALL)
_OTHERS = re.compile("```|~~~|</?thinking>")
"""Marks beside _TAGS that `find_blocks` reads."""


def parse(text: str, *, reasoning: str = "", cut_off: bool = False) -> Parsed:
    """Read a reply. `reasoning`: a thought that the model's endpoint told apart from it; `cut_off`: it ended for its length. Never raises.

    >>> parse("<think>Look up the rival.</think>\\n<code>\\nprint(search('Liri'))\\n</code>").code
    "print(search('Liri'))"
    """
    if (
        "<code>" in reasoning and not text.strip() and not cut_off
    ):  # an endpoint that took the whole reply for a thought
        text, reasoning = reasoning, ""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    strict = _strict(text)
    # Blocks of a strict reply are what the expression finds, many times faster, unless a fence or another tag changes them.
    found = find_blocks(text) if strict is None or _OTHERS.search(text) else Blocks(strict[1], [Block(strict[2])])
    blocks = [block for block in found.blocks if block.tagged] or found.blocks
    code = _code(blocks[0]) if blocks else ""
    problem = ""
    if not blocks:
        problem = "nothing ran: there is no <code> block"
    elif cut_off and blocks[0].in_open_thought:
        problem = "nothing ran: <think> is not closed by </think>, the reply is longer than a reply may be"
    elif cut_off and not blocks[0].closed:
        opened, closing = ("<code>", "</code>") if blocks[0].tagged else ("the fence", "a line like its first")
        problem = f"nothing ran: {opened} is not closed by {closing}, the reply is longer than a reply may be"
    elif not code:
        problem = "nothing ran: the <code> block is empty"
    runs = not problem
    num_blocks = len(blocks) + (_num_left(blocks[0], code) if runs else 0)
    if runs and num_blocks > 1:
        problem = f"only the first of {num_blocks} code blocks ran"
    return Parsed(
        think=found.thought.strip() or reasoning.strip(),
        code=code if runs else None,
        well_formed=strict is not None and _is_long_enough(*strict.groups()),
        problem=problem,
    )


def _num_left(block: Block, code: str) -> int:
    """Count the fences in a <code> block after the one that its code was taken from."""
    if not block.tagged or code.strip() == block.text.strip():
        return 0
    return max(0, sum(not fence.tagged for fence in find_blocks(block.text).blocks) - 1)


def _strict(text: str) -> re.Match[str] | None:
    """Return the thought and the block of a reply that is made of one thought and one block, in groups."""
    if any(text.count(tag) != 1 for tag in _TAGS):  # first: the expression then takes time linear in the text
        return None
    return _STRICT.fullmatch(text)


def _is_long_enough(think: str, block: str) -> bool:
    return len(think.strip()) > MIN_THINK and len(block.strip()) > MIN_CODE and bool(unfenced(block).strip())


def _code(block: Block) -> str:
    """Return the code without fence and blank lines around it. The first line keeps its indentation, which IPython removes."""
    text = unfenced(block.text) if block.tagged else block.text
    lines = text.rstrip().split("\n")
    return "\n".join(dropwhile(lambda line: not line.strip(), lines))
