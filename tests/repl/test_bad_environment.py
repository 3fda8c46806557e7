"""A kernel environment or a limit that cannot work: one clear error, before any work starts."""

import os
import shutil
from pathlib import Path

import pytest
from repl_sessions import no_tools, value

from lzero.config import ReplConfig, load_config
from lzero.errors import ConfigError, SandboxError
from lzero.repl import Limits, LocalPool, environment

pytestmark = pytest.mark.sandbox
LEAST = ReplConfig(memory_mb=64, disk_mb=1, files=64, processes=2, open_files=32)


@pytest.fixture
def packages(public_directory: Path) -> Path:
    """Where the packages of a kernel environment to break are: `environment_of(packages)` is the environment."""
    original = environment.find(ReplConfig()).directory
    try:
        copy = shutil.copytree(original, public_directory / "kernel", symlinks=True, copy_function=os.link)
    except shutil.Error:  # another file system
        copy = shutil.copytree(original, public_directory / "kernel", symlinks=True, dirs_exist_ok=True)
    (found,) = Path(copy).glob("lib/python3*/site-packages")
    return found


async def refusal(packages: Path) -> str:
    directory = packages.parents[2]
    with pytest.raises(SandboxError) as refused:
        await LocalPool(ReplConfig(environment=str(directory))).start()
    assert f"the kernel environment {directory} cannot be used: " in str(refused.value)
    assert "Traceback" not in str(refused.value)
    return str(refused.value)


async def test_an_environment_without_a_package_is_told(packages: Path) -> None:
    shutil.rmtree(packages / "IPython")
    assert "No module named 'IPython'" in await refusal(packages)


async def test_a_package_that_fails_to_import_is_told(packages: Path) -> None:
    module = packages / "pandas" / "__init__.py"
    module.unlink()  # a hard link: what is written in its place is this copy's alone
    module.write_text("raise ImportError('built for another machine')")
    assert "ImportError: built for another machine" in await refusal(packages)


async def test_a_package_that_starts_a_thread_is_told(packages: Path) -> None:
    start = "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    (packages / "busy.py").write_text(start)
    (packages / "background.pth").write_text("import busy\n")
    assert "RuntimeError: threads start as Python starts (python, python)" in await refusal(packages)
    (packages / "background.pth").unlink()
    dateutil = packages / "dateutil" / "__init__.py"
    source = dateutil.read_text()
    dateutil.unlink()  # a hard link
    dateutil.write_text(f"import busy\n{source}")
    told = await refusal(packages)
    assert "threads start as pandas is imported, which imports " in told
    assert "busy, dateutil" in told


async def test_the_least_limits_that_can_be_asked_for_let_cells_run() -> None:
    async with LocalPool(LEAST) as pool:
        repl = await pool.open((), no_tools, seed=0)
        assert await value(repl, "import pandas\nlen(pandas.DataFrame({'a': [1, 2]}).describe())") == "8"


@pytest.mark.parametrize("key", ["memory_mb", "disk_mb", "files", "processes", "open_files"])
def test_less_than_the_least_is_an_error_of_the_configuration(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"repl\.{key} = .*greater than or equal to {getattr(LEAST, key)}"):
        load_config(overrides=[f"repl.{key}={getattr(LEAST, key) - 1}"])


async def test_a_limit_that_a_first_cell_exceeds_is_told() -> None:
    with pytest.raises(
        SandboxError, match=r"the first test cell ended its REPL: memory: .* a limit of \[repl\] is too small"
    ):
        await LocalPool(limits=Limits(memory_bytes=1 << 20)).start()
