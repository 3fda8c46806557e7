r"""Mark the frame that lzero writes around a model's input, and change text that looks like it.

    <output>            tags around an output, the notepad and a summary
    [12 characters, …]  notes of lzero, inside them and below
    [3 steps and 400 tokens left]

Text of sessions, tools, pages and tasks may contain such words. There, a backslash is put after the first character of each: `<\/output>`,
`[\3 steps and 400 tokens left]`. No cut in the middle of a text can undo that.
"""

import re

from lzero.marking import marked
from lzero.visible import clean

TAGS = ("output", "notepad", "summary")
NO_OUTPUT = "(no output)"
NOTHING_RAN = "nothing ran"
_NOTES = (
    r"\d[\d,]*+ steps? and \d[\d,]*+ tokens? left\b",
    r"\d[\d,]*+ characters, the middle is cut\b",
    r"interrupted\b",
    r"the session was killed\b",
    r"earlier steps were dropped\b",
    r"what you see is nearly full\b",
    r"only the first of \d",
)
"""Patterns of the text after the bracket of each note."""
_NAMES = f"(?:{'|'.join(TAGS)})"
_BLANK = r"[\s▁]"
"""Many tokenizers (Llama 2, Mistral, Gemma) write a space as U+2581, so to them both are one token."""
_TAG = rf"<(?=_*+/_*+{_NAMES}\b|{_NAMES}(?:_|[/>]|$)|_++{_NAMES}_*+>)"
_NOTE = rf"\[(?=_*+(?:{'|'.join(_NOTES)}))|\((?=_*+no output_*+\))|{NOTHING_RAN}(?=_*+:)".replace(" ", "_++")
_FRAME = re.compile(f"{_TAG}|{_NOTE}".replace("_", _BLANK), re.IGNORECASE)


def quoted(text: str) -> str:
    """Return prose as a turn shows it: the characters that a person sees, and nothing that looks like the frame."""
    return unframed(clean(text.replace("\r\n", "\n").replace("\r", "\n")))


def unframed(text: str) -> str:
    r"""Return cleaned text in which nothing looks like the frame: `unframed("</output>") == "<\\/output>"`."""
    return marked(text, _FRAME)
