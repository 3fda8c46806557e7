"""`lzero run`, as a person calls it: what it prints, what it keeps, and what it says where it cannot."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import commands
import nbformat
import pytest
from chat_servers import ChatServer, choice, ended, streams, text, usage
from commands import Ended, exit_code
from starlette.responses import JSONResponse

from lzero.store import read_saved

pytestmark = [pytest.mark.sandbox]
MODELS = JSONResponse({"object": "list", "data": [{"id": "sage", "object": "model"}]})


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return {**clean, "COLUMNS": "120"}


async def lzero(*arguments: str, cwd: Path) -> Ended:
    """Run a command to its end, while this thread serves it."""
    return await asyncio.to_thread(commands.lzero, *arguments, directory=cwd, environment=environment())


def cell(code: str) -> str:
    return f"<think>A thought of some length.</think>\n<code>\n{code}\n</code>"


def model(*replies: str) -> ChatServer:
    """Return an endpoint whose model gives its replies in turn."""
    answers = [streams(*text(reply), ended(), usage(100, 20)) for reply in replies]
    return ChatServer(*answers, models=MODELS)


async def test_without_a_model_the_nano_plays_a_question_of_its_world(tmp_path: Path) -> None:
    run = await lzero("run", "--out", "kept", cwd=tmp_path)
    assert run.code == 0, run.err
    assert "To use another model: --model NAME" in run.out
    assert "finished" in run.out
    saved = read_saved(tmp_path / "kept")
    assert (saved.model, saved.episode.status) == ("nano", "finished")
    nbformat.validate(nbformat.read(str(tmp_path / "kept" / "notebook.ipynb"), as_version=4))
    again = await lzero("run", "--out", "kept", cwd=tmp_path)
    assert (again.code, "already holds an episode" in again.err) == (1, True)


async def test_a_question_is_answered_with_files_and_its_workspace_comes_out(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("n\n20\n22\n")
    replies = (
        cell(
            "import pandas\ntotal = int(pandas.read_csv('table.csv').n.sum())\nopen('total.txt', 'w').write(str(total))"
        ),
        cell("notepad.add_facts('the total is in total.txt')\nsubmit_final_answer(f'**{total}**')"),
    )
    async with model(*replies) as server:
        run = await lzero(
            "run", "What is the total?", "--model=sage", f"--base-url={server.url}", "--file=table.csv",
            "--max-steps=5", "--memory=hard", "--answer=short", "--temperature=0.25", "--workspace-out=made", "--out=kept",
            cwd=tmp_path,
        )  # fmt: skip
    assert run.code == 0, run.err
    assert "step 2 of 5" in run.out
    assert "the total is in total.txt" in run.out
    assert "200 tokens read, 40 written" in run.out
    assert (tmp_path / "made" / "total.txt").read_text() == "42"
    assert not (tmp_path / "made" / "table.csv").exists()
    saved = read_saved(tmp_path / "kept")
    assert saved.episode.answer == "**42**"
    assert saved.episode.sampling.temperature == 0.25
    assert [body["temperature"] for body in server.bodies] == [0.25, 0.25]
    first = server.bodies[0]["messages"]
    assert "In the working directory: table.csv." in first[0]["content"]
    assert first[1]["content"].startswith("What is the total?\nAnswer with a word or a short phrase.\n[5 steps")
    (tmp_path / "table.csv").unlink()  # the run has a copy
    replayed = await lzero("replay", "kept", cwd=tmp_path)
    assert (replayed.code, "no differences in 2 cells" in replayed.out) == (0, True), replayed.out


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow)],
    ids=["INT", "TERM", "HUP"],
)
async def test_a_run_that_is_interrupted_keeps_its_steps(tmp_path: Path, number: int, code: int) -> None:
    async with model(cell("print('so far')"), cell("import time\ntime.sleep(600)")) as server:
        arguments = ("run", "What?", "-m", "sage", "--base-url", server.url, "--out", "kept")
        command = commands.Command(
            *arguments, "--set", "agent.cell_s=600", directory=tmp_path, environment=environment()
        )
        while "so far" not in (line := await asyncio.to_thread(command.stdout.readline)):
            assert line, "the run has ended"
        if number == signal.SIGINT:
            beside = await lzero(*arguments, cwd=tmp_path)
            message = "lzero: kept already holds an episode: name another directory with --out\n"
            assert (beside.code, beside.err) == (1, message)
        os.kill(command.pid, number)
        ended = await asyncio.to_thread(command.end)
    assert (ended.code, ended.err) == (code, "")
    assert "saved in kept" in ended.out
    saved = read_saved(tmp_path / "kept")
    assert (saved.episode.status, len(saved.episode.steps)) == ("failed", 1)
    assert (tmp_path / "kept" / "notebook.ipynb").exists()


async def test_an_endpoint_that_breaks_in_the_middle_leaves_what_was_done(tmp_path: Path) -> None:
    broken = streams(choice(content="<think>"), done=False)
    async with ChatServer(streams(*text(cell("print(1)")), ended()), broken, models=MODELS) as server:
        arguments = ("run", "What?", "-m", "sage", "--base-url", server.url, "--out", "kept")
        run = await lzero(*arguments, cwd=tmp_path)
    assert run.code == 1
    assert "failed, through no fault of the agent: engine at step 1" in run.out
    assert len(read_saved(tmp_path / "kept").episode.steps) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "sage", "--base-url", "http://127.0.0.1:9/v1"), "http://127.0.0.1:9/v1"),
        (("--model", "sage", "--base-url", "http://127.0.0.1:9/v1", "--file", "none.csv"), "no such file"),
        (("--model", "sage", "--tool", "web_search"), "SERPER_API_KEY"),
        (("--model", "sage", "--tool", "serach"), 'tools = "serach": did you mean "web_search"?'),
        (("--model", "sage", "--memory", "some"), "memory"),
        (("--file", "none.csv"), "would have no effect without --model"),
        (("--answer", "short", "--max-steps", "3"), "--max-steps, --answer would have no effect without --model"),
        (("--model", "sage", "--corpus", "nowhere"), "nowhere"),
        (("--model", "sage", "--set", "agent.steps=3"), "agent.steps"),
        (("--model", "sage", "--set", "train.lr=1"), "the key belongs to training"),
        (("--model", "sage", "--set", "run.name=x"), "has no effect in `lzero run`"),
        (("--set", "train.lr=1"), "has no effect in `lzero run`"),
        (("--model", "sage", "--out", f"{__file__}"), "is not a directory"),
        (("--model", "sage", "--workspace-out", f"{Path(__file__).parent}"), "not an empty directory"),
        (("--model", "sage", "--workspace-out", f"{__file__}"), "not an empty directory"),
        (
            ("--model", "sage", "--workspace-out", "made", "--out", "made/kept"),
            "contains the directory that the run is saved in",
        ),
        (("--model", "sage", "--workspace-out", "."), "contains the directory that the run is saved in"),
        (("--model", "sage", "--ability", "mats"), "use one of qa, math"),
    ],
)
def test_what_cannot_work_is_told_in_a_sentence_and_leaves_nothing(
    tmp_path: Path,
    arguments: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: no session is started."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    assert exit_code("run", "What?", *arguments) == 1
    errors = capsys.readouterr().err
    assert told in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


async def test_a_workspace_that_cannot_be_taken_out_does_not_take_the_answer_with_it(tmp_path: Path) -> None:
    many = cell("for n in range(5000):\n    open(f'{n}', 'w').close()\nsubmit_final_answer('Kato')")
    some = cell("for n in range(300):\n    open(f'{n}', 'w').write('x')\nsubmit_final_answer('Kato')")
    for code, told in ((many, "there are more than 4,096 files"), (some, "24 more")):
        name = f"kept-{len(code)}"
        async with model(code) as server:
            run = await lzero(
                "run", "Who?", "-m", "sage", "--base-url", server.url, "--out", name, "--workspace-out", f"{name}-made",
                cwd=tmp_path,
            )  # fmt: skip
        assert run.code == 0, run.err
        assert told in " ".join(run.out.split())
        assert read_saved(tmp_path / name).episode.answer == "Kato"


async def test_a_window_smaller_than_the_prompt_is_told(tmp_path: Path) -> None:
    async with model(cell("submit_final_answer(1)")) as server:
        arguments = ("run", "?", "-m", "sage", "--base-url", server.url, "--out", "kept", "--max-tokens", "300")
        run = await lzero(*arguments, cwd=tmp_path)
    assert run.code == 1
    assert "max_tokens = 300 is too small for the prompt and a reply" in run.out


async def test_a_terminal_without_the_characters_and_a_hostile_server_change_nothing(tmp_path: Path) -> None:
    """In a Python of its own: it is Python that gives its streams their encoding."""
    async with model(cell("print('北京')\nsubmit_final_answer('→ é')")) as server:
        command = (sys.executable, "-c", "from lzero.cli import main; main()", "run", "?", "-m", "sage")
        process = await asyncio.create_subprocess_exec(
            *command, "--base-url", server.url, "--out", "kept",
            cwd=tmp_path,
            env=environment() | {"PYTHONIOENCODING": "ascii"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    run = await lzero("show", "no\x1b[2J\x1b]0;title\x07where", cwd=tmp_path)
    assert "lzero: there is no saved episode at nowhere" in run.err
    assert "\x1b" not in run.err
