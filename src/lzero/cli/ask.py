"""Ask NB-Agent one question: show its work in the terminal, and save it, however it ends."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lzero.agent import NBAgent
from lzero.agent.episode_repl import EpisodeRepl
from lzero.agent.save import NOTEBOOK_FILE
from lzero.agent.setting import budgets_of
from lzero.agent.watch import ForwardingWatcher
from lzero.cli.arguments import say
from lzero.cli.question import BRING_ONE, open_agent, plays_nano, read_config
from lzero.cli.run import Question
from lzero.cli.steps import StepPrinter
from lzero.errors import ConfigError, ReplError, WorkspaceError
from lzero.store import EPISODE_FILE, new_directory, write_beneath
from lzero.store.writing import as_store_error
from lzero.text import counted
from lzero.types import Task
from lzero.visible import clean

LEFT_OUT_SHOWN = 20
"""Number of left-out files that are printed; there may be thousands."""


async def ask(question: Question) -> bool:
    """Ask the question, save the agent's work, and return whether that came to an end, with or without an answer. Raises LzeroError."""
    config = read_config(question)
    _check_places(question)
    console = Console()
    if plays_nano(question, config):
        say(console, BRING_ONE)
    agent, task = open_agent(question, config)
    async with agent:
        directory = _make_place(question)
        console.print(Text(clean(task.question), style="bold"))
        with _ended_by_signals(), StepPrinter(console, budgets_of(agent.settings)) as printer:
            taken = _Collecting(printer, task, question.workspace_out is not None)
            try:
                printer.print_answer(await agent.run(task, watcher=taken))
            finally:
                left_out = _keep(question, agent, directory, taken)  # before all else: the terminal may be gone
                printer.close()
                _tell(question, agent, directory, (*taken.left_there, *left_out), console)
    episode = agent.episode
    return episode is not None and episode.status != "failed" and bool(episode.steps)


class _Collecting(ForwardingWatcher):
    """Passes everything on to the printer. At the end, collects the files that the agent has made or changed in its workspace."""

    def __init__(self, printer: StepPrinter, task: Task, wanted: bool) -> None:
        super().__init__(printer)
        self._given = {Path(file).name: Path(file) for file in task.files}
        self._wanted = wanted
        self.files: dict[str, bytes] = {}
        self.left_there: list[str] = []
        """The reasons why files could not be collected."""

    async def on_end(self, repl: EpisodeRepl) -> None:
        if not self._wanted:
            return
        try:
            for file in await repl.files():
                await self._take(repl, file.path)
        except (WorkspaceError, ReplError) as error:  # of all: the answer counts without them
            self.left_there.append(f"the rest of its workspace: {error}")

    async def _take(self, repl: EpisodeRepl, path: str) -> None:
        try:
            data = await repl.read(path)
        except WorkspaceError as error:
            self.left_there.append(str(error))
            return
        if path not in self._given or not _holds(self._given[path], data):
            self.files[path] = data


def _holds(file: Path, data: bytes) -> bool:
    try:
        return file.read_bytes() == data
    except OSError:  # it was there when the agent got it
        return False


def _check_places(question: Question) -> None:
    """Raise ConfigError if existing data would be overwritten, or the agent's files would mix with lzero's."""
    out, workspace = question.out, question.workspace_out
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is not a directory: name a new one")
    if out is not None and (out / EPISODE_FILE).exists():
        raise ConfigError(f"{out} already holds an episode: name another directory with --out")
    if workspace is None:
        return
    if workspace.exists() and (not workspace.is_dir() or any(workspace.iterdir())):
        raise ConfigError(f"--workspace-out {workspace} is not an empty directory: name a new one")
    if (out or Path("runs")).resolve().is_relative_to(workspace.resolve()):
        raise ConfigError(
            f"--workspace-out {workspace} contains the directory that the run is saved in: name another one"
        )


def _make_place(question: Question) -> Path:
    """Make the directory that this run, and no other, is saved in. Raises ConfigError, StoreError."""
    if question.workspace_out is not None:
        with as_store_error(question.workspace_out):
            question.workspace_out.mkdir(parents=True, exist_ok=True)
    directory = question.out or new_directory("run")
    with as_store_error(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            (directory / EPISODE_FILE).touch(exist_ok=False)
        except FileExistsError:
            raise ConfigError(f"another run uses {directory}: name another directory with --out") from None
    return directory


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP like Ctrl-C during the block: cancel the run, which is then saved."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in signals:
        loop.add_signal_handler(each, running.cancel)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


def _keep(question: Question, agent: NBAgent, directory: Path, taken: _Collecting) -> tuple[str, ...]:
    """Return why files of the workspace were not written, and copies of the given files not kept."""
    if agent.episode is None:  # nothing was started
        (directory / EPISODE_FILE).unlink()
        directory.rmdir()
        return ()
    not_kept = tuple(f"{name!r}: lzero replay will need --file" for name in agent.save(directory))
    if question.workspace_out is None:
        return not_kept
    not_written = write_beneath(question.workspace_out, taken.files)
    return (*not_kept, *(f"cannot write {name!r} on this machine" for name in not_written))


def _tell(question: Question, agent: NBAgent, directory: Path, left_out: Sequence[str], console: Console) -> None:
    """Print where everything is saved."""
    if agent.episode is None:
        return
    if (out := question.workspace_out) is not None:
        num_kept = sum(file.is_file() for file in out.rglob("*"))
        console.print(Text(f"{counted(num_kept, 'file')} from its workspace saved in {out}", style="dim"))
        for why in left_out[:LEFT_OUT_SHOWN]:
            console.print(Text(f"not saved: {clean(why)}", style="red"))
        if len(left_out) > LEFT_OUT_SHOWN:
            console.print(Text(f"not saved: {len(left_out) - LEFT_OUT_SHOWN} more", style="red"))
    kept = f"saved in {directory} (lzero show, lzero replay; {NOTEBOOK_FILE} for Jupyter)"
    console.print(Text(kept, style="dim"), soft_wrap=True)  # a path in two lines could not be copied
