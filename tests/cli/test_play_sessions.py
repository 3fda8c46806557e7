"""`lzero play` as it is used: by a person at a pipe, by a scripted policy, and broken off."""

import json
import os
import signal
from pathlib import Path

import pytest
from commands import Command, Ended, exit_code, lzero

from lzero.data.world import WorldSource
from lzero.rollout.compose import EVAL_SEED

pytestmark = pytest.mark.sandbox

BYTES = ("engine.kind=scripted", "engine.policy=expert", "agent.max_tokens=8000", "agent.response_tokens=500")


def play(*arguments: str, typed: str = "", directory: Path | None = None) -> Ended:
    return lzero("play", *BYTES, *arguments, typed=typed, directory=directory)


def test_a_person_plays_through_a_pipe() -> None:
    task = WorldSource(EVAL_SEED, "eval").task(0)
    start = task.passages[[passage.title in task.question for passage in task.passages].index(True)]
    first = f'found = search("{start.title}")\nprint(found)\n\n'
    second = f'<think>It stands there.</think>\n<code>\nsubmit_final_answer("{task.answers[0]}")\n</code>\n'
    done = play(typed=first + second)
    assert done.code == 0, done.err
    assert "You are the agent" in done.out
    assert f"<|im_start|>user\n{task.question}\n[6 steps and 8000 tokens left]<|im_end|>" in done.out
    assert f"<output>\n{start.title}: {start.text}" in done.out
    assert "[5 steps and 7" in done.out
    assert "score   1\n" in done.out
    assert done.err == ""


def test_a_session_has_the_files_and_the_tools_of_its_task(tmp_path: Path) -> None:
    (tmp_path / "bikes.csv").write_text("day,bikes\nMon,4\n", "utf-8")
    passage = {"title": "Liri", "text": "rival Kato"}
    rows = (
        {"question": "How many?", "answer": 4, "files": ["bikes.csv"]},
        {"question": "Who?", "answer": "Kato", "passages": [passage]},
    )
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "shelves.py").write_text(
        'from lzero.tools import tool\n\n@tool\ndef shelf(title: str) -> str:\n    """A place."""\n    return title\n',
        "utf-8",
    )
    tasks = (f"tasks.eval={tmp_path / 't.jsonl'}", 'agent.tools=["shelves:shelf"]', "agent.prompt=full")
    code = "import os\nprint(os.listdir(), open('bikes.csv').read(), 'search' in globals(), shelf('x'))\n\n"
    done = play(*tasks, typed=code, directory=tmp_path)
    assert done.code == 0, done.err
    assert "Tools: shelf(title), submit_final_answer(answer).\n" in done.out
    assert "In the working directory: bikes.csv." in done.out
    assert "- search(" not in done.out
    assert "['bikes.csv'] day,bikes\nMon,4\n False x" in done.out
    done = play(*tasks, "--index", "1", typed="print(search('Liri'))\n\n", directory=tmp_path)
    assert "Tools: search(query), shelf(title), submit_final_answer(answer).\n" in done.out
    assert "- search(query" in done.out
    assert "Liri: rival Kato" in done.out


def test_a_scripted_policy_plays_step_by_step() -> None:
    done = play("--policy", "expert", "--index", "2")
    assert done.code == 0, done.err
    assert done.out.count("<output>") == 3
    assert "status  finished, 4 of 6 steps" in done.out
    assert "reward  1 = qa 0.8, format 0.1, execution 0.1" in done.out


def test_a_policy_of_ones_own_has_the_budgets_of_a_scripted_engine(tmp_path: Path) -> None:
    (tmp_path / "lengthy.py").write_text(
        "def policy(transcript, seed):\n"
        "    return '<think>' + 'well, ' * 40 + '</think><code>submit_final_answer(1)</code>'\n"
    )
    done = lzero("play", "--policy", "lengthy:policy", directory=tmp_path)
    assert done.code == 0, done.err
    assert "status  finished, 1 of 6 steps" in done.out


def test_the_end_of_the_input_gives_up() -> None:
    done = play(typed="print(1)\n\n")
    assert done.code == 0
    assert done.out.endswith("you gave up.\n")
    assert done.err == ""


def test_ctrl_c_ends_cleanly() -> None:
    command = Command("play", *BYTES)
    assert any("assistant" in line for line in command.stdout), "it has ended"
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
    ended = command.end()
    assert (ended.code, ended.err) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "exprt"), 'did you mean "expert"?'),
        (("agent.max_stepz=1",), "did you mean 'agent.max_steps'?"),
        (("agent.prompt=nowhere.txt",), 'neither "brief" nor "full"'),
    ],
)
def test_bad_input_is_one_message(arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capfd, *arguments)


def test_a_scripted_policy_knows_the_world_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"question": "Who?", "answer": "Kato"}\n', encoding="utf-8")
    assert "only the built-in world" in refusal(capfd, "--policy", "expert", f"tasks.eval={tasks}")
    assert "has 1 tasks" in refusal(capfd, "--index", "1", f"tasks.eval={tasks}")


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the message with which `lzero play` ends, in this process, without a session."""
    assert exit_code("play", *BYTES, *arguments) == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    return errors
