"""`install`: wheels built here, found by the real pip, unpacked and imported in a real session."""

import asyncio
import contextlib
import hashlib
import http.server
import os
import shutil
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from builders import CONTEXT
from fault_traces import below
from repl_sessions import run, value

from lzero.agent.broker import Broker
from lzero.agent.compose import open_tools
from lzero.agent.nb_agent import NBAgent
from lzero.agent.replay import replay
from lzero.config import ReplConfig, load_config
from lzero.engine.scripted.engine import ScriptedChat
from lzero.errors import ConfigError, ToolError
from lzero.protocols import stub_of
from lzero.repl import LocalPool, environment
from lzero.store import SavedEpisode
from lzero.tools import install as module
from lzero.tools.install import Install
from lzero.turns import CallClock
from lzero.types import Error, Json

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


def wheel(
    directory: Path,
    name: str,
    version: str,
    files: dict[str, bytes],
    *,
    needs: tuple[str, ...] = (),
    extras: tuple[str, ...] = (),
    tag: str = "py3-none-any",
) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {one}\n" for one in needs
    )
    metadata += "".join(f"Provides-Extra: {one}\n" for one in extras)
    with zipfile.ZipFile(directory / f"{name}-{version}-{tag}.whl", "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a directory as the package index, by pip's own settings."""
    directory = tmp_path / "index"
    directory.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, setting in (("PIP_CONFIG_FILE", os.devnull), ("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(directory))):
        monkeypatch.setenv(name, setting)
    code = b"from .deep import ANSWER\n"
    wheel(directory, "tiny", "1.0", {"tiny/__init__.py": code, "tiny/deep/__init__.py": b"ANSWER = 41\n"})
    wheel(directory, "tiny", "1.1", {"tiny/__init__.py": code, "tiny/deep/__init__.py": b"ANSWER = 42\n"})
    wheel(directory, "tiny", "1.2", {"tiny/__init__.py": b""}, tag="cp27-cp27m-win32")
    extra = {
        "needy.py": b"import tiny, numpy\n",
        "needy-1.0.data/purelib/beside.py": b"",
        "needy-1.0.data/scripts/run": b"#",
    }
    wheel(directory, "needy", "1.0", extra, needs=("tiny>=1", "numpy"))
    wheel(directory, "stranger", "1.0", {"stranger.py": b""}, needs=("needy", "unheard"))
    wheel(directory, "unheard", "1.0", {"unheard.py": b""})
    wheel(directory, "newer", "1.0", {"newer.py": b""}, needs=("numpy>=99",))
    return directory


def tool(tmp_path: Path, *allow: str, plan_s: float = module.PLAN_S, cached: bool = True) -> Install:
    """`cached`: the tool has the wheels of `index` already, and starts pip for the plan only."""
    cache = tmp_path / "cache"
    for file in (tmp_path / "index").glob("*.whl") if cached else ():
        kept = cache / hashlib.sha256(file.read_bytes()).hexdigest() / file.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, kept)
    return Install(allow, python=environment.find(ReplConfig()).python, cache=cache, plan_s=plan_s)


async def refusal(tool: Install, **arguments: Json) -> tuple[str, str]:
    with pytest.raises(ToolError) as raised:
        await tool.call(arguments, CONTEXT)
    return raised.value.fault, str(raised.value)


async def test_a_package_and_what_it_needs_are_installed_and_imported(
    index: Path, tmp_path: Path, pool: LocalPool
) -> None:
    install = tool(tmp_path, "tiny", "needy")
    broker = Broker(CONTEXT.task, [install], CONTEXT.read_file)
    repl = await pool.open(broker.tools, broker.on_call, seed=0)
    assert await value(repl, "install('needy')") == (
        r"'installed needy 1.0: import beside, needy\ninstalled tiny 1.1: import tiny'"
    )
    assert await value(repl, "import needy, beside, tiny\ntiny.ANSWER") == "42"
    assert await value(repl, "install('Tiny>=1.1')") == "'Tiny>=1.1 is installed already'"
    assert await value(repl, "install.__doc__") == repr(install.description.replace('"', "'"))
    assert await repl.files() == ()  # the workspace holds what the agent wrote, and no packages
    (error,) = [output for output in (await run(repl, "install('tiny==1.0')")).outputs if isinstance(output, Error)]
    assert error.evalue == "tiny 1.1 is installed already, and a session has one version of a package"
    await repl.close()


async def test_a_large_wheel_comes_in_pieces(
    index: Path, tmp_path: Path, pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = os.urandom(300_000)
    wheel(index, "large", "2.0", {"large/__init__.py": b"", "large/noise": noise})
    monkeypatch.setattr(module, "PIECE_BYTES", 100_000)
    broker = Broker(CONTEXT.task, [tool(tmp_path, "large")], CONTEXT.read_file)
    repl = await pool.open(broker.tools, broker.on_call, seed=0)
    assert await value(repl, "install('large')") == "'installed large 2.0: import large'"
    calls = broker.take_calls()
    assert [call.name for call in calls] == ["install"] * 5
    assert sum(len(msgspec.json.encode(call)) for call in calls) < 3_000  # the record holds hashes
    assert isinstance(calls[1].result, dict)
    assert calls[1].result["piece_bytes"] == 100_000
    piece = module.recalled(calls[1].arguments, calls[1].result, cache=tmp_path / "cache")
    assert isinstance(piece, str)
    assert module.recorded(piece) == calls[1].result
    with pytest.raises(ToolError, match="not among those that this machine keeps"):
        module.recalled(calls[1].arguments, calls[1].result | {"piece_sha256": "0" * 64}, cache=tmp_path / "cache")
    code = "import large, pathlib\nlen(pathlib.Path(large.__file__).with_name('noise').read_bytes())"
    assert await value(repl, code) == "300000"
    await repl.close()


async def test_a_run_that_installed_is_run_again_from_the_wheels_that_are_kept(
    index: Path, tmp_path: Path, pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    cells = ("print(install('tiny'))\nimport tiny\nprint(tiny.ANSWER)", "submit_final_answer(tiny.ANSWER)")
    replies = [f"<think>A thought of some length.</think>\n<code>\n{code}\n</code>" for code in cells]
    chat = ScriptedChat(lambda messages, seed: replies[sum(message.role == "assistant" for message in messages)])
    async with NBAgent(
        chat, tools=["install"], pool=pool, config=load_config(None, ['tools.install_allow=["tiny"]'])
    ) as agent:
        episode = await agent.run("What is the answer?")
        tools = tuple(map(stub_of, agent.tools))
    assert episode.answer == "42"
    saved = SavedEpisode(task=CONTEXT.task, episode=episode, model="scripted", config={}, tools=tools)
    assert await replay(saved, pool) == ()
    shutil.rmtree(tmp_path / "kept")
    assert "the wheel that was installed is not among" in str(await replay(saved, pool))


async def test_wheels_are_kept_and_a_plan_is_made_once(index: Path, tmp_path: Path) -> None:
    install = tool(tmp_path, "tiny", cached=False)
    first = await install.call({"package": "tiny"}, CONTEXT)
    (kept,) = (tmp_path / "cache").rglob("*.whl")
    assert kept.name == "tiny-1.1-py3-none-any.whl"
    for file in index.iterdir():
        file.unlink()
    assert await install.call({"package": "tiny"}, CONTEXT) == first


@pytest.mark.parametrize(
    "package",
    [
        "",
        "../tiny",
        "tiny @ file:///etc",
        "https://host/tiny.whl",
        "--pre",
        "-r x",
        "tiny; os_name=='x'",
        "tiny\n--pre",
        "tiny===\0",
        "tiny===\u4e2d",
        ".",
    ],
)
async def test_only_names_and_versions_are_packages(tmp_path: Path, package: str) -> None:
    fault, text = await refusal(tool(tmp_path, "tiny"), package=package)
    assert fault == "agent"
    assert "is not the name of a package" in text


async def test_what_is_not_allowed_is_refused_with_its_names(index: Path, tmp_path: Path) -> None:
    install = tool(tmp_path, "stranger", "newer", "tiny<1.1")
    assert await refusal(install, package="requests") == (
        "agent",
        "requests may not be installed; allowed are stranger, newer, tiny<1.1",
    )
    assert await refusal(install, package="stranger") == (
        "agent",
        "stranger needs needy, unheard, which may not be installed",
    )
    assert install._files == {}
    fault, text = await refusal(install, package="tiny==1.1")
    assert (fault, text.partition(":")[0]) == ("agent", "pip cannot find tiny<1.1,==1.1")
    fault, text = await refusal(install, package="newer")  # what the kernel environment holds is not changed
    assert fault == "agent"
    assert await install.call({"package": "tiny"}, CONTEXT) == await install.call({"package": "tiny>=0"}, CONTEXT)


async def test_what_is_too_large_is_told_before_it_is_sent(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    fault, text = await refusal(tool(tmp_path, "tiny"), package="tiny")
    assert fault == "agent"
    assert "tiny is too large: " in text


async def test_pieces_are_of_wheels_that_were_planned(tmp_path: Path) -> None:
    install = tool(tmp_path, "tiny")
    for arguments in ({"wheel": "../../etc/passwd", "offset": 0}, {"wheel": "0" * 64, "offset": 0}, {}, {"package": 1}):
        assert (await refusal(install, **arguments))[0] == "agent"


async def test_no_offset_breaks_it_and_a_plan_that_there_is_waits_for_nobody(index: Path, tmp_path: Path) -> None:
    install = tool(tmp_path, "tiny")
    plan = await install.call({"package": "tiny"}, CONTEXT)
    assert isinstance(plan, dict)
    (wheel_id,) = (found["id"] for found in msgspec.convert(plan["wheels"], list[dict[str, Any]]))
    for offset in (2**63, -1):
        assert (await refusal(install, wheel=wheel_id, offset=offset))[0] == "agent"
    async with asyncio.timeout(10), install._planning.turn():
        assert await install.call({"package": "tiny"}, CONTEXT) == plan


async def test_a_kernel_environment_that_is_broken_is_no_bug_of_the_tool(index: Path, tmp_path: Path) -> None:
    for code in ("exit 3", "echo no list"):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{code}\n")
        python.chmod(0o755)
        fault, text = await refusal(Install(["tiny"], python=python, cache=tmp_path), package="tiny")
        assert (fault, text[:19]) == ("tool", "cannot install tiny")


async def test_an_index_that_does_not_answer_is_not_the_agents_fault(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hidden@127.0.0.1:9/simple")
    fault, text = await refusal(tool(tmp_path, "tiny"), package="tiny")
    assert fault == "tool"
    assert "hidden" not in text


async def test_a_dependency_that_the_index_has_not_is_the_fault_of_the_agent_that_chose_what_needs_it(
    index: Path, tmp_path: Path
) -> None:
    wheel(index, "aged", "1.0", {"aged.py": b""}, needs=("never-published",))
    wheel(index, "aged", "2.0", {"aged.py": b""}, needs=("never-published; extra == 'more'",), extras=("more",))
    install = tool(tmp_path, "aged")
    await install.call({"package": "aged"}, CONTEXT)
    for package in ("aged==1.0", "aged[more]==2.0"):
        fault, text = await refusal(install, package=package)
        assert (fault, text[:15]) == ("agent", "pip cannot find")


class Index(http.server.BaseHTTPRequestHandler):
    """Index of packages named after its answer: `answers-404`, or after the only file it lists."""

    def do_GET(self) -> None:
        _, _, status = self.path.strip("/").rpartition("-")
        page = b'<a href="source-1.0.tar.gz">source-1.0.tar.gz</a>'
        self.send_response(int(status) if status.isdigit() else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args: object) -> None: ...


@pytest.mark.parametrize(("package", "fault"), [("answers-404", "agent"), ("source", "agent"), ("answers-503", "tool")])
async def test_a_package_that_the_index_has_no_wheel_of_is_the_agents_fault_and_an_index_that_fails_the_tools(
    package: str, fault: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = tool(tmp_path, package)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
            found = await refusal(install, package=package)
        finally:
            server.shutdown()
    assert found == (fault, f"pip cannot find {package}: No matching distribution found for {package}")


@pytest.mark.parametrize(("num_tries", "fault"), [(2, "tool"), (1, "agent")])
async def test_pip_has_a_deadline_which_is_the_agents_unless_the_index_is_silent_and_leaves_nothing(
    num_tries: int, fault: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("PIP_TIMEOUT", "1" if num_tries > 1 else "600")
    monkeypatch.delenv("PIP_NO_INDEX")
    asked = asyncio.Semaphore(0)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.release()
        await reader.read()  # until pip ends, or tries again
        writer.close()

    install, clock = tool(tmp_path, "tiny", plan_s=600.0), CallClock()
    monkeypatch.setattr(module, "call_clock", lambda: clock)
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server, asyncio.timeout(60):
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/simple")
        refused = asyncio.create_task(refusal(install, package="tiny"))
        for _ in range(num_tries):
            await asked.acquire()
        for deadline in clock._due:
            deadline.reschedule(0.0)
        assert await refused == (fault, "pip did not find tiny within 600 s")
        async with install._planning.turn():  # the next one may plan
            assert not any("pip" in command_of(child) for child in below())
            assert not list(temporary.iterdir())


def command_of(process: psutil.Process) -> list[str]:
    """Return the command of a process; "" if it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
        return process.cmdline()
    return []


@pytest.mark.parametrize("entry", ["", "a b", "tiny @ https://host/x.whl", "tiny[extra]", "--pre"])
async def test_an_allow_list_holds_names_and_versions(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"tools\.install_allow"):
        Install([entry], python=Path("python"))


async def test_it_is_off_until_packages_are_named_and_fits_this_machines_sessions_only(index: Path) -> None:
    settings = ["tools.install_allow=['tiny']"]
    (install,) = open_tools(["install"], load_config(None, settings), key="tools")
    assert install.name == "install"
    assert "Allowed are tiny." in install.description
    for changed, problem in (
        ([], "is off until tools.install_allow names packages"),
        ([*settings, "repl.tier=unsandboxed"], "fits packages to this machine's kernel environment"),
        ([*settings, "repl.servers=['ws://host:1']"], "fits packages to this machine's kernel environment"),
    ):
        with pytest.raises(ConfigError, match=problem):
            open_tools(["install"], load_config(None, changed), key="tools")
