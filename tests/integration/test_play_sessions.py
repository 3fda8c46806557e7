"""`lzero play` as it is used: by a person at a pipe, by a scripted policy, and broken off."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lzero.cli import main
from lzero.data.world import WorldSource
from lzero.rollout.build import EVAL_SEED

pytestmark = pytest.mark.sandbox

BYTES = ("model.path=policy:expert", "agent.max_tokens=8000", "agent.response_tokens=500")
COMMAND = (sys.executable, "-c", "from lzero.cli import main; main()", "play")


def play(*arguments: str, typed: str = "", cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *BYTES, *arguments], input=typed, capture_output=True, text=True, timeout=100, check=False, cwd=cwd
    )


def test_a_person_plays_through_a_pipe() -> None:
    task = WorldSource(EVAL_SEED, "eval").task(0)
    start = task.passages[[passage.title in task.question for passage in task.passages].index(True)]
    first = f'found = search("{start.title}")\nprint(found)\n\n'
    second = f'<think>It stands there.</think>\n<code>\nsubmit_final_answer("{task.answers[0]}")\n</code>\n'
    done = play(typed=first + second)
    assert done.returncode == 0, done.stderr
    assert "You are the agent" in done.stdout
    assert f"<|im_start|>user\n{task.question}\n[6 steps and 8000 tokens left]<|im_end|>" in done.stdout
    assert f"<output>\n{start.title}: {start.text}" in done.stdout
    assert "[5 steps and 7" in done.stdout
    assert "score   1\n" in done.stdout
    assert done.stderr == ""


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
    done = play(*tasks, typed=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Tools: shelf(title), submit_final_answer(answer).\n" in done.stdout
    assert "In the working directory: bikes.csv." in done.stdout
    assert "- search(" not in done.stdout
    assert "['bikes.csv'] day,bikes\nMon,4\n False x" in done.stdout
    done = play(*tasks, "--index", "1", typed="print(search('Liri'))\n\n", cwd=tmp_path)
    assert "Tools: search(query), shelf(title), submit_final_answer(answer).\n" in done.stdout
    assert "- search(query" in done.stdout
    assert "Liri: rival Kato" in done.stdout


def test_a_scripted_policy_plays_step_by_step() -> None:
    done = play("--policy", "expert", "--index", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("<output>") == 3
    assert "status  finished, 4 of 6 steps" in done.stdout
    assert "reward  1.00 = qa 0.80, format 0.10, execution 0.10" in done.stdout


def test_the_end_of_the_input_gives_up() -> None:
    done = play(typed="print(1)\n\n")
    assert done.returncode == 0
    assert done.stdout.endswith("you gave up.\n")
    assert done.stderr == ""


def test_ctrl_c_ends_cleanly() -> None:
    process = subprocess.Popen(
        [*COMMAND, *BYTES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while "assistant" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "exprt"), "lzero: --policy exprt: did you mean expert?"),
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
    """What `lzero play` ends with, in this process: it starts no session."""
    with pytest.raises(SystemExit) as ended:
        main(("play", *BYTES, *arguments))
    assert ended.value.code == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    return errors
