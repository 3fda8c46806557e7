"""What a cell put out, as the text that the model reads."""

import re
from collections.abc import Iterable

from lzero.agent.frame import NO_OUTPUT, unframed
from lzero.types import Display, Error, Execution, Result, Stream
from lzero.visible import clean

TRACEBACK_LINES = 12
"""Lines of a traceback that are shown: the last ones, before the line that names the error."""

_SURROGATES = re.compile(r"[\ud800-\udfff]")
_LEFT_OUT = re.compile(r"\n?… \[(?:\d+ outputs left out: )?(\d{1,15}) characters(?: left out)?\] …\n?")
"""The note with which a session replaces the characters that it cut."""
_RULER = re.compile(r"-{20,}")


def render_output(execution: Execution, *, max_chars: int) -> str:
    """The outputs of an execution in order, errors last, then a note if the cell did not end by itself.

    At most `max_chars` characters: when there are more, the head and the tail stay and a line between them says how many were
    cut. The line that names an error is always in the tail. Nothing put out is "(no output)".
    """
    errors = [output for output in execution.outputs if isinstance(output, Error)]
    others = [output for output in execution.outputs if not isinstance(output, Error)]
    endings = [_traceback(error, max_chars // 2) for error in errors[-1:]] + _notes(execution)
    ending = cut("\n".join(endings), max_chars)
    body = cut(_join(others), max(0, max_chars - len(ending) - bool(ending)))
    return "\n".join(part for part in (body, ending) if part.strip()) or NO_OUTPUT


def unbroken(text: str) -> str:
    """Text that can be written as UTF-8: pairs of surrogates that somebody has cut apart are joined, lone ones are U+FFFD."""
    if _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def cut(text: str, max_chars: int) -> str:
    """Return head and tail of `text` in `max_chars` characters, with a line between them that states the size of the whole,
    including what the session had cut before."""
    if len(text) <= max_chars:
        return text
    mark = f"\n[{_size(text)} characters, the middle is cut]\n"
    room = max_chars - len(mark)
    if room <= 0:
        return text[len(text) - max_chars :]
    tail = room // 2
    return text[: room - tail] + mark + text[len(text) - tail :]


def _shown(text: str) -> str:
    return unframed(clean(text))


def _size(text: str) -> int:
    """Return the characters of the output before any cut."""
    return len(text) + sum(int(mark[1]) - len(mark[0]) for mark in _LEFT_OUT.finditer(text))


def _join(outputs: Iterable[Stream | Result | Display]) -> str:
    """The outputs in order; a value starts on a line of its own, whatever a stream left unfinished."""
    text = ""
    for output in outputs:
        if isinstance(output, Stream):
            text += output.text
        else:
            text += "\n" if text and not text.endswith("\n") else ""
            text += output.data.get("text/plain", " ".join(f"[{mime}]" for mime in output.data))
            text += "\n"
    return _shown(text).strip("\n")


def _traceback(error: Error, max_chars: int) -> str:
    """The last frames and the line that names the error, in `max_chars` characters; the line has precedence."""
    name, value = _shown(error.ename), _shown(error.evalue)
    line = cut(f"{name}: {value}" if value else name, max_chars)
    frames = [row.rstrip() for row in _shown("\n".join(error.traceback)).split("\n")]
    frames = [
        row for row in frames if row and not _RULER.fullmatch(row) and "Traceback (most recent call last)" not in row
    ]
    named = [position for position, row in enumerate(frames) if row.partition(":")[0].rpartition(".")[2] == name]
    if named:
        frames = frames[: named[-1]]
    shown = "\n".join(frames[-TRACEBACK_LINES:])
    return "\n".join(part for part in (cut(shown, max(0, max_chars - len(line) - 1)), line) if part)


def _notes(execution: Execution) -> list[str]:
    if execution.status == "timed_out":
        return [f"[{clean(execution.reason) or 'interrupted'}]"]
    if execution.status == "killed":
        reason = clean(execution.reason).strip() or "the cell ended it"
        return [f"[the session was killed ({reason}): its variables are lost, a new one is open]"]
    return []
