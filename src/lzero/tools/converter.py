"""Convert hostile files and pages to Markdown or text, and images to a small copy, in a separate process.

    converter = Converter()
    await converter.text(data, "report.pdf", part="3-5")

Each file gets a fresh process (tools/inside), with limits on memory, processor seconds and time, and an empty environment. A file that
crashes, hangs or fills its process ends only that.
"""

import asyncio
import importlib.util
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from lzero.errors import ConfigError, ToolError
from lzero.tools.program import close_pipes
from lzero.turns import Turns, call_clock
from lzero.types import Json

MAX_CHARS = 20_000
"""The most characters of a file's text in one answer."""
MAX_SIDE = 1568
"""The most pixels of the longer side of an image's copy; vision models scale larger images down."""
MEMORY_BYTES = 1 << 30
CPU_S = 10
"""Processor seconds that one file may take."""
WALL_S = 45.0
"""Seconds that one file may take, once a process is free. CPU_S is used up earlier, unless the machine is busy."""
PROCESSES = 2
"""Number of files that are read at once."""
ANSWER_BYTES = 16_000_000
BEGIN = b"reading\n"
"""Line that the process writes before it reads the file."""
NOT_INSTALLED = 69
"""The process's exit code if one of its libraries cannot be imported."""
LIBRARIES = ("bs4", "charset_normalizer", "mammoth", "markdownify", "openpyxl", "PIL", "pptx", "pypdf")
PAGE_LIBRARIES = ("trafilatura", "lxml_html_clean")
_END_S = 5.0
_INSIDE = Path(__file__).parent / "inside"
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # each of its threads would take address space


class Converted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The process's answer, in one of three forms."""

    text: str | None = None
    image: bytes = b""
    media_type: Literal["", "image/png", "image/jpeg"] = ""
    refused: str | None = None


class Converter:
    """Reads files (`reads="files"`) or web pages ("web"), a few at a time. Raises ConfigError if the libraries of that extra are
    missing."""

    def __init__(
        self,
        *,
        reads: Literal["files", "web"] = "files",
        memory_bytes: int = MEMORY_BYTES,
        cpu_s: int = CPU_S,
        wall_s: float = WALL_S,
    ) -> None:
        libraries = LIBRARIES if reads == "files" else PAGE_LIBRARIES
        missing = [name for name in libraries if importlib.util.find_spec(name) is None]
        if missing:
            what = "files" if reads == "files" else "web pages"
            raise ConfigError(
                f"reading {what} needs pip install 'lzero[{reads}]' ({', '.join(missing)} cannot be imported)"
            )
        self._limits = {"memory_bytes": memory_bytes, "cpu_s": cpu_s}
        self._wall_s = wall_s
        self._turns = Turns(PROCESSES, f"a reader of {reads}")

    async def text(
        self, data: bytes, name: str, *, part: str = "", start: int = 0, max_chars: int = MAX_CHARS, links: bool = True
    ) -> str:
        """Return at most `max_chars` of the text of a file, or of a part of it, from character `start` on. A cut text says so in its last
        line.

        `links`: keep the links and pictures of HTML. Raises ToolError: the agent's fault for the content of the file, and for anything that
        the file does to its reader; the tool's for a process that fails before that. Raises HelperBusy.
        """
        request: dict[str, Json] = {
            "image": False,
            "name": name,
            "part": part,
            "start": start,
            "max_chars": max_chars,
            "links": links,
        }
        return (await self._ask(request, data, name)).text or ""

    async def page(self, html: str, url: str) -> str:
        """Return the content of a web page as Markdown. Raises as `text` does."""
        return (await self._ask({"image": False, "url": url}, html.encode(errors="replace"), "the page")).text or ""

    async def image(self, data: bytes, name: str) -> tuple[str, bytes]:
        """Return (media type, bytes) of a copy of an image, with no side longer than MAX_SIDE. Raises as `text` does."""
        answer = await self._ask({"image": True, "max_side": MAX_SIDE}, data, name)
        return answer.media_type, answer.image

    async def _ask(self, request: Mapping[str, Json], data: bytes, name: str) -> Converted:
        line = msgspec.json.encode({**request, **self._limits})
        reading = _Reading()

        def failed(what: str) -> ToolError:
            return ToolError(f"the reader of {name} {what}", fault=reading.fault)

        async with self._turns.turn():
            try:
                async with call_clock().at_most(self._wall_s):
                    code, reply = await reading.run(line + b"\n" + data)
            except TimeoutError:
                raise ToolError(f"{name} was not read within {self._wall_s:g} s", fault=reading.fault) from None
            except OSError as error:
                raise failed(f"could not be started: {error.strerror}") from error
        if code in (-signal.SIGXCPU, -signal.SIGKILL) and not reply:  # at the hard limit, KILL takes the place of XCPU
            raise ToolError(
                f"{name} takes more than {self._limits['cpu_s']} s of processor time to read: ask for less of it with `part`",
                fault="agent",
            )
        if code == NOT_INSTALLED:
            raise ToolError(f"the reader of {name} lacks a library: install lzero's extras again", fault="tool")
        if code != 0:
            raise failed(f"ended with code {code}")
        try:
            answer = msgspec.json.decode(reply, type=Converted)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise failed(f"answered what cannot be read: {error}") from None
        if answer.refused is not None:
            raise ToolError(f"{name}: {answer.refused}", fault="agent")
        if request["image"] and not (answer.image and answer.media_type):
            raise failed("answered without an image")
        if not request["image"] and answer.text is None:
            raise failed("answered without a text")
        return answer


class _Reading:
    """A process that reads one file. `fault`: the party at fault if the process fails now."""

    def __init__(self) -> None:
        self.fault: Literal["agent", "tool"] = "tool"
        """The agent's as soon as the process reads the file, which the agent chose."""

    async def run(self, request: bytes) -> tuple[int, bytes]:
        """Return the process's exit code and answer. The process has ended when this returns or raises.

        Raises OSError if it cannot be started, ToolError for more than ANSWER_BYTES.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-X", "utf8", str(_INSIDE)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # Ctrl-C ends the run, which ends this
        )
        assert process.stdin is not None
        assert process.stdout is not None
        sending = asyncio.ensure_future(_send(process.stdin, request))
        try:
            reply = await _up_to(len(BEGIN), process.stdout)
            if reply == BEGIN:
                self.fault, reply = "agent", b""
            reply += await _up_to(ANSWER_BYTES, process.stdout)
            if len(reply) >= ANSWER_BYTES:
                raise ToolError(f"the reader of a file answered more than {ANSWER_BYTES:,} bytes", fault=self.fault)
            return await process.wait(), reply
        finally:
            sending.cancel()
            if process.returncode is None:
                await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process, and close its pipes even if its children hold them open."""
    process.kill()
    assert process.stdout is not None
    with suppress(TimeoutError):
        async with asyncio.timeout(_END_S):
            while await process.stdout.read(65_536):  # `wait` waits until the pipe is read to its end
                pass
            await process.wait()
            return
    close_pipes(process)


async def _up_to(num_bytes: int, stream: asyncio.StreamReader) -> bytes:
    """Return the next bytes of a stream; fewer if it ends first."""
    try:
        return await stream.readexactly(num_bytes)
    except asyncio.IncompleteReadError as error:
        return error.partial


async def _send(stream: asyncio.StreamWriter, data: bytes) -> None:
    try:
        stream.write(data)
        await stream.drain()
        stream.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended before it had read everything: its code tells why
