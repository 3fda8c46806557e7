"""Files that leave a session: what a link, a race, an archive or a lie in their place may reach, which is the session's own bytes."""

import ast
import errno
import io
import resource
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from cases import attack
from repl_sessions import no_tools, run, value
from syscalls import answers

import lzero
from lzero.config import ReplConfig
from lzero.errors import ProtocolError, ReplDied, ReplError, WorkspaceError
from lzero.repl import LocalPool, LocalRepl, session

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


@attack(31)
async def test_a_link_out_of_the_workspace_is_not_followed(repl: LocalRepl, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host", encoding="utf-8")
    code = f"""
import os
os.makedirs("inner")
open("/tmp/own", "w").write("of the session")
for name, target in (("host", {str(secret)!r}), ("own", "/tmp/own"), ("up", "../tmp/own"), ("root", "/proc/self/root"),
                     ("cwd", "/proc/self/cwd"), ("fd", "/proc/self/fd/3"), ("loop", "loop"), ("directory", "/tmp"),
                     ("inner/up", "..")):
    os.symlink(target, name)
open("own").read(), open("directory/own").read(), open("root/tmp/own").read()
"""
    # A cell may follow its own links.
    assert await value(repl, code) == "('of the session', 'of the session', 'of the session')"
    for path in ("host", "own", "up", "root", "cwd", "fd", "loop", "directory", "inner/up"):
        with pytest.raises(WorkspaceError, match="link"):
            await repl.get(path)
    for path in ("directory/own", "root/tmp/own", "cwd/inner/up/own", "inner/up/directory/own"):
        with pytest.raises(WorkspaceError, match="link"):
            await repl.get(path)
        with pytest.raises(WorkspaceError, match="link"):
            await repl.put(path, b"overwritten")
    assert await repl.files() == ()
    assert await value(repl, "open('/tmp/own').read()") == "'of the session'"


@attack(31)
async def test_a_session_that_follows_links_finds_its_own_files_only(pool: LocalPool, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host", encoding="utf-8")
    victim = await pool.open((), no_tools, seed=0)
    await run(
        victim,
        f"import _inside_beneath as beneath, os\nbeneath._READ = os.O_RDONLY\nos.symlink('/tmp/own', 'own')\n"
        f"open('/tmp/own', 'w').write('of the session')\nos.symlink({str(secret)!r}, 'host')",
    )
    assert await victim.get("own") == b"of the session"  # without the defence, and yet
    with pytest.raises(WorkspaceError, match="not there"):
        await victim.get("host")
    await victim.close()


SPECIAL = {
    "a FIFO": "os.mkfifo('file')",
    "a FIFO with a writer": "os.mkfifo('file')\nkept = os.open('file', os.O_RDWR)\nos.write(kept, b'from the pipe')",
    "a socket": "import socket\nkept = socket.socket(socket.AF_UNIX)\nkept.bind('file')",
    "a link to a device": "os.symlink('/dev/zero', 'file')",
    "a link to a terminal": "os.symlink('/dev/ptmx', 'file')",
    "a directory": "os.mkdir('file')",
    "a sparse giant": "open('file', 'w').close()\nos.truncate('file', 17 << 20)",
    "a file that may not be read": "open('file', 'w').close()\nos.chmod('file', 0)",
}


@pytest.mark.parametrize("code", SPECIAL.values(), ids=SPECIAL.keys())
@attack(32)
async def test_what_is_no_regular_file_does_not_go_out(repl: LocalRepl, code: str) -> None:
    await run(repl, f"import os\n{code}")
    started = time.monotonic()
    with pytest.raises(WorkspaceError, match="'file': "):
        await repl.get("file")
    assert time.monotonic() - started < 5.0
    assert await value(repl, "6 * 7") == "42"


@attack(32)
async def test_a_session_that_waits_for_a_fifo_ends_at_the_deadline(
    pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_BETWEEN_CELLS_S", 0.5)
    victim = await pool.open((), no_tools, seed=0)
    await run(victim, "import _inside_beneath as beneath, os\nbeneath._READ = os.O_RDONLY\nos.mkfifo('fifo')")
    with pytest.raises(ReplDied, match=r"within 0\.5 s"):  # without O_NONBLOCK
        await victim.get("fifo")
    await victim.close()


SWAPS = """
import itertools, os, threading
os.makedirs("d/real"); os.makedirs("d/other")
for place in ("d/real", "d/other"):
    open(f"{place}/file", "wb").write(b"regular" * 100_000)
open("/tmp/own", "w").write("outside")
os.symlink("/tmp", "d/link"); os.symlink("/tmp/own", "d/file"); os.mkfifo("d/fifo")
def swap():
    for source in itertools.cycle(("d/fifo", "d/file", "d/real/file", "d/other/file", "d/empty")):
        moves = (source, "d/x"), ("d/x", "now"), ("now", source), ("d/real", "way"), ("way", "d/real"), ("d/link", "way"), ("way", "d/link")
        for here, there in moves:
            try: os.rename(here, there)
            except OSError: pass
        try: os.close(os.open("d/empty", os.O_CREAT | os.O_WRONLY | os.O_NONBLOCK))  # where the FIFO lies now, a wait would last for ever
        except OSError: pass
for _ in range(2):
    threading.Thread(target=swap, daemon=True).start()
"""


@attack(32)
async def test_files_that_are_swapped_meanwhile_are_regular_or_refused(pool: LocalPool) -> None:
    victim = await pool.open((), no_tools, seed=0)
    await run(victim, SWAPS)
    whole = b"regular" * 100_000
    seen: set[str] = set()
    for attempt in range(250):  # of 256 transfers
        if attempt >= 150 and len(seen) == 2:  # on a busy machine its threads may be late
            break
        try:
            data = await victim.get(("now", "way/file", "d/real/file")[attempt % 3])
            assert data in (whole, b"")
            seen.add("a file")
        except WorkspaceError:
            seen.add("refused")
        assert not any("own" in file.path for file in await victim.files())
    assert seen == {"a file", "refused"}
    await victim.close()


@attack(32)
async def test_a_file_that_changes_while_it_is_read_stays_within_the_limit(pool: LocalPool) -> None:
    victim = await pool.open((), no_tools, seed=0)
    code = """
import itertools, os, threading
def grow():
    for size in itertools.cycle((0, 1, 1 << 20, (1 << 20) + 1, 16 << 20, 100 << 20)):
        os.truncate("file", size)
open("file", "w").close()
threading.Thread(target=grow, daemon=True).start()
"""
    await run(victim, code)
    for _ in range(30):
        try:
            assert len(await victim.get("file")) <= 16 << 20
        except WorkspaceError:
            continue
    await victim.close()


def climbing_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("../../climbed", "/absolute", "ok", "a/../../../opt/lzero/kernel.py"):
            archive.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, "/opt/lzero"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("way/kernel.py"))
        device = tarfile.TarInfo("memory")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 1
        archive.addfile(device)
    return file.getvalue()


def bomb(*, entries: int, size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(entries):
            archive.writestr(str(number), bytes(size))
    return file.getvalue()


@attack(33)
async def test_the_host_unpacks_nothing(pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    victim = await pool.open((), no_tools, seed=0)
    for name, data in (("bomb.zip", bomb(entries=1, size=8 << 20)), ("climbing.tar.gz", climbing_tar())):
        await victim.put(name, data)
        assert await victim.get(name) == data
    assert [file.path for file in await victim.files()] == ["bomb.zip", "climbing.tar.gz"]
    assert list(tmp_path.iterdir()) == []
    await victim.close()
    unpackers = {"tarfile", "zipfile", "shutil.unpack_archive", "gzip", "bz2", "lzma", "zlib", "zstandard"}
    for source in (Path(lzero.__file__).parent / "repl").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
            assert not names & unpackers, source


@attack(33)
async def test_an_archive_unpacked_inside_meets_the_limits() -> None:
    async with LocalPool(ReplConfig(disk_mb=4, files=256)) as pool:
        victim, other = await pool.open((), no_tools, seed=0), await pool.open((), no_tools, seed=1)
        await victim.put("large.zip", bomb(entries=1, size=64 << 20))
        await victim.put("many.zip", bomb(entries=10_000, size=0))
        await victim.put("climbing.tar.gz", climbing_tar())
        code = """
import os, shutil, tarfile, zipfile
found = []
for name in ("large", "many"):
    found.append(attempt(zipfile.ZipFile(name + ".zip").extractall, name))
    shutil.rmtree(name)
with tarfile.open("climbing.tar.gz") as archive:
    archive.extraction_filter = staticmethod(lambda member, path: member)  # trusts everything
    for member in archive.getmembers():
        found.append(attempt(archive.extract, member))
found
"""
        found = await answers(victim, code)
        assert (found[0] in (errno.ENOSPC, errno.EFBIG), found[1]) == (True, errno.ENOSPC)
        assert {errno.EROFS, errno.EPERM} <= set(found[2:])  # outside of the workspace; a device
        assert await value(victim, "[os.path.exists(path) for path in ('/climbed', '/absolute')]") == "[False, False]"
        assert await value(other, "import os\nos.listdir(), os.path.exists('/climbed')") == "([], False)"
        await victim.close()
        await other.close()


@attack(34)
async def test_hostile_names_are_listed_and_asked_for_as_they_are_or_escaped(repl: LocalRepl) -> None:
    names = ["-rf", "a\nb", "$(reboot)", "\x1b[2J", "n" * 255, "...", "北京", 'quote"\\', " "]
    await run(repl, f"for name in {names!r}: open(name, 'w').write(name)\nopen(b'\\xff\\xfe', 'w').close()")
    assert {file.path for file in await repl.files()} == {*names, "\\xff\\xfe"}
    for name in names:
        assert await repl.get(name) == name.encode()
        await repl.put(name, b"new")
    with pytest.raises(WorkspaceError, match="not there"):
        await repl.get("\\xff\\xfe")
    deep = "import os\nfor _ in range(12):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\nopen('file', 'w').close()"
    await run(repl, deep)
    with pytest.raises(WorkspaceError, match="a path longer than 1,024"):
        await repl.files()
    assert await repl.get("-rf") == b"new"


@attack(34)
async def test_more_files_than_a_listing_holds_are_refused(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    await run(repl, "for number in range(4096): open(str(number), 'w').close()")
    assert len(await repl.files()) == 4096
    await run(repl, "open('one more', 'w').close()")
    with pytest.raises(WorkspaceError, match="more than 4,096 files"):
        await repl.files()
    assert await repl.get("one more") == b""
    await repl.close()


LIES = {
    "no end": (
        "while True: channel.send({'type': 'chunk', 'data': chunk, 'last': False})",
        "more than the 16,777,216 bytes",
    ),
    "small pieces": ("channel.send({'type': 'chunk', 'data': 'AAAA', 'last': False})", "in the middle of a file"),
    "empty pieces": ("channel.send({'type': 'chunk', 'data': '', 'last': False})", "in the middle of a file"),
    "one large piece": ("channel.send({'type': 'chunk', 'data': 'AAAA' * 2_000_000, 'last': False})", "in the middle"),
    "no Base64": ("channel.send({'type': 'chunk', 'data': '?', 'last': True})", "not a frame"),
    "a cell's outputs": ("channel.send({'type': 'done', 'id': 1, 'status': 'ok', 'outputs': []})", "Done where"),
    "a call": ("channel.send({'type': 'call', 'id': 1, 'name': 'x', 'arguments': {}})", "Call where"),
    "a listing for a file": ("channel.send({'type': 'listing', 'files': []})", "Listing where"),
    "half a frame": (
        "channel._socket.sendall(b'\\0\\0\\0\\xff{'); channel._socket.shutdown(1)",
        "closed its connection",
    ),
    "the end": ("import os; os._exit(0)", "exited with code 0"),
    "words of its own": ("channel.send({'type': 'refused', 'errno': 2, 'reason': 'x'})", "not a frame"),
}


@pytest.mark.parametrize(("lie", "why"), LIES.values(), ids=LIES.keys())
@attack(56)
async def test_a_session_that_lies_about_a_file_ends(pool: LocalPool, repl: LocalRepl, lie: str, why: str) -> None:
    victim = await pool.open((), no_tools, seed=0)
    await run(
        victim,
        "import _inside_workspace as workspace\nchunk = 'AAAA' * ((1 << 20) // 3) + 'AA=='\n"
        f"def serve(message, channel):\n    {lie}\nworkspace.serve = serve",
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ReplError, match=why) as raised:
        await victim.get("file")
    assert isinstance(raised.value, ReplDied if "code" in why or "closed" in why else ProtocolError)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10 < 100 << 20
    with pytest.raises(ReplDied):
        await victim.files()
    assert await value(repl, "6 * 7") == "42"
    await victim.close()


LISTINGS = {
    "up": ('[{"path": "../x", "size": 1}]', "no file of a workspace"),
    "absolute": ('[{"path": "/etc/passwd", "size": 1}]', "no file of a workspace"),
    "nothing": ('[{"path": "", "size": 1}]', "no file of a workspace"),
    "a null byte": ('[{"path": "a\\0", "size": 1}]', "no file of a workspace"),
    "less than nothing": ('[{"path": "a", "size": -1}]', "no file of a workspace"),
    "a long path": ('[{"path": "a" * 1025, "size": 1}]', "no file of a workspace"),
    "too many": ('[{"path": "a", "size": 1}] * 4097', "4,097 files"),
    "too large": ('[{"path": "a", "size": 1}] * 100_000', "a listing of 2"),
    "no list": ('{"path": "a", "size": 1}', "not a listing"),
    "something beside": ('[{"path": "a", "size": 1, "data": "x"}]', "not a listing"),
}


@pytest.mark.parametrize(("files", "why"), LISTINGS.values(), ids=LISTINGS.keys())
@attack(56)
async def test_a_session_that_lies_in_a_listing_ends(pool: LocalPool, files: str, why: str) -> None:
    victim = await pool.open((), no_tools, seed=0)
    await run(
        victim,
        "import _inside_workspace as workspace\n"
        f"workspace.serve = lambda message, channel: channel.send({{'type': 'listing', 'files': {files}}})",
    )
    with pytest.raises(ProtocolError, match=why):
        await victim.files()
    await victim.close()


@attack(58)
async def test_a_session_that_takes_a_file_slowly_or_not_at_all_ends_at_the_deadline(
    pool: LocalPool, repl: LocalRepl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_BETWEEN_CELLS_S", 0.5)
    for lie in ("time.sleep(60)", "[(channel._socket.recv(1), time.sleep(0.01)) for _ in range(6000)]"):
        victim = await pool.open((), no_tools, seed=0)
        await run(
            victim, f"import time, _inside_workspace as workspace\nworkspace.serve = lambda message, channel: {lie}"
        )
        started = time.monotonic()
        with pytest.raises(ReplDied, match=r"within 0\.5 s"):
            await victim.put("file", bytes(8 << 20))
        assert time.monotonic() - started < 5.0
        assert await value(repl, "6 * 7") == "42"
        await victim.close()


@attack(56)
async def test_an_answer_too_many_is_the_sessions_own_misfortune(pool: LocalPool) -> None:
    victim = await pool.open((), no_tools, seed=0)
    twice = "[channel.send({'type': 'stored'}) for _ in range(2)]"
    await run(victim, f"import _inside_workspace as workspace\nworkspace.serve = lambda message, channel: {twice}")
    await victim.put("file", b"")  # it says so, and has stored nothing
    execution = await run(victim, "1")
    assert (execution.status, execution.outputs) == ("killed", ())
    assert "Stored in the middle of cell 2" in execution.reason
    await victim.close()
