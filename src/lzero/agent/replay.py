"""Run the code of a saved episode again, and compare the results.

Each cell goes to a fresh sandboxed session, seeded like the first one; tools answer from the record. For each step, the replay compares how
the cell ended, its output, its tool calls and the notepad.

It ignores what differs between any two runs: addresses (0x7f…), durations with a unit (12.3 ms), names of temporary files, and directories
of files in tracebacks. Images are compared by hash. Of an interrupted or killed cell only the status is compared, because its progress
depends on speed.
"""

import asyncio
import difflib
import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pydantic

from lzero.agent.broker import Broker, is_deep
from lzero.agent.episode_repl import EpisodeRepl
from lzero.agent.notepad import render_notepad
from lzero.agent.recorded import OWN, has_notepad, tools_of
from lzero.config import ReplConfig
from lzero.errors import StoreError, ToolError
from lzero.protocols import ReplPool, ToolContext, ToolStub
from lzero.store import SavedEpisode
from lzero.tools.install import recalled, recorded
from lzero.tools.wrapper import canonical
from lzero.types import Error, Execution, Json, Output, Step, Stream, ToolCall
from lzero.visible import clean

LIMITS = (
    "memory_mb",
    "disk_mb",
    "files",
    "processes",
    "open_files",
    "cpu_s",
    "output_kb",
    "file_mb",
    "transfers",
    "tool_calls",
)
"""Keys of [repl] that bound a session: a smaller value is tighter."""

CELL_S = 60.0
MAX_CELLS = 20
"""Default limits of a replay: those of `lzero run`."""

CONTEXT_LINES = 2
DIFF_LINES = 1_000
"""The most lines to compare, from shortly before the first difference; the cost grows with their square."""

_PLACES = (
    (re.compile(r"\b0x[0-9a-fA-F]{6,16}\b"), "0x…"),
    (re.compile(r"\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\s?(?:ns|µs|μs|us|ms|s|secs?|seconds?|min|minutes)\b"), "… s"),
    (re.compile(r"(?<=/tmp/tmp)[a-z0-9_]{8}\b"), "…"),
    (re.compile(r'(?<=File ")[^"\n]*/(?=[^"/\n]+")'), "…/"),
    (re.compile(r"(?<=File )[^\s\":]*/(?=[^\s\"/:]+:\d+)"), "…/"),
)


@dataclass(frozen=True)
class Difference:
    """A difference in one step: `Difference(step=2, of="output", diff="--- recorded\\n+++ now\\n…")`; steps count from 1."""

    step: int
    of: str
    """"status", "output", "tool calls" or "notepad"."""
    diff: str
    """A unified diff, without control characters."""


OnStep = Callable[[int, Step, tuple[Difference, ...]], None]
"""Receives each cell that ran again: its step's number from 1, the new step, and the differences."""


async def replay(
    saved: SavedEpisode,
    pool: ReplPool,
    *,
    files: Sequence[Path] = (),
    cell_s: float = CELL_S,
    max_cells: int = MAX_CELLS,
    on_step: OnStep = lambda number, step, found: None,
) -> tuple[Difference, ...]:
    """Run the cells again, and return every difference, in order. `files`: the session's files (`save.given_files`).

    A cell may take `cell_s` seconds, or the recorded limit if that is smaller. Cells after the first `max_cells` do not run. A tool call
    that is not on record, or not with these arguments, is refused in the session, and is a difference. Raises ReplError, DataError for
    files that cannot be read, and StoreError for a call that no agent can have made.
    """
    episode, tape = saved.episode, _Tape()
    tools = [_FromTape(tool, tape) for tool in tools_of(saved)]
    repl = EpisodeRepl(pool, episode.seed, [str(file) for file in files])
    broker = Broker(saved.task, tools, repl.read, notepad=has_notepad(saved))
    differences: list[Difference] = []
    try:
        with_code = [(number, step) for number, step in enumerate(episode.steps, 1) if step.parsed.code is not None]
        for number, step in with_code[:max_cells]:
            assert step.parsed.code is not None
            tape.load(step.tool_calls)
            await repl.ready(broker)
            execution = await repl.run(step.parsed.code, deadline_s=_tighter(episode.budgets.cell_s, cell_s))
            now = msgspec.structs.replace(
                step, execution=execution, tool_calls=broker.take_calls(), notepad=broker.notepad
            )
            found = tuple(compare(step, now, number=number))
            differences += found
            on_step(number, now, found)
    finally:
        await repl.close()
    return tuple(differences)


def repl_config(saved: SavedEpisode, own: ReplConfig) -> tuple[ReplConfig, tuple[str, ...]]:
    """Return `own` with the record's limits where they are tighter, and the other keys in which the record differs.

    The record is not trusted: it can ask for less than you would give, but not for more, another sandbox, or packages. Raises StoreError
    for impossible limits.
    """
    said = saved.config.get("repl")
    recorded = said if isinstance(said, dict) else {}
    ours = own.model_dump(mode="json")
    tighter = {key: value for key, value in recorded.items() if key in LIMITS and _is_tighter(value, ours[key])}
    others = tuple(
        f"repl.{key}={msgspec.json.encode(value).decode()}"
        for key, value in recorded.items()
        if key in ours and key not in tighter and value != ours[key]
    )
    try:
        return ReplConfig.model_validate(ours | tighter), others
    except pydantic.ValidationError as error:
        raise StoreError(f"the record has impossible limits of a session: {error}") from None


def _is_tighter(value: Json, bound: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < bound


def looser_budgets(saved: SavedEpisode, *, cell_s: float, max_cells: int) -> tuple[str, ...]:
    """Return the budgets of the record that a replay within these limits does not adopt, as settings."""
    cells = sum(step.parsed.code is not None for step in saved.episode.steps)
    recorded_s = saved.episode.budgets.cell_s
    return tuple(
        setting
        for setting, looser in (
            (f"agent.cell_s={recorded_s:g}", recorded_s > cell_s),
            (f"agent.max_steps={cells}", cells > max_cells),
        )
        if looser
    )


def _tighter(recorded: float, own: float) -> float:
    return recorded if 0 < recorded < own else own


def compare(then: Step, now: Step, *, number: int) -> Iterator[Difference]:
    """Yield the differences between a recorded step and its repetition."""
    executions = then.execution, now.execution
    yield from _differ(number, "status", *(_status(execution) for execution in executions))
    if all(execution is not None and execution.status in ("ok", "error") for execution in executions):
        yield from _differ(number, "output", *(_outputs(execution) for execution in executions))
    yield from _differ(number, "tool calls", *(list(map(_call, step.tool_calls)) for step in (then, now)))
    notes = (render_notepad(step.notepad, max_chars=50_000).split("\n") for step in (then, now))
    yield from _differ(number, "notepad", *notes)


class _Tape:
    """The recorded calls of the current step."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], deque[ToolCall]] = {}

    def load(self, calls: Iterable[ToolCall]) -> None:
        """Replace the calls by those of another step. Raises StoreError for a call that no agent can have made."""
        self._calls = {}
        for call in calls:
            if is_deep(call.arguments) or is_deep(call.result):
                raise StoreError(
                    f"the record of a call of {call.name!r:.100} is nested too deep: no agent made this call"
                )
            if call.name not in OWN:
                self._calls.setdefault((call.name, canonical(call.arguments)), deque()).append(call)

    def answer(self, name: str, arguments: dict[str, Json]) -> Json:
        """Return the result of the first unanswered call with these arguments. Raises ToolError."""
        same = self._calls.get((name, canonical(arguments)))
        if not same:
            raise ToolError(f"this call of {name} is not on record", fault="agent")
        call = same.popleft()
        if call.error is not None:
            raise ToolError(call.error, fault="agent")
        return call.result


class _FromTape:
    """A tool that answers from the tape. Its session side comes from the record, and runs only in the session."""

    def __init__(self, tool: ToolStub, tape: _Tape) -> None:
        self.name = tool.name
        self.parameters = tool.parameters
        self.description = tool.description
        self.kernel_source = tool.kernel_source
        self._tape = tape
        self._shortened = False

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        answer = self._tape.answer(self.name, arguments)
        whole = await asyncio.to_thread(recalled, arguments, answer)
        self._shortened = self._shortened or whole is not answer
        return whole

    def on_record(self, result: Json) -> Json:
        return recorded(result) if self._shortened else result


def _differ(number: int, of: str, then: list[str], now: list[str]) -> Iterator[Difference]:
    if then == now:
        return
    shorter = min(len(then), len(now))
    same = next((at for at in range(shorter) if then[at] != now[at]), shorter)
    part = slice(max(0, same - CONTEXT_LINES), same + DIFF_LINES)
    diff = difflib.unified_diff(then[part], now[part], "recorded", "now", lineterm="", n=CONTEXT_LINES)
    lines = [line for line in diff if not line.startswith("@@")]  # their numbers would count from the part's start
    if max(len(then), len(now)) > same + DIFF_LINES:
        lines.append(f"[compared up to line {same + DIFF_LINES}, of {len(then)} and {len(now)}]")
    yield Difference(step=number, of=of, diff="\n".join(lines))


def _status(execution: Execution | None) -> list[str]:
    return [execution.status if execution is not None else "not run"]


def _outputs(execution: Execution | None) -> list[str]:
    outputs = execution.outputs if execution is not None else ()
    return [line for output in outputs for line in _lines(output)]


def _lines(output: Output) -> Iterator[str]:
    """Yield an output as lines, without what differs between any two runs."""
    match output:
        case Stream():
            yield f"[{output.name}]"
            yield from _alike(output.text)
        case Error():
            yield "[error]"
            yield from _alike("\n".join((*output.traceback, f"{output.ename}: {output.evalue}")))
        case _:
            for mime, text in sorted(output.data.items()):
                if mime.startswith("image/"):
                    yield f"[{mime}, sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}]"
                else:
                    yield f"[{mime}]"
                    yield from _alike(text)


def _call(call: ToolCall) -> str:
    said = canonical({"result": call.result}) if call.error is None else f"error {call.error!r}"
    return "\n".join(_alike(f"{call.name}({canonical(call.arguments)}) → {said}"))


def _alike(text: str) -> list[str]:
    text = clean(text)
    for pattern, place in _PLACES:
        text = pattern.sub(place, text)
    return text.rstrip("\n").split("\n")
