"""Render the outputs of a cell as the text that the model reads."""

import itertools
import re
from collections.abc import Iterable
from functools import partial

from lzero.agent.frame import NO_OUTPUT, unframed
from lzero.blocking import in_thread
from lzero.types import Display, Error, Execution, Output, Result, Stream
from lzero.visible import clean

TRACEBACK_LINES = 12
"""Number of lines of a traceback that are shown: the last ones, before the line that names the error."""
QUICK_CHARS = 20_000
"""The most characters that are rendered on the event loop. Those that take longest, of many scripts, take two microseconds each."""

_LEFT_OUT = re.compile(r"\n?… \[(?:\d+ outputs left out: )?(\d{1,15}) characters(?: left out)?\] …\n?")
"""The note with which a session replaces the characters that it cut."""
_RULER = re.compile(r"-{20,}")


def render_output(execution: Execution, *, max_chars: int) -> str:
    """Return the outputs of an execution in order, errors last, then a note if the cell did not end by itself.

    The text has at most `max_chars` characters: a longer one keeps its head and tail, with a line between them that states the size. The
    line that names an error is always in the tail. Without output it is "(no output)".
    """
    errors = [output for output in execution.outputs if isinstance(output, Error)]
    others = [output for output in execution.outputs if not isinstance(output, Error)]
    body = _join(others)
    endings = _notes(execution)
    if errors:
        body, frames, line = _unframed_together(body, *_traceback(errors[-1]))
        endings.insert(0, _cut_traceback(frames, line, max_chars // 2))
    else:
        body = unframed(body)
    ending = cut("\n".join(endings), max_chars)
    body = cut(body, max(0, max_chars - len(ending) - bool(ending)))
    return "\n".join(part for part in (body, ending) if part.strip()) or NO_OUTPUT


async def rendered(execution: Execution, *, max_chars: int) -> str:
    """Return `render_output` of an execution, in a thread if there is much: half a million characters would hold up all other episodes."""
    render = partial(render_output, execution, max_chars=max_chars)
    return await in_thread(render) if sum(map(_num_chars, execution.outputs)) > QUICK_CHARS else render()


def cut(text: str, max_chars: int) -> str:
    """Return head and tail of `text` in `max_chars` characters, with a line between them that states the original size.

    The size includes what the session had cut before.
    """
    if len(text) <= max_chars:
        return text
    mark = f"\n[{_size(text)} characters, the middle is cut]\n"
    room = max_chars - len(mark)
    if room <= 0:
        return text[len(text) - max_chars :]
    tail = room // 2
    return _beginning(text, room - tail) + mark + text[len(text) - tail :]


def _beginning(text: str, chars: int) -> str:
    """Return the beginning of a longer text, one character shorter if its last word would only then look like the frame: `</output`, cut
    from `</outputs`."""
    begun = text[:chars]
    return begun if unframed(begun) == unframed(text[: chars + 1])[:-1] else begun[:-1]


def plain_text(value: Result | Display) -> str:
    """Return the text of a value that the model reads: without one, the names of its types."""
    return value.data.get("text/plain", " ".join(f"[{mime}]" for mime in value.data))


def _num_chars(output: Output) -> int:
    """Return the number of characters that are read to render an output."""
    if isinstance(output, Stream):
        return len(output.text)
    if isinstance(output, Error):
        return len(output.ename) + len(output.evalue) + sum(len(line) + 1 for line in output.traceback)
    return len(plain_text(output))


def _unframed_together(body: str, frames: str, line: str) -> tuple[str, str, str]:
    """Return the three parts of an output, changed so that nothing in them, or across them, looks like the frame.

    A cut may remove all frames: then the line of the error follows the body.
    """
    body, line = _unframed_lines(body, line)
    body, frames, line = _unframed_lines(body, frames, line)
    return body, frames, line


def _unframed_lines(*parts: str) -> list[str]:
    """Return the parts after `unframed` has read them as one text. It adds no lines, so the count of lines tells them apart."""
    lines = unframed("\n".join(parts)).split("\n")
    ends = list(itertools.accumulate(part.count("\n") + 1 for part in parts))
    return ["\n".join(lines[start:end]) for start, end in itertools.pairwise((0, *ends))]


def _size(text: str) -> int:
    """Return the number of characters of the output before any cut."""
    return len(text) + sum(int(mark[1]) - len(mark[0]) for mark in _LEFT_OUT.finditer(text))


def _join(outputs: Iterable[Stream | Result | Display]) -> str:
    """Return the outputs in order. A value starts on a new line, even if a stream left its last line unfinished."""
    text = ""
    for output in outputs:
        if isinstance(output, Stream):
            text += output.text
        else:
            text += "\n" if text and not text.endswith("\n") else ""
            text += plain_text(output)
            text += "\n"
    return clean(text).strip("\n")


def _traceback(error: Error) -> tuple[str, str]:
    """Return the last frames, and the line that names the error."""
    name, value = clean(error.ename), clean(error.evalue)
    frames = [row.rstrip() for row in clean("\n".join(error.traceback)).split("\n")]
    frames = [
        row for row in frames if row and not _RULER.fullmatch(row) and "Traceback (most recent call last)" not in row
    ]
    named = [position for position, row in enumerate(frames) if row.partition(":")[0].rpartition(".")[2] == name]
    if named:
        frames = frames[: named[-1]]
    return "\n".join(frames[-TRACEBACK_LINES:]), f"{name}: {value}" if value else name


def _cut_traceback(frames: str, line: str, max_chars: int) -> str:
    """Return both in `max_chars` characters; the line has precedence."""
    line = cut(line, max_chars)
    return "\n".join(part for part in (cut(frames, max(0, max_chars - len(line) - 1)), line) if part)


def _notes(execution: Execution) -> list[str]:
    if execution.status not in ("timed_out", "killed"):
        return []
    reason = unframed(" ".join(clean(execution.reason).split()))
    if execution.status == "timed_out":
        return [f"[{reason or 'interrupted'}]"]
    return [f"[the session was killed ({reason or 'the cell ended it'}): its variables are lost, a new one is open]"]
