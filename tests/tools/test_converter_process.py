"""The process that reads a file for the inspector: what it may take, whose fault its end is, and that it is gone when it has answered."""

import asyncio
from pathlib import Path

import psutil
import pytest
from builders import docx, paragraph

from lzero.errors import ToolError
from lzero.tools import converter as converter_module
from lzero.tools.converter import Converter

pytestmark = pytest.mark.integration


async def test_limits_end_the_process_and_say_whose_fault_it_was() -> None:
    bomb = docx(paragraph("x" * 10) * 1_000_000)
    before = psutil.Process().children()
    with pytest.raises(ToolError, match="takes more than 1 s of processor time") as caught:
        await Converter(cpu_s=1).text(bomb, "a.docx")
    assert caught.value.fault == "agent"
    with pytest.raises(ToolError, match=r"was not read within 0\.01 s") as caught:
        await Converter(wall_s=0.01).text(bomb, "a.docx")
    assert caught.value.fault == "tool"
    with pytest.raises(ToolError, match=r"the reader of a\.txt ended with code") as caught:
        await Converter(memory_bytes=1 << 20).text(b"x", "a.txt")
    assert caught.value.fault == "tool"
    assert psutil.Process().children() == before


async def test_who_gives_up_waiting_leaves_no_process() -> None:
    before = psutil.Process().children()
    reading = asyncio.ensure_future(Converter().text(docx(paragraph("x") * 300_000), "a.docx"))
    while psutil.Process().children() == before:
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert psutil.Process().children() == before


async def test_the_process_knows_nothing_of_its_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "__main__.py").write_text(
        "import json, os, sys\nsys.stdin.buffer.read()\n"
        "print(json.dumps({'text': repr(('OPENAI_API_KEY' in os.environ, 'HOME' in os.environ, os.listdir('/proc/self/fd')))}))"
    )
    monkeypatch.setattr(converter_module, "_INSIDE", inside)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    text = await Converter().text(b"x", "a.txt")
    assert text == "(False, False, ['0', '1', '2', '3'])"  # 3 is the directory of descriptors, being read


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('x' * 20_000_000)", "answered more than 16,000,000 bytes"),
        ("print('no json')", "answered what cannot be read"),
        ("print('{}')", "answered without a text"),
        ("import os; os.abort()", "ended with code -6"),
        ("raise SystemExit(3)", "ended with code 3"),
    ],
)
async def test_a_process_that_was_taken_over_cannot_harm_its_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str
) -> None:
    (tmp_path / "__main__.py").write_text(code)
    monkeypatch.setattr(converter_module, "_INSIDE", tmp_path)
    with pytest.raises(ToolError, match=message) as caught:
        await Converter().text(b"x" * 1_000_000, "a.txt")
    assert caught.value.fault == "tool"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('x' * 20_000_000)", "answered more than 16,000,000 bytes"),
        ("print('{}')", "answered without a text"),
        ("import os; os.abort()", "ended with code -6"),
        ("raise SystemExit(3)", "ended with code 3"),
    ],
)
async def test_how_a_process_ends_that_has_begun_with_a_file_is_the_doing_of_who_chose_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, message: str
) -> None:
    (tmp_path / "__main__.py").write_text(f"print('reading', flush=True)\n{code}")
    monkeypatch.setattr(converter_module, "_INSIDE", tmp_path)
    with pytest.raises(ToolError, match=message) as caught:
        await Converter().text(b"x" * 1_000_000, "a.txt")
    assert caught.value.fault == "agent"


async def test_a_file_that_hangs_the_process_is_the_doing_of_who_chose_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "__main__.py").write_text("import time; print('reading', flush=True); time.sleep(3600)")
    monkeypatch.setattr(converter_module, "_INSIDE", tmp_path)
    reading = converter_module._Reading()
    assert reading.fault == "tool"
    running = asyncio.create_task(reading.run(b"x"))
    while reading.fault == "tool":
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()


async def test_a_process_whose_child_holds_its_pipe_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "__main__.py").write_text(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3600)\nprint(os.getpid(), flush=True)\ntime.sleep(3600)"
    )
    monkeypatch.setattr(converter_module, "_INSIDE", tmp_path)
    monkeypatch.setattr(converter_module, "_END_S", 0.1)
    before = psutil.Process().children()
    reading = asyncio.create_task(Converter().text(b"x", "a.txt"))
    while not (
        found := [child for each in psutil.Process().children() if each not in before for child in each.children()]
    ):
        await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.wait({reading})
    assert psutil.Process().children() == before
    found[0].kill()


async def test_a_library_that_cannot_be_imported_is_not_the_files_doing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "__main__.py").write_text("print('reading', flush=True)\nraise SystemExit(69)")
    monkeypatch.setattr(converter_module, "_INSIDE", tmp_path)
    with pytest.raises(ToolError, match="lacks a library") as caught:
        await Converter().text(b"x", "a.txt")
    assert caught.value.fault == "tool"


async def test_a_picture_that_a_process_makes_up_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text("""print('{"image": "no base64 \\u00e9", "media_type": "image/png"}')""")
    monkeypatch.setattr(converter_module, "_INSIDE", tmp_path)
    with pytest.raises(ToolError, match=r"answered what cannot be read: Invalid base64"):
        await Converter().image(b"x", "a.png")
