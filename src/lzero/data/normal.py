"""The normal form of texts, in which questions are compared: of one, or of a whole column."""

import re
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

from lzero.text import fold, words

_ASCII = "".join(sign.lower() if sign.isalnum() else " " for sign in map(chr, range(128)))
_SPACED = _ASCII.encode() + bytes(range(128, 256))
"""Byte of an ASCII text → lower-case letter, digit or space."""
_SPELLINGS = str.maketrans(
    {**dict.fromkeys("−‐‑‒", "-"), **dict.fromkeys("×∗⋅", "*"), **dict.fromkeys("÷∕⁄", "/"), "≤": "<=", "≥": ">="}
)
"""Sign → how keyboards spell it."""
_RANGE = re.compile(r"(?<=\d)–(?=\d)")
_SIGNS = re.compile(r"[+*/^=<>%|\\√∑∫≠±]|(?<![^\W\d_])-|-(?![^\W\d_])|(?<=\d)[.](?=\d)")
_MAY_HAVE_SIGNS = r"(?s)[0-9].*[+*/^=<>%|\\.-]|[+*/^=<>%|\\.-].*[0-9]"


def normal(text: str) -> str:
    """Return a text's words, and its signs if it has digits: `normal("What is 3 - 1.5?") == "what is 3 1 5 |-."`.

    Case, accents and punctuation make no difference, nor does the spelling of a sign (−, ×, ½), but 3 - 4 is not 3 + 4.
    """
    joined = " ".join(words(text)) or fold(text)
    spelled = _spelled(text)
    signs = "".join(_SIGNS.findall(spelled)) if any(map(str.isdigit, spelled)) else ""
    return f"{joined} |{signs}" if signs else joined


def _spelled(text: str) -> str:
    """Return a text with each sign in its plainest spelling."""
    if text.isascii():
        return text
    return _RANGE.sub("-", unicodedata.normalize("NFKC", text).translate(_SPELLINGS))


def normal_column(texts: pa.StringArray) -> pa.StringArray:
    """Return the normal form of each text; several times as fast as one by one where they are ASCII without signs."""
    _, offsets, data = texts.buffers()
    spaced = data.to_pybytes().translate(_SPACED) if data is not None else b""
    letters = pa.StringArray.from_buffers(len(texts), offsets, pa.py_buffer(spaced), offset=texts.offset)
    joined = pc.binary_join(pc.ascii_split_whitespace(pc.ascii_trim_whitespace(letters)), " ")
    is_odd = pc.or_(pc.equal(joined, ""), pc.match_substring_regex(texts, _MAY_HAVE_SIGNS))
    is_odd = pc.or_(is_odd, pc.invert(pc.string_is_ascii(texts)))
    odd = pa.array([normal(text) for text in texts.filter(is_odd).to_pylist()], pa.string())
    return pc.replace_with_mask(joined, is_odd, odd)
