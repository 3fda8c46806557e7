"""The README runs: every `lzero` command in it is executed as it stands, only on less, with the files that it names."""

import gzip
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import exit_code

from lzero.models import Qwen3Sizes, build_tokenizer, new_model, save_model

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LZERO = Path(sysconfig.get_path("scripts")) / "lzero"
SMALL = {
    "train": (
        "train.updates=1",
        "rollout.tasks_per_update=2",
        "rollout.episodes_per_task=2",
        "rollout.max_refills=0",
        "agent.max_steps=2",
        "agent.response_tokens=32",
        "eval.num_tasks=2",
        "eval.sampled_episodes=0",
    ),
    "eval": ("eval.num_tasks=2",),
    "sft": ("sft.tokens=1000",),
}
"""Arguments added to a command, so that it takes seconds."""


def shell_lines() -> Iterator[str]:
    """Yield the lines of the fenced blocks with commands: those of `sh`, and those without a language."""
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```$", without_other_blocks(README), re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def without_other_blocks(text: str) -> str:
    """Return `text` without fenced blocks of other languages, so that their ends are not read as beginnings."""
    return re.sub(r"^```(?!sh$)\w+\n.*?^```$\n?", "", text, flags=re.DOTALL | re.MULTILINE)


COMMANDS = [line for line in shell_lines() if line.startswith("lzero ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with what the README's commands name: a model, tasks, a corpus, the recipes."""
    path = tmp_path_factory.mktemp("readme")
    sizes = Qwen3Sizes(
        hidden_size=16, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=16, mlp_size=16, max_tokens=32_768
    )
    tokenizer = build_tokenizer()
    save_model(new_model(sizes, tokenizer, seed=0), tokenizer, path / "Qwen3-0.6B")
    for name, places in (("train", ("Rome", "Oslo", "Lima")), ("dev", ("Bern", "Cairo"))):
        rows = [{"question": f"Who founded {place}?", "answers": [f"the founder of {place}"]} for place in places]
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with gzip.open(path / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"title": "Rome", "text": "Founded by the founder of Rome."}) + "\n")
    shutil.copytree(ROOT / "recipes", path / "recipes")
    for block in re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        (path / block.splitlines()[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    return path


def test_the_readme_holds_commands_to_run() -> None:
    assert {line.split()[1] for line in COMMANDS} >= {"train", "eval", "check", "play"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_runs(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported torch already; that the script `lzero` starts is shown below."""
    words = shlex.split(command, comments=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.stdin", io.StringIO())  # whoever is asked to play gives up
    assert exit_code(*words[1:], *SMALL.get(words[1], ())) == 0, f"{command}\n{capfd.readouterr()}"
    for name in [path.stem for path in folder.glob("*.py")]:
        sys.modules.pop(name, None)


def test_the_script_starts() -> None:
    done = subprocess.run([LZERO, "--help"], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_make_knows_the_targets_that_the_readme_names() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {line.split()[1] for line in shell_lines() if line.startswith("make ")}
    assert named >= {"demo", "test"}
    assert named <= targets


def test_the_readme_puts_lzero_on_the_path_before_it_calls_it() -> None:
    lines = list(shell_lines())
    environment = re.search(r"^VENV := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert environment is not None
    assert lines.index(f". {environment[1]}/bin/activate") < lines.index(COMMANDS[0])
