"""A run of an agent, saved: its notebook runs in Jupyter, its code runs again in the sandbox, and the commands show it."""

import asyncio
import contextlib
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import nbformat
import pytest
from builders import make_task

from lzero.agent.conversation import TokenModel
from lzero.agent.episode import run_episode
from lzero.agent.renderer import Renderer
from lzero.agent.replay import replay
from lzero.agent.save import save_run
from lzero.agent.setting import Setting, Ticket
from lzero.cli import main
from lzero.config import AgentConfig, Config
from lzero.engine.scripted.engine import ScriptedEngine
from lzero.models import build_tokenizer
from lzero.protocols import stub_of
from lzero.repl import LocalPool
from lzero.store import SavedEpisode, read_saved
from lzero.tools.search import PassageIndex, Search
from lzero.types import Passage, Sampling, Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

TOKENIZER = build_tokenizer()
RENDERER = Renderer(TOKENIZER)
AGENT = AgentConfig(max_steps=12, max_tokens=32_000, response_tokens=1_000, cell_s=2.0, notepad=True)
TASK = make_task("saved", passages=(Passage(title="Liri", text="rival Kato"),))
CELLS = (
    "import random, numpy\nprint(random.random(), numpy.random.rand())\nfound = search('Liri')\nfound",
    "import sys\nprint('to stderr', file=sys.stderr)\nobject()",
    "class Page:\n    def _repr_html_(self): return '<b>Kato</b>'\nnotepad.add_todo('look')\nPage()",
    "print(open('table.csv').read())\nsearch(topic='Liri')",
    "print(undefined)",
    "while True: pass",
    "import os\nos._exit(3)",
    "import random\nprint(random.random())\nnotepad.done(1)\nprint(notepad)",
    "search()",
    "submit_final_answer('Kato')",
)
HARMLESS = (*CELLS[:3], CELLS[4], "print(notepad)", CELLS[9])


async def saved_run(pool: LocalPool, cells: tuple[str, ...], *, files: tuple[str, ...] = ()) -> SavedEpisode:
    def policy(transcript: str, seed: int) -> str:
        code = cells[min(transcript.count("<output>"), len(cells) - 1)]
        return f"<think>A thought of some length.</think>\n<code>\n{code}\n</code>"

    task = msgspec.structs.replace(TASK, files=files)
    search = Search(PassageIndex(task.passages))
    model = TokenModel(ScriptedEngine(policy, TOKENIZER), RENDERER, 10.0)
    setting = Setting(agent=AGENT, model=model, pool=pool, deadline_s=60.0)
    ticket = Ticket(id="saved", index=0, seed=3, sampling=Sampling())
    episode = await run_episode(task, ticket, setting, tools=[search])
    assert (episode.status, episode.answer) == ("finished", "Kato")
    config = Config(agent=AGENT).model_dump(mode="json")
    return SavedEpisode(task=task, episode=episode, model="scripted", config=config, tools=(stub_of(search),))


async def test_a_replay_finds_no_differences(pool: LocalPool, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("name\nKato\n")
    saved = await saved_run(pool, CELLS, files=(str(tmp_path / "table.csv"),))
    statuses = [step.execution.status for step in saved.episode.steps if step.execution is not None]
    assert statuses == ["ok", "ok", "ok", "error", "error", "timed_out", "killed", "ok", "error", "ok"]
    files = (tmp_path / "table.csv",)
    assert await replay(saved, pool, files=files) == ()
    unwritten = msgspec.structs.replace(saved, tools=())
    assert await replay(unwritten, pool, files=files) == (), "the tool is known by its calls"


async def test_a_replay_finds_what_was_doctored(pool: LocalPool) -> None:
    saved = await saved_run(pool, HARMLESS)
    steps = list(saved.episode.steps)
    assert steps[0].execution is not None
    forged = msgspec.structs.replace(steps[0].execution, outputs=(Stream(name="stdout", text="0.5 0.5\n"),))
    steps[0] = msgspec.structs.replace(steps[0], execution=forged)
    doctored = msgspec.structs.replace(saved, episode=msgspec.structs.replace(saved.episode, steps=tuple(steps)))
    (found,) = await replay(doctored, pool)
    assert (found.step, found.of) == (1, "output")
    assert "-0.5 0.5" in found.diff
    assert "rival Kato" in found.diff


async def test_jupyter_runs_a_saved_notebook_to_the_same_outputs(pool: LocalPool, tmp_path: Path) -> None:
    from nbconvert.preprocessors import ExecutePreprocessor

    saved = await saved_run(pool, HARMLESS)
    save_run(tmp_path, saved)
    then = nbformat.read(tmp_path / "notebook.ipynb", as_version=4)
    now = nbformat.from_dict(then)
    for cell in now.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with contextlib.chdir(tmp_path):
        ExecutePreprocessor(timeout=60, kernel_name="python3").preprocess(now, {"metadata": {"path": str(tmp_path)}})
    assert [outputs(cell) for cell in now.cells] == [outputs(cell) for cell in then.cells]
    assert sum(map(len, map(outputs, now.cells))) >= 6


def outputs(cell: Any) -> list[Any]:
    """Return the outputs of a cell, without what differs between Jupyter and the sandbox: addresses, counts, frames, the pieces of a
    stream."""
    found: list[Any] = []
    for output in cell.get("outputs", ()):
        if output.output_type == "error":
            found.append((output.ename, output.evalue))
        elif output.output_type == "stream" and found and found[-1][0] == output.name:
            found[-1] = (output.name, found[-1][1] + output.text)
        elif output.output_type == "stream":
            found.append((output.name, output.text))
        else:
            found.append(("data", {mime: text.partition(" at 0x")[0] for mime, text in output.data.items()}))
    return found


def run(*arguments: str) -> tuple[int, str]:
    """Run a command, and return exit code and stdout."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    code = 0
    with contextlib.redirect_stdout(shown):
        try:
            main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    shown.seek(0)
    return code, shown.read()


async def test_the_commands_show_and_replay_a_run(pool: LocalPool, tmp_path: Path) -> None:
    saved = await saved_run(pool, HARMLESS)
    save_run(tmp_path, saved)
    code, shown = await asyncio.to_thread(run, "show", str(tmp_path))
    assert code == 0
    for part in (
        "Who?",
        "step 1 of 12",
        "found = search('Liri')",
        "rival Kato",
        "[ ] 1. look",
        "NameError",
        "finished",
    ):
        assert part in shown
    code, shown = await asyncio.to_thread(run, "show", str(tmp_path / "episode.jsonl"), "--step", "2")
    assert (code, "step 2 of 12" in shown, "step 1 of 12" in shown) == (0, True, False)
    code, shown = await asyncio.to_thread(run, "show", str(tmp_path), "--json")
    assert json.loads(shown)["episode"]["answer"] == "Kato"
    code, shown = await asyncio.to_thread(run, "replay", str(tmp_path))
    assert (code, shown.splitlines()[-1]) == (0, "no differences in 6 cells")
    file = tmp_path / "episode.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"text":"to stderr', b'"text":"to nobody'))
    assert read_saved(tmp_path) != saved
    code, shown = await asyncio.to_thread(run, "replay", str(tmp_path))
    assert code == 1
