"""Run notebooks cell by cell, in a session and in ipykernel, with outputs in one comparable form."""

import importlib.metadata
import json
import os
import queue
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from packaging.requirements import Requirement
from repl_sessions import no_tools

from lzero.repl import LocalPool
from lzero.repl.environment import PLACE
from lzero.types import Display, Error, Execution, Result, Stream

_CELL_S = 60.0
_LATE_S = 0.5
_TYPES = (
    "text/plain",
    "text/html",
    "text/markdown",
    "text/latex",
    "image/svg+xml",
    "application/json",
    "image/png",
    "image/jpeg",
)
_AS_TEXT = ("text/plain", "text/html", "text/markdown", "text/latex")
"""Types that are compared by what they say; of the others, that they are there."""
_SAME = (
    (re.compile(r"0x[0-9a-f]{6,}"), "0xADDRESS"),
    (re.compile(r"/\w+/ipykernel_\d+/\d+\.py|<cell \d+>"), "<cell>"),
    (re.compile(r"\(\d{6,}\.py, line"), "(<cell>, line"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "UUID"),
)
_NUMBERS = (
    (re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?"), "N"),
    (re.compile(r"\b(ns|[µμ]s|us|ms|s|min)\b"), "T"),
    (re.compile(r"(?<=N)(ns|[µμ]s|us|ms|s)\b"), "T"),
)


@dataclass(frozen=True)
class Cell:
    """One cell of a notebook."""

    source: str
    differs: str = ""
    """The reason of `BY_DESIGN` for which it may come out otherwise; "" for none."""
    numbers_vary: bool = False
    """Whether its output holds times or process numbers."""
    past_python: bool = False
    """Whether other processes, or C code, write its output."""


@dataclass
class Said:
    """The outputs of a cell."""

    status: str = ""
    stdout: str = ""
    stderr: str = ""
    results: list[dict[str, str]] = field(default_factory=list)
    displays: list[dict[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def differences(self, other: "Said", *, numbers_vary: bool) -> list[str]:
        """Return the names of the parts that differ."""
        ours, theirs = (_plain(said, numbers_vary=numbers_vary) for said in (self, other))
        return [name for name in ours if ours[name] != theirs[name]]


def read_notebook(file: Path) -> list[Cell]:
    """Read cells that begin with a line `# %%`, which may go on with `numbers vary`, `past Python`, `differs: REASON`."""
    _, *parts = re.split(r"^# %%(.*)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = []
    for head, source in zip(parts[::2], parts[1::2], strict=True):
        differs = re.search(r"differs: (\S+)", head)
        cells.append(
            Cell(source.strip("\n"), differs[1] if differs else "", "numbers vary" in head, "past Python" in head)
        )
    return cells


async def run_in_session(pool: LocalPool, cells: Sequence[Cell]) -> list[Said]:
    """Run cells in one REPL of the pool."""
    repl = await pool.open((), no_tools, seed=0)
    try:
        return [_of_execution(await repl.run(cell.source, deadline_s=_CELL_S)) for cell in cells]
    finally:
        await repl.close()


async def run_in_ipykernel(cells: Sequence[Cell], packages: Path, directory: Path) -> list[Said]:
    """Run cells in one kernel of ipykernel, which works in `directory` and imports what a session imports: `packages`."""
    home = directory / "home"
    work = directory / "work"
    for place in (home, work):
        place.mkdir(parents=True)
    variables = {
        "PATH": f"{packages.parents[2] / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(_link_ipykernel(directory / "ipykernel", packages)),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "USER": "agent",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    specs = directory / "kernels" / "beside"
    specs.mkdir(parents=True)
    argv = [str(packages.parents[2] / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (specs / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "beside", "language": "python"}))
    manager = AsyncKernelManager(
        kernel_name="beside",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs.parent)]),
        transport="ipc",
        ip=str(directory / "at"),
        connection_file=str(directory / "kernel.json"),
    )
    null = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    await manager.start_kernel(cwd=str(work), env=variables, **null)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=_CELL_S)
        return [
            _in_the_jail(await _ask(client, cell), {str(work): "/workspace", str(packages.parents[2]): PLACE})
            for cell in cells
        ]
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


def _link_ipykernel(directory: Path, packages: Path) -> Path:
    """Fill a directory with what ipykernel needs beside `packages`, and nothing else that is installed here."""
    directory.mkdir(parents=True)
    pending, seen = ["ipykernel"], set()
    while pending:
        distribution = importlib.metadata.distribution(pending.pop())
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        requirements = [Requirement(text) for text in distribution.requires or ()]
        pending += [each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / name).exists() and not (directory / name).exists():
                (directory / name).symlink_to(Path(str(distribution.locate_file(name))))
    return directory


class _Listener:
    """Collects what a front end would show for one cell."""

    def __init__(self) -> None:
        self.said = Said()
        self._named: dict[str, dict[str, str]] = {}
        self._cleared = False

    def hear(self, message: dict[str, Any]) -> None:
        content, kind = message["content"], message["msg_type"]
        if kind == "clear_output":
            self._cleared = True
        shows = kind in ("stream", "execute_result", "display_data", "error")
        if self._cleared and (shows or not content["wait"]):
            self.said, self._cleared = Said(), False
        said = self.said
        match kind:
            case "stream":
                setattr(said, content["name"], getattr(said, content["name"]) + content["text"])
            case "execute_result":
                said.results.append(_of_bundle(content["data"]))
            case "display_data" | "update_display_data":
                bundle = _of_bundle(content["data"])
                name = content.get("transient", {}).get("display_id", "")
                if kind == "update_display_data" and name in self._named:
                    self._named[name].clear()
                    self._named[name].update(bundle)
                elif bundle:
                    said.displays.append(bundle)
                    self._named[name] = bundle
            case "error":
                said.errors.append(f"{content['ename']}: {content['evalue']}")


async def _ask(client: Any, cell: Cell) -> Said:
    listener = _Listener()
    reply = await client.execute_interactive(cell.source, allow_stdin=False, output_hook=listener.hear, timeout=_CELL_S)
    if cell.past_python:  # a thread of ipykernel's reads it, and is not waited for
        with suppress(queue.Empty):
            while True:
                listener.hear(await client.get_iopub_msg(timeout=_LATE_S))
    listener.said.status = reply["content"]["status"]
    return listener.said


def _of_execution(execution: Execution) -> Said:
    said = Said(status=execution.status)
    for output in execution.outputs:
        match output:
            case Stream():
                setattr(said, output.name, getattr(said, output.name) + output.text)
            case Result():
                said.results.append(_of_bundle(output.data))
            case Display():
                said.displays.append(_of_bundle(output.data))
            case Error():
                said.errors.append(f"{output.ename}: {output.evalue}")
    return said


def _of_bundle(data: dict[str, Any]) -> dict[str, str]:
    """Return the types that a session passes on, as text."""
    return {mime: str(data[mime]) if mime in _AS_TEXT else "" for mime in _TYPES if mime in data}


def _in_the_jail(said: Said, places: dict[str, str]) -> Said:
    """Rename the host's directories as the jail does, and end lines as files do: ipykernel's commands write to a terminal."""

    def moved(text: str) -> str:
        for place, inside in places.items():
            text = text.replace(place, inside)
        return text.replace("\r\n", "\n")

    def moved_all(bundles: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{mime: moved(text) for mime, text in bundle.items()} for bundle in bundles]

    return Said(
        status=said.status,
        stdout=moved(said.stdout),
        stderr=moved(said.stderr),
        results=moved_all(said.results),
        displays=moved_all(said.displays),
        errors=[moved(error) for error in said.errors],
    )


def _plain(said: Said, *, numbers_vary: bool) -> dict[str, str]:
    """Return the parts by field, without what differs between runs."""
    plain = {}
    for name, found in vars(said).items():
        text = found if isinstance(found, str) else repr(found)
        for pattern, same in (*_SAME, *(_NUMBERS if numbers_vary else ())):
            text = pattern.sub(same, text)
        plain[name] = text
    return plain
