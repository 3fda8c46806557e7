"""Fixtures and settings of all tests."""

import gc
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from builders import HIDDEN, save_tiny
from hypothesis import HealthCheck, settings
from repl_sessions import no_tools

from lzero.config import ReplConfig
from lzero.data.world import vocabulary
from lzero.models import build_tokenizer
from lzero.repl import LocalPool, LocalRepl
from lzero.tools.retry import Backoff

pytest_plugins = ["neighbours", "tight_sessions"]

# As `lzero` does, before torch is imported: threads that wait for work by spinning take the cores from the other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The models of tests are so small that a second thread costs more than it computes, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no bug: an example may take as long as it needs, within the test's own timeout.
settings.register_profile("lzero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lzero")


def pytest_configure() -> None:
    """Handle signals like a foreground program; a shell that starts the suite in the background makes it ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with sandboxes first, then those with other processes or models: short tests even out the end of a parallel run."""
    costs: dict[Path, int] = {}
    for item in items:
        cost = next((cost for cost, name in enumerate(("sandbox", "integration")) if item.get_closest_marker(name)), 2)
        costs[item.path] = min(cost, costs.get(item.path, cost))
    items.sort(key=lambda item: costs[item.path])


def pytest_collection_finish() -> None:
    """Freeze the objects of imported modules. Tests that count what a fault leaves behind collect garbage often, and a collection that
    visits torch's objects takes a quarter of a second."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-minutes", type=float, default=1.0, help="how long tests with the marker soak take")


@pytest.fixture
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate temporary directory, because other programs of the machine use the usual one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Yield a directory with a short path, for Unix sockets; pytest's own are too long for those of vLLM."""
    with tempfile.TemporaryDirectory(prefix="lz-") as directory:
        yield Path(directory)


@pytest.fixture
def public_directory(tmp_path: Path) -> Path:
    """Return a directory that every user of the machine may enter; pytest's own are private."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory == tmp_path or directory.name.startswith(("pytest-", "popen-")):
            directory.chmod(0o755)
    return tmp_path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file of the host that nothing which strangers wrote may open."""
    file = tmp_path / "secret"
    file.write_text(HIDDEN)
    return file


@pytest.fixture
def chat_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide what the machine sets for OpenAI's client, and shorten the waits of lzero's."""
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # loading the authorities takes longer than most tests
    monkeypatch.setattr("lzero.engine.chat.engine.WAITS", Backoff(first_s=0.001))


@pytest.fixture
def no_keys_of_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the keys of web services that the machine sets, and any .env file."""
    monkeypatch.chdir(tmp_path)
    for variable in ("SERPER_API_KEY", "EXA_API_KEY", "JINA_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    """Yield a pool with one zygote for all tests of a module, which must run in the module's event loop."""
    async with LocalPool(ReplConfig(zygotes=1)) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def repl(pool: LocalPool) -> AsyncIterator[LocalRepl]:
    repl = await pool.open((), no_tools, seed=7)
    yield repl
    await repl.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_pool() -> AsyncIterator[LocalPool]:
    """Yield a pool without the filter, to show what the filter is good for."""
    async with LocalPool(ReplConfig(zygotes=1), without=("seccomp",)) as pool:
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_repl(open_pool: LocalPool) -> AsyncIterator[LocalRepl]:
    repl = await open_pool.open((), no_tools, seed=7)
    yield repl
    await repl.close()


@pytest.fixture(scope="session")
def kept_indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for search indexes that all workers of the session share, because a large corpus takes ten seconds to index."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "indexes"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory: Qwen3 with random weights, and the world's words in its tokenizer. Copy it before changing it."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", build_tokenizer(vocabulary()))


@pytest.fixture(scope="session")
def tiny_run(tiny_model: Path) -> tuple[str, ...]:
    """Settings of `lzero train`: two updates, of two tasks with two episodes each, and three held-out tasks."""
    return (
        f"model.path={tiny_model}",
        "train.updates=2",
        "train.checkpoint_every=1",
        "rollout.tasks_per_update=2",
        "rollout.episodes_per_task=2",
        "eval.num_tasks=3",
        "agent.max_steps=2",
        "agent.max_tokens=256",
        "agent.response_tokens=12",
        "repl.zygotes=1",
    )
