"""Find thoughts and code blocks of a reply, in one pass over its tags and fences, in linear time.

Fences follow CommonMark: three or more backticks or tildes; the first word after them is the language; a line of at least as many ends
them; the indentation of the first line is removed from the others. Three exceptions match what models write. A fence may be indented by any
amount. A fence line inside a triple-quoted string of Python is part of the string. A </code> may replace the end.

A <think> or <code> in single backticks is a mention. So is a <code> within a line of prose if another one follows, or no </code> does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

_FENCE = (
    r"(?P<indent>[ \t]*+(?:(?:[-*+]|\d{1,9}+[.)])[ \t]++)?+)(?P<fence>`{3,}+(?![^\n]*`)|~{3,}+)"
    r"(?P<info>(?:[^\n<]|<(?!/?(?:code|think)))*+)(?=</code>|$)"
)
_MARK = re.compile(rf"(?:^|(?<=</think>)|(?<=</thinking>)){_FENCE}|(?P<tag></?(?:think(?:ing)?|code)>)", re.MULTILINE)
_PYTHON = re.compile(r"[ \t]*\{?\.?(?:i?python3?|py3?|python3?\.\d+)(?![\w+-])", re.IGNORECASE)
_QUOTES = re.compile(r"\\.|'''|\"\"\"|['\"#]", re.DOTALL)
_STRING_MARKS = 32
"""Number of marks after a fence line in a string of Python that are searched for the end of the string."""
_OPEN, _CLOSE = ("<think>", "<thinking>"), ("</think>", "</thinking>")


@dataclass(frozen=True)
class Block:
    """One code block of a reply."""

    text: str
    closed: bool = True
    tagged: bool = True
    """Whether it is in <code>, not in a fence."""
    in_open_thought: bool = False


@dataclass(frozen=True)
class Blocks:
    """The thought and the code blocks of a reply, in order."""

    thought: str
    """The first thought. Text before a </think> without a <think> is thought."""
    blocks: Sequence[Block]


def find_blocks(text: str) -> Blocks:
    """Read a reply whose lines end with "\\n".

    >>> find_blocks("Draft:\\n```py\\nx\\n```\\n</think>\\n<code>y</code>")
    Blocks(thought='Draft:\\n```py\\nx\\n```\\n', blocks=[Block(text='y', closed=True, tagged=True, in_open_thought=False)])
    """
    scan = _Scan(text)
    index = 0
    while index < len(scan.marks):
        index = scan.step(index)
    return scan.found()


def unfenced(block: str) -> str:
    """Return the code of a block without the fence that encloses it and the text around that fence."""
    if "```" not in block and "~~~" not in block:
        return block
    strings, first = _Strings(block, 0), len(block) - len(block.lstrip())
    for mark in _MARK.finditer(block):
        if mark["fence"] is None or strings.open_at(mark.start()):
            continue
        if _is_python(mark) or (mark.start("fence") <= first and _is_end(mark, mark["fence"])):
            return _Scan(block[mark.start() :]).first_fence()
    lines = block.rstrip().split("\n")
    return "\n".join(lines[:-1]) if re.fullmatch(r"[ \t]*(`{3,}|~{3,})", lines[-1]) else block


class _Scan:
    """State of one pass: `step` reads the element at a mark, and returns the next mark to read.

    Thoughts and blocks are spans of the text until the end of the pass, because a </think> may void any number of them.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.marks = [mark for mark in _MARK.finditer(text) if not self._is_mention(mark)]
        self._thought_span = slice(0)
        self._blocks: list[Block] = []
        self._mention: tuple[int, bool] | None = None
        """Start of the text after the first unclosed <code> in prose, and whether a thought is open there. It is code only if the reply has
        no other."""
        self._thought_start: int | None = None
        self._in_open_thought = False
        self._decoration: re.Match[str] | None = None
        tags = [mark["tag"] or "" for mark in self.marks]
        self._next_close = self._nexts([tag in _CLOSE for tag in tags])
        self._next_code = self._nexts([tag == "<code>" for tag in tags])
        self._next_code_end = self._nexts([tag == "</code>" for tag in tags])
        self._longest = {char: self._longest_ends(char) for char in "`~"}

    def found(self) -> Blocks:
        """Return the thoughts and blocks that the pass found."""
        blocks = self._blocks
        if not blocks and self._mention is not None:
            start, in_open_thought = self._mention
            blocks = [Block(self.text[start:], closed=False, in_open_thought=in_open_thought)]
        return Blocks(self.text[self._thought_span], blocks)

    def step(self, index: int) -> int:
        mark = self.marks[index]
        if mark["fence"] is not None:
            return self._fence(index)
        if mark["tag"] in _OPEN:
            return self._thought(index)
        if mark["tag"] in _CLOSE:
            return self._end_thought(index)
        return self._code(index) if mark["tag"] == "<code>" else index + 1

    # Marks ahead.

    def _nexts(self, chosen: list[bool]) -> list[int | None]:
        """Return, for each mark and for the end, the index of the first chosen mark at or after it."""
        backwards: list[int | None] = [None]
        for index in range(len(chosen) - 1, -1, -1):
            backwards.append(index if chosen[index] else backwards[-1])
        return backwards[::-1]

    def _longest_ends(self, char: str) -> list[int]:
        """Return, for each mark and for the end, the length of the longest line at or after it that can end a fence of `char`."""
        lengths = [len(mark["fence"]) if _is_end(mark, char * 3) else 0 for mark in self.marks]
        return [*accumulate(reversed(lengths), max, initial=0)][::-1]

    def _is_mention(self, mark: re.Match[str]) -> bool:
        quoted = self.text[max(0, mark.start() - 1) : mark.start()] == "`" == self.text[mark.end() : mark.end() + 1]
        return quoted and mark["tag"] not in (None, "</code>")

    # Thoughts.

    def _thought(self, index: int) -> int:
        start, close = self.marks[index].end(), self._next_close[index + 1]
        if self._thought_start is None:
            self._thought_start = start
            code = self._next_code[index + 1]
            end = close if close is not None else code
            self._thought_span = slice(start, self.marks[end].start() if end is not None else None)
        if close is not None:
            return close + 1
        self._in_open_thought = True
        return index + 1

    def _end_thought(self, index: int) -> int:
        """Read a </think> without a <think>: everything before it is thought."""
        self._thought_start = self._thought_start or 0
        self._thought_span = slice(self._thought_start, self.marks[index].start())
        self._blocks, self._mention, self._decoration = [], None, None
        return index + 1

    # Code in tags.

    def _code(self, index: int) -> int:
        rank = self._rank(index)
        if rank == 0 and self._next_code_end[index] is None:
            self._mention = self._mention or (self.marks[index].end(), self._in_open_thought)
            return index + 1
        opened, lone = False, None
        for other in range(index + 1, len(self.marks)):
            tag = self.marks[other]["tag"]
            if tag == "</code>":
                self._add(self.text[self.marks[index].end() : self.marks[other].start()])
                return other + 1
            if tag == "<code>" and lone is not None:
                return lone
            if tag == "<code>" and (rank == 0 or self._rank(other) > rank):  # the earlier one is a mention
                return other
            if tag in _OPEN:
                opened = True
            elif tag in _CLOSE:
                opened, lone = False, lone if opened or lone is not None else other
        if lone is not None:
            return lone
        self._add(self.text[self.marks[index].end() :], closed=False)
        return len(self.marks)

    def _rank(self, index: int) -> int:
        """Rank a <code> by how likely it opens a block: 2 if it begins a line, plus 1 if it ends one."""
        start, end = self.marks[index].span()
        while start and self.text[start - 1] in " \t":
            start -= 1
        while end < len(self.text) and self.text[end] in " \t":
            end += 1
        begins = start == 0 or self.text[start - 1] == "\n" or self.text.endswith(_CLOSE, 0, start)
        return 2 * begins + (self.text[end : end + 1] in ("", "\n"))

    # Code in fences.

    def _fence(self, index: int) -> int:
        mark = self.marks[index]
        if self._decoration is not None and _is_end(mark, self._decoration["fence"]):
            self._decoration = None
            return index + 1
        if self._holds_tags(index):
            self._decoration = mark
            return index + 1
        end = self._fence_end(index, python=_is_python(mark))
        if end is None:
            return self._open_fence(index)
        if self.marks[end]["tag"] is not None:
            return end
        if _is_python(mark):
            self._add(_dedent(self.text[mark.end() + 1 : self.marks[end].start()], mark), tagged=False)
        return end + 1

    def first_fence(self) -> str:
        """Return the code in the fence that the text begins with; without a closing fence, all that follows."""
        mark, end = self.marks[0], self._fence_end(0, python=True)
        if end is not None and self.marks[end]["tag"] is None:
            return _dedent(self.text[mark.end() + 1 : self.marks[end].start()], mark)
        return _dedent(self.text[mark.end() + 1 :].rstrip().removesuffix(mark["fence"]), mark)

    def _holds_tags(self, index: int) -> bool:
        """Return whether a fence is only decoration: it encloses a whole reply or a <code>."""
        if index + 1 == len(self.marks) or self.marks[index + 1]["tag"] not in ("<code>", *_OPEN):
            return False
        return not self.text[self.marks[index].end() : self.marks[index + 1].start()].strip()

    def _fence_end(self, index: int, *, python: bool) -> int | None:
        """Return the mark that ends a fence, or a </think> without a <think>; None if there is neither."""
        mark = self.marks[index]
        if self._longest[mark["fence"][0]][index + 1] < len(mark["fence"]):
            return None
        strings = _Strings(self.text, mark.end())
        opened, lone, in_string = False, None, None
        for other in range(index + 1, len(self.marks)):
            later = self.marks[other]
            if in_string is not None and other - in_string > _STRING_MARKS:
                break  # each fence would read all that follows
            if later["tag"] in _OPEN:
                opened = True
            elif later["tag"] in _CLOSE:
                opened, lone = False, lone if opened or lone is not None else other
            elif _is_end(later, mark["fence"]):
                if not python or not strings.open_at(later.start()):
                    return other
                in_string = other if in_string is None else in_string
            elif lone is not None and (later["tag"] == "<code>" or later["fence"] is not None):
                return lone
        return in_string

    def _open_fence(self, index: int) -> int:
        """Read a fence without a closing line: code up to a </code> or the end, unless a tag in it shows that it is not code."""
        mark, close, code_end = self.marks[index], self._next_close[index + 1], self._next_code_end[index + 1]
        if not _is_python(mark) or self._next_code[index + 1] is not None:
            return index + 1
        if close is not None:
            return close
        end = self.marks[code_end].start() if code_end is not None else None
        self._add(_dedent(self.text[mark.end() + 1 : end], mark), closed=code_end is not None, tagged=False)
        return len(self.marks)

    def _add(self, text: str, *, closed: bool = True, tagged: bool = True) -> None:
        self._blocks.append(Block(text, closed, tagged, self._in_open_thought))


class _Strings:
    """Scanner for triple-quoted strings of Python. Positions are queried in ascending order."""

    def __init__(self, text: str, start: int) -> None:
        self._text, self._position, self._quote = text, start, ""

    def open_at(self, position: int) -> bool:
        """Return whether `position`, the start of a line, lies inside a triple-quoted string."""
        for line in self._text[self._position : position].split("\n"):
            self._read(line)
        self._position = position
        return bool(self._quote)

    def _read(self, line: str) -> None:
        short = ""  # the quote of a string that ends in this line
        for found in _QUOTES.finditer(line):
            mark = found[0]
            if self._quote:
                self._quote = "" if mark == self._quote else self._quote
            elif short:
                short = "" if mark[0] == short else short
            elif mark == "#":
                return
            elif len(mark) == 3:
                self._quote = mark
            elif mark[0] != "\\":
                short = mark


def _is_python(mark: re.Match[str]) -> bool:
    return mark["fence"] is not None and _PYTHON.match(mark["info"]) is not None


def _is_end(mark: re.Match[str], fence: str) -> bool:
    """Return whether a mark is a line that can end `fence`."""
    return mark["fence"] is not None and mark["fence"].startswith(fence) and not mark["info"].strip()


def _dedent(text: str, mark: re.Match[str]) -> str:
    """Remove the fence's indentation from its lines."""
    if not mark["indent"]:
        return text
    return re.sub(rf"^[ \t]{{1,{len(mark['indent'])}}}", "", text, flags=re.MULTILINE)
