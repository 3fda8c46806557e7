"""The wheel, installed outside of the checkout: without the extra `train` it serves sandboxes and runs an agent on an endpoint."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from chat_servers import ChatServer, ended, streams, text, usage
from starlette.responses import JSONResponse

from lzero.config import ReplConfig
from lzero.extras import EXTRAS
from lzero.repl import environment
from lzero.store import read_saved

ROOT = Path(__file__).parents[2]
WHEELHOUSE = Path(sys.prefix) / "wheelhouse"
"""Filled by the set-up with what the wheel requires, as the lock pins it."""
MOST_BYTES = 300_000_000
MODELS = JSONResponse({"object": "list", "data": [{"id": "sage", "object": "model"}]})
TOKEN = "a-token-for-tests-only"  # noqa: S105
pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel and what it requires."""

    directory: Path

    @property
    def packages(self) -> Path:
        (found,) = (self.directory / "lib").glob("python*/site-packages")
        return found

    async def start(self, *arguments: str, cwd: Path) -> asyncio.subprocess.Process:
        own = ("OPENAI_", "PYTHON", "LZERO_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        return await asyncio.create_subprocess_exec(
            str(self.directory / "bin" / "lzero"),
            *arguments,
            cwd=cwd,
            env={**clean, "COLUMNS": "120", "LZERO_POOL_TOKEN": TOKEN},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def lzero(self, *arguments: str, cwd: Path) -> tuple[int | None, str, str]:
        """Return exit code, stdout and stderr."""
        process = await self.start(*arguments, cwd=cwd)
        async with asyncio.timeout(110.0):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    assert WHEELHOUSE.is_dir(), "make setup fills it"
    directory = tmp_path_factory.mktemp("light")
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, ROOT)
    (wheel,) = directory.glob("lzero-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", directory / "environment")
    python = directory / "environment" / "bin" / "python"
    links = ("--no-index", "--find-links", WHEELHOUSE)
    run(*pip, "--python", python, "install", "--quiet", "--no-compile", *links, wheel)
    return Installed(directory / "environment")


@asynccontextmanager
async def serving(installed: Installed, cwd: Path) -> AsyncIterator[str]:
    """Yield the address of an `lzero pool serve` of the wheel."""
    process = await installed.start("pool", "serve", "--port=0", f"repl.environment={kernel()}", cwd=cwd)
    assert process.stdout is not None
    errors = b""
    try:
        async with asyncio.timeout(60.0):
            line = (await process.stdout.readline()).decode()
        if line:
            yield line.split()[3]
    finally:
        if process.returncode is None:
            process.kill()
        _, errors = await process.communicate()
    assert line, errors.decode()


def kernel() -> Path:
    return environment.find(ReplConfig()).directory


def test_it_is_small_and_holds_no_model_library(installed: Installed) -> None:
    present = [name for extra in EXTRAS for name in EXTRAS[extra] if (installed.packages / name).exists()]
    assert present == []
    sizes = [(file.suffix, file.stat().st_size) for file in installed.packages.rglob("*") if file.is_file()]
    size = sum(2 * size if suffix == ".py" else size for suffix, size in sizes if suffix != ".pyc")
    assert size < MOST_BYTES, f"{size / 1e6:.0f} MB with the code that Python compiles, which is as large as its source"


async def test_it_runs_a_question_on_an_endpoint_with_a_cell_on_a_pool_server(
    installed: Installed, tmp_path: Path
) -> None:
    replies = ("<think>Count.</think>\n<code>\nn = 6 * 7\nprint(n)\n</code>", "<code>\nsubmit_final_answer(n)\n</code>")
    answers = [streams(*text(reply), ended(), usage(100, 20)) for reply in replies]
    async with serving(installed, tmp_path) as url, ChatServer(*answers, models=MODELS) as server:
        arguments = ("--base-url", server.url, "--set", f'repl.servers=["{url}"]', "--out", "kept")
        code, out, err = await installed.lzero("run", "How many?", "-m", "sage", *arguments, cwd=tmp_path)
    assert (code, err) == (0, ""), out
    assert read_saved(tmp_path / "kept").episode.answer == "42"
    code, out, err = await installed.lzero("show", "kept", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "n = 6 * 7" in out


async def test_what_needs_a_model_names_the_extra(installed: Installed, tmp_path: Path) -> None:
    commands = ("train", "eval", "run", "sft")
    ends = await asyncio.gather(*(installed.lzero(command, cwd=tmp_path) for command in commands))
    for code, _, err in ends:
        assert (code, err.count("\n")) == (1, 1), err
        assert err.startswith("lzero: ")
        assert "torch" in err
        assert err.endswith("pip install 'lzero[train]'\n")
    assert list(tmp_path.iterdir()) == []


def test_with_model_libraries_beside_it_the_wheel_finds_its_model_its_kernel_and_its_recipes(
    installed: Installed, tmp_path: Path
) -> None:
    command = (sys.executable, "-c", "import lzero.cli; print(lzero.__file__); lzero.cli.main()", "eval")
    changes = ("recipes/world.toml", "eval.num_tasks=1", "run.dir=run", f"repl.environment={kernel()}")
    done = subprocess.run(
        [*command, *changes],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed.packages)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert str(installed.packages) in done.stdout
    assert (installed.packages / "lzero" / "assets" / "kernel" / "requirements.txt").is_file()
