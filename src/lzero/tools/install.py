"""The tool `install(package)`: brings wheels from the host's package index to a session without a network.

    session                         host
    install("humanize")  ── plan ─▶ is it allowed? pip: what would be installed? is all of that allowed? download, keep
      unpack, import     ◀─ pieces ─ the wheels, base64, a few MiB a call

No code of a package runs on the host: only wheels are accepted, and pip unpacks none of them. The kernel environment's own interpreter
decides which wheels fit, and the packages of that environment are not changed.
"""

import base64
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from lzero.blocking import in_thread
from lzero.config import Config
from lzero.errors import ConfigError, ToolError
from lzero.paths import cache_directory
from lzero.protocols import Tool, ToolContext
from lzero.tools.catalog import KernelPython
from lzero.tools.program import Ended, output_of
from lzero.turns import Turns, call_clock
from lzero.types import Json

PIECE_BYTES = 4 * 1024 * 1024
"""Bytes of a wheel in one call: as Base64 they take 5.6 MB, and a frame to a session holds 8 MiB."""
MAX_BYTES = 64 * 1024 * 1024
MAX_WHEELS = 32
"""The most wheels of one `install`. The calls for the plan and the pieces stay below the calls that a cell may make."""
PLAN_S = 50.0
"""Seconds that pip may take; less than the broker waits for a tool."""
_LOG = "pip.log"
_NO_ANSWER = re.compile(
    r"could not fetch url (?!.*: 4(?!0[178]|29)\d\d client error)|retrying \(retry|timed out|max retries exceeded",
    re.IGNORECASE,
)
"""Patterns that pip logs if the index fails, refuses the request or cannot be reached; pip then continues as if the index were empty. Any
other reason is the fault of the agent, which chose package, versions and extras: an index that lacks the package (404), or a plan that
takes too long."""
_INSTALLED = "import json; from importlib.metadata import distributions as d; print(json.dumps([[x.name, x.version] for x in d()]))"

KERNEL_SOURCE = '''
import base64, importlib, io, os, sys, zipfile

_root = "/tmp/packages" if os.getcwd() == "/workspace" else os.path.join(os.getcwd(), ".packages")
_versions = {}


def install(package: str) -> str:
    """DESCRIPTION"""
    if not isinstance(package, str):
        raise ToolError("install takes the name of a package, a text")
    plan = ask(package=package)
    for wheel in plan["wheels"]:
        if _versions.get(wheel["name"], wheel["version"]) != wheel["version"]:
            raise ToolError(f"{wheel['name']} {_versions[wheel['name']]} is installed already, and a session has one version of a package")
    told = []
    for wheel in plan["wheels"]:
        if wheel["name"] in _versions:
            continue
        data = bytearray()
        while len(data) < wheel["size"]:
            piece = ask(wheel=wheel["id"], offset=len(data))
            if not isinstance(piece, str):
                break
            data += base64.b64decode(piece)
        if len(data) < wheel["size"]:
            told.append(f"the record has no copy of {wheel['name']}: pip install {wheel['name']}=={wheel['version']}")
            continue
        modules = _unpack(data)
        _versions[wheel["name"]] = wheel["version"]
        told.append(f"installed {wheel['name']} {wheel['version']}: import {', '.join(modules)}")
    if _root not in sys.path:
        sys.path.append(_root)
    importlib.invalidate_caches()
    return "\\n".join(told) or f"{package} is installed already"


def _unpack(data):
    modules = set()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            parts = entry.filename.split("/")
            if parts[0].endswith(".data"):
                if parts[1:2] not in (["purelib"], ["platlib"]):
                    continue  # scripts, headers and others, which are not used here
                parts = parts[2:]
            if entry.is_dir() or not parts or {"", ".", ".."} & set(parts):
                continue
            path = os.path.join(_root, *parts)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(entry) as source, open(path, "wb") as target:
                while piece := source.read(1 << 20):
                    target.write(piece)
            if not parts[0].endswith((".dist-info", ".libs")):
                modules.add(parts[0].split(".")[0])
    return sorted(modules)
'''


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution to unpack: `Wheel(name="humanize", version="4.15.0", size=132_203, id="0f3b…")`."""

    name: str
    version: str
    size: int
    id: str
    """SHA-256 of the file."""


@dataclass(frozen=True)
class _Chosen:
    """A distribution that pip would install."""

    name: str
    version: str
    file_name: str
    sha256: str
    """SHA-256 of the file; "" if the index does not provide it."""


class Piece(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a piece of a wheel."""

    piece_bytes: int
    piece_sha256: str


def open_install(config: Config, kernel_python: KernelPython) -> Tool:
    """Return the tool for the packages of `tools.install_allow`. Raises ConfigError."""
    return Install(config.tools.install_allow, python=kernel_python())


class Install:
    """The tool `install` for the packages in `allow`: names, each with the allowed versions (`"attrs>=23"`).

    `python` is the interpreter of the kernel environment. Wheels are kept in `cache`. pip is that of lzero's environment, with its settings
    (PIP_INDEX_URL, pip.conf).
    """

    name = "install"
    parameters = ("package", "wheel", "offset")

    def __init__(
        self, allow: Sequence[str], *, python: Path, cache: Path | None = None, plan_s: float = PLAN_S
    ) -> None:
        """Raise ConfigError for an entry of `allow` that names no package."""
        self._allowed = {canonicalize_name(found.name): found for found in map(_allowed, allow)}
        if not self._allowed:
            raise ConfigError("the tool install is off until tools.install_allow names packages")
        self._python = python
        self._cache = cache or cache_directory("wheels")
        self._plan_s = plan_s
        self._plans: dict[str, tuple[Wheel, ...]] = {}
        self._files: dict[str, Path] = {}
        self._planning = Turns(1, "pip")
        self.description = (
            "install(package: str) -> str\nInstalls a package that can then be imported: a name, with or without versions "
            f'("name==1.2"). Allowed are {", ".join(map(str, self._allowed.values()))}.'
        )
        self.kernel_source = KERNEL_SOURCE.replace("DESCRIPTION", self.description.replace("\\", "").replace('"', "'"))

    async def call(self, arguments: dict[str, Json], context: ToolContext) -> Json:
        """Return a plan, or a piece of a wheel.

        Raises ToolError: the agent's fault for a package that is not allowed, has no wheel in the index or takes too long; the tool's if
        pip fails, or the index fails or cannot be reached.
        """
        match arguments:
            case {"package": str(package), **rest} if not rest:
                wheels = await self._planned(self._requirement(package))
                return {"wheels": [msgspec.to_builtins(wheel) for wheel in wheels]}
            case {"wheel": str(wheel), "offset": int(offset), **rest} if (
                not rest and wheel in self._files and 0 <= offset <= MAX_BYTES
            ):
                return await in_thread(_piece, self._files[wheel], offset)
        raise ToolError('install takes the name of a package, as in install("humanize")', fault="agent")

    def on_record(self, result: Json) -> Json:
        return recorded(result)

    def _requirement(self, package: str) -> str:
        """Return the requirement for pip. Raises ToolError unless it is one package of the list, in versions of the list."""
        try:
            asked = Requirement(package[:200])
        except InvalidRequirement:
            asked = None
        # "===" takes any text, also one at which pip or the system would fail.
        is_plain = package.isascii() and package.isprintable()
        if asked is None or asked.url or asked.marker or not is_plain:
            raise ToolError(f"{package[:80]!r} is not the name of a package, with or without versions", fault="agent")
        allowed = self._allowed.get(canonicalize_name(asked.name))
        if allowed is None:
            raise ToolError(
                f"{asked.name} may not be installed; allowed are {', '.join(map(str, self._allowed.values()))}",
                fault="agent",
            )
        extras = f"[{','.join(sorted(asked.extras))}]" if asked.extras else ""
        return f"{asked.name}{extras}{asked.specifier & allowed.specifier}"

    async def _planned(self, requirement: str) -> tuple[Wheel, ...]:
        """Return the plan for a requirement, from earlier calls or new. A known plan does not wait for others in progress."""
        if requirement not in self._plans:
            async with self._planning.turn():
                if requirement not in self._plans:
                    self._plans[requirement] = await self._plan(requirement)
        return self._plans[requirement]

    async def _plan(self, requirement: str) -> tuple[Wheel, ...]:
        with tempfile.TemporaryDirectory(prefix="lzero-install-") as name:
            directory = Path(name)
            try:
                async with call_clock().at_most(self._plan_s):
                    chosen = await self._resolve(requirement, directory)
                    self._check(requirement, chosen)
                    wheels = tuple([await self._keep(one, directory) for one in chosen])
            except TimeoutError:
                raise ToolError(
                    f"pip did not find {requirement} within {self._plan_s:g} s",
                    fault="agent" if _index_answers(directory) else "tool",
                ) from None
            except (OSError, Ended, ValueError) as error:  # ValueError: an invalid list of packages or report of pip
                raise ToolError(f"cannot install {requirement}: {str(error)[:300]}", fault="tool") from None
        size = sum(wheel.size for wheel in wheels)
        if size > MAX_BYTES:
            raise ToolError(
                f"{requirement} is too large: {size:,} bytes with all it needs, and {MAX_BYTES:,} can be installed",
                fault="agent",
            )
        return wheels

    async def _resolve(self, requirement: str, directory: Path) -> list[_Chosen]:
        """Return what pip would add to the kernel environment, without changing anything in that."""
        installed = await output_of([str(self._python), "-I", "-c", _INSTALLED], directory)
        constraints = [f"{name}=={version}" for name, version in json.loads(installed)]
        constraints += [f"{name}{found.specifier}" for name, found in self._allowed.items() if found.specifier]
        versions, report = directory / "constraints.txt", directory / "report.json"
        versions.write_text("\n".join(constraints))
        options = ("--dry-run", "--report", str(report), "--constraint", str(versions))
        await self._pip(directory, "install", *options, requirement)
        return [_chosen(entry) for entry in json.loads(report.read_text(encoding="utf-8"))["install"]]

    def _check(self, requirement: str, chosen: Sequence[_Chosen]) -> None:
        missing = [one.name for one in chosen if one.name not in self._allowed]
        if missing:
            raise ToolError(f"{requirement} needs {', '.join(missing[:20])}, which may not be installed", fault="agent")
        if len(chosen) > MAX_WHEELS:
            raise ToolError(f"{requirement} is too large: it takes {len(chosen)} packages", fault="agent")

    async def _keep(self, chosen: _Chosen, directory: Path) -> Wheel:
        """Return the wheel, from the cache or downloaded to it."""
        path = self._cache / chosen.sha256 / chosen.file_name
        if not chosen.sha256 or not path.is_file():
            downloaded = directory / f"{chosen.name}.download"
            await self._pip(
                directory, "download", "--no-deps", "--dest", str(downloaded), f"{chosen.name}=={chosen.version}"
            )
            (file,) = downloaded.iterdir()
            path = await in_thread(self._store, file)
        digest = path.parent.name
        self._files[digest] = path
        return Wheel(name=chosen.name, version=chosen.version, size=path.stat().st_size, id=digest)

    def _store(self, file: Path) -> Path:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        path = self._cache / digest / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as unfinished:
            unfinished.write(file.read_bytes())
        os.replace(unfinished.name, path)  # a file with the final name is complete
        return path

    async def _pip(self, directory: Path, command: str, *arguments: str) -> None:
        """Run pip as if in the kernel's interpreter. It writes to `directory`. Raises ToolError with its last message."""
        log = directory / _LOG
        log.unlink(missing_ok=True)
        flags = (
            *("--log", str(log), "--only-binary=:all:", "--no-input"),
            *("--disable-pip-version-check", "--progress-bar=off"),
        )
        words = [sys.executable, "-m", "pip", "--python", str(self._python), command, *flags, *arguments]
        try:
            await output_of(words, directory)
        except Ended as error:
            lines = str(error).splitlines()
            lines = [line for line in lines if line.startswith("ERROR: ")] or lines
            last = lines[-1].removeprefix("ERROR: ") if lines else "it does not say why"
            last = re.sub(r"//[^/@\s]+@", "//", last)[:300]
            fault: Any = "agent" if lines and _index_answers(directory) else "tool"
            raise ToolError(f"pip cannot find {arguments[-1]}: {last}", fault=fault) from None


def _index_answers(directory: Path) -> bool:
    """Return whether the index answered all requests of the last pip in `directory`."""
    log = directory / _LOG
    return not log.is_file() or _NO_ANSWER.search(log.read_text(encoding="utf-8", errors="replace")) is None


def _allowed(entry: str) -> Requirement:
    try:
        found = Requirement(entry)
    except InvalidRequirement as error:
        raise ConfigError(f"tools.install_allow: {entry!r} is not a package name: {error}") from None
    if found.url or found.marker or found.extras:
        raise ConfigError(f'tools.install_allow: {entry!r} must be a name with optional versions, as in "attrs>=23"')
    return found


def _chosen(entry: dict[str, Any]) -> _Chosen:
    """Return the distribution of one entry in pip's report. Raises ToolError if it is not a wheel."""
    file_name = unquote(urlsplit(entry["download_info"]["url"]).path).rpartition("/")[2]
    try:
        name, version, _, _ = parse_wheel_filename(file_name)
    except InvalidWheelFilename:
        raise ToolError(f"{file_name[:100]!r} is no wheel, and nothing else is installed", fault="tool") from None
    digest = entry["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256", "")
    return _Chosen(name, str(version), file_name, digest if re.fullmatch(r"[0-9a-f]{64}", digest) else "")


def recorded(result: Json) -> Json:
    """Return the recorded form of an answer: a plan unchanged, a piece of a wheel as its size and hash."""
    if not isinstance(result, str):
        return result
    data = base64.b64decode(result)
    piece: Json = msgspec.to_builtins(Piece(piece_bytes=len(data), piece_sha256=hashlib.sha256(data).hexdigest()))
    return piece


def recalled(arguments: dict[str, Json], answer: Json, *, cache: Path | None = None) -> Json:
    """Return the original answer of a recorded one: a piece of a wheel is read from the wheels on this machine, and its hash compared.

    Raises ToolError if that wheel is no longer there.
    """
    try:
        piece = msgspec.convert(answer, Piece)
    except msgspec.ValidationError:
        return answer
    match arguments:
        case {"wheel": str(wheel), "offset": int(offset)} if re.fullmatch(r"[0-9a-f]{64}", wheel) and (
            0 <= offset <= MAX_BYTES
        ):
            for path in ((cache or cache_directory("wheels")) / wheel).glob("*.whl"):
                found = _piece(path, offset)
                if recorded(found) == msgspec.to_builtins(piece):
                    return found
    raise ToolError("the wheel that was installed is not among those that this machine keeps", fault="agent")


def _piece(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return base64.b64encode(file.read(PIECE_BYTES)).decode()
