"""Bad code and templates of a user give one clear message and an exit code, and leave what was written."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import exit_code

from lzero.data.world import POLICIES
from lzero.store import read_records

pytestmark = pytest.mark.integration
CODE = """
from lzero.errors import ToolError
from lzero.tools import tool


@tool
def raises(name: str) -> str:
    \"\"\"Never works.\"\"\"
    raise TimeoutError("the directory hung up")


@tool
def leaves(name: str) -> str:
    \"\"\"Ends the process, as it thinks.\"\"\"
    raise SystemExit(3)


@tool
def gives(name: str) -> object:
    \"\"\"Gives what is not JSON.\"\"\"
    return object()


def plain(name: str) -> str:
    \"\"\"Is no tool.\"\"\"
    return name


number = 3
"""
MODULES = {
    "mine": CODE,
    "divides": "1 / 0\n",
    "exits": "import sys\nsys.exit(4)\n",
    "unfinished": "def tool(:\n",
    "lacks": "import no_such_library\n",
    "mistyped": "from lzero.tools import tool\n\n\n@tool\ndef find(name):\n    '''Find.'''\n",
    "named": "from lzero.tools import tool\n\n\n@tool\ndef print(name: str) -> None:\n    '''Print.'''\n",
}
IMPORTS = [
    ("mine:raise", "the module 'mine' has no 'raise'; did you mean 'raises'?"),
    ("mine:plain", "'mine:plain' is not a tool: it has no name, parameters, description, call (put @tool"),
    ("mine:number", "'mine:number' is not a tool"),
    (
        "divides:tool",
        "cannot import 'divides' of 'divides:tool': ZeroDivisionError: division by zero (divides.py, line 1)",
    ),
    ("exits:tool", "cannot import 'exits' of 'exits:tool': SystemExit: 4 (exits.py, line 2)"),
    ("unfinished:tool", "cannot import 'unfinished' of 'unfinished:tool': SyntaxError: invalid syntax"),
    ("lacks:tool", "cannot import 'lacks' of 'lacks:tool': No module named 'no_such_library'"),
    ("mistyped:find", "TypeError: the tool find needs a type for name, as in name: str (mistyped.py, line 4)"),
    ("named:print", "TypeError: a tool cannot be called 'print': it would hide a name of Python or of the session"),
]
TEMPLATES = [
    ("{{ 1 // 0 }}", "line 1: ZeroDivisionError: "),
    ("All.\n{{ toolz }}", "line 2: 'toolz' is undefined"),
    ("{% for tool in tools %}", "line 1: Unexpected end of template"),
    ("{{ tools.missing.name }}", "has no attribute 'missing'"),
    ("{{ 'a' + 1 }}", "TypeError: "),
    ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError: "),
    (
        "{% for a in range(9999) %}{% for b in range(9999) %}endless{% endfor %}{% endfor %}",
        "more than 1,000,000 characters",
    ),
    ("{% extends 'nowhere.jinja' %}", "nowhere.jinja"),
    ("{% include 'prompt.jinja' %}", "RecursionError: "),
]
RUN = ("run", "Who?", "--model", "any", "--base-url", "http://127.0.0.1:9/v1", "--out", "kept")


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def complaint(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `lzero` with these arguments, and return the one message that it ends with."""

    def run(*arguments: str) -> str:
        assert exit_code(*arguments) == 1
        errors = capfd.readouterr().err
        assert errors.count("lzero: ") == 1
        assert "Traceback" not in errors
        return errors.partition("lzero: ")[2]

    return run


def commands(key: str, value: str) -> list[tuple[str, ...]]:
    """Return the commands that read this key of [agent]."""
    change = f'agent.{key}=["{value}"]' if key == "tools" else f"agent.{key}={value}"
    return [
        (*RUN, "--set", change),
        ("eval", "engine.kind=scripted", "engine.policy=expert", "run.dir=run", change),
        ("train", "model.path=nowhere", "run.dir=run", change),
        ("play", "--policy", "expert", change),
    ]


@pytest.mark.parametrize(("path", "told"), IMPORTS, ids=[path for path, _ in IMPORTS])
def test_an_import_path_that_gives_no_tool_is_an_error_before_anything_starts(
    complaint: Callable[..., str], path: str, told: str
) -> None:
    for command in commands("tools", path):
        message = complaint(*command)
        assert told in message, command[0]
        assert message.count("\n") == 1
    assert not Path("run").exists()
    assert not Path("kept").exists()


def test_a_reward_is_imported_as_tools_are(complaint: Callable[..., str]) -> None:
    for command in (("eval", "engine.kind=scripted", "engine.policy=expert"), ("train", "model.path=nowhere")):
        assert "reward.function: cannot import 'exits'" in complaint(
            *command, "run.dir=run", "reward.function=exits:reward"
        )
        assert "has no 'raise'" in complaint(*command, "run.dir=run", "reward.function=mine:raise")
    assert not Path("run").exists()


@pytest.mark.parametrize(("text", "told"), TEMPLATES, ids=[told for _, told in TEMPLATES])
def test_a_prompt_template_that_fails_is_an_error_before_anything_starts(
    complaint: Callable[..., str], text: str, told: str
) -> None:
    Path("prompt.jinja").write_text(text, encoding="utf-8")
    file = str(Path("prompt.jinja").absolute())  # templates are read once for each path
    for command in commands("prompt", file):
        message = complaint(*command)
        assert told in message, command[0]
        assert "agent.prompt = " in message
    assert not Path("run").exists()
    assert not Path("kept").exists()


@pytest.mark.sandbox
def test_tools_that_fail_in_every_episode_stop_the_run_with_their_words_and_what_there_is_stays(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("raises", "leaves", "gives")

    def call(transcript: str, seed: int) -> str:
        return f"<think>I ask a tool.</think>\n<code>\n{names[seed % 3]}('Liri')\n</code>"

    monkeypatch.setitem(POLICIES, "caller", call)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    tools = ", ".join(f'"mine:{name}"' for name in names)
    settings = ("eval.num_tasks=40", "rollout.max_failure_rate=0.2", "run.dir=run", f"agent.tools=[{tools}]")
    assert exit_code("eval", "engine.kind=scripted", "engine.policy=caller", *settings) == 1
    errors = capfd.readouterr().err
    (message,) = [line for line in errors.splitlines() if line.startswith("lzero: ")]
    assert "13 of the last 13 episodes failed: tool 13. Last: tool at step 0, running a cell: " in message
    assert "raises raised TimeoutError: the directory hung up" in message
    assert "leaves raised SystemExit: 3" in message
    assert "gives returned a value of type object, which is not JSON" in message
    log = Path("run/run.log").read_text(encoding="utf-8")
    assert log.count("Traceback") == errors.count("Traceback") == 2
    assert log.count("mine.py") == 2
    assert "lzero/cli" not in errors
    assert Path("run/config.toml").exists()
    assert not list(read_records(Path("run"), phase="eval", update=0))


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    waits = "import threading\nthreading.Thread(target=threading.Event().wait, name='forever').start()\n"
    Path("waits.py").write_text(waits, encoding="utf-8")
    program = "import lzero.cli; lzero.cli.THREADS_S = 0.1; lzero.cli.main()"
    command = (sys.executable, "-c", program, *RUN, "--tool", "waits:tool")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "the module 'waits' has no 'tool'" in ended.stderr
    assert ended.stderr.endswith("lzero: threads that did not end are left behind: forever\n")
