"""Bad input: one clear message, a non-zero exit code, and no harm to what is there."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import make_run
from commands import exit_code

pytestmark = pytest.mark.integration
COMMAND = (sys.executable, "-c", "from lzero.cli import main; main()")
IN_A_MOUNT_NAMESPACE = ("unshare", "--user", "--map-root-user") if os.geteuid() else ("unshare",)
AS_A_USER = "unshare --user --map-user=1000" if os.geteuid() else ""
"""bubblewrap wants to be started as an ordinary user, which whoever mounts is not."""
Complaint = Callable[..., str]


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complaint:
    """Run `lzero` with these arguments in an empty directory, and return the output of its failure."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        assert exit_code(*arguments) == 1
        return one_message(capsys.readouterr().err)

    return run


def one_message(errors: str) -> str:
    assert errors.startswith("lzero: ")
    assert errors.count("lzero: ") == 1
    assert "Traceback" not in errors
    return errors


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a model directory that a test may break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


# The sandbox


def test_without_bubblewrap_the_message_is_the_command_that_installs_it(
    complaint: Complaint, tiny_run: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("unshare", "setpriv"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    for command in (("train", *tiny_run), ("eval", "engine.kind=scripted", "engine.policy=expert")):
        assert "apt-get install bubblewrap" in complaint(*command, "run.dir=run")
        assert not (tmp_path / "run").exists()


@pytest.mark.sandbox
def test_a_kernel_that_forbids_namespaces_is_told_with_the_way_out(tmp_path: Path) -> None:
    """A user namespace in which there can be one more, ours, and none below it."""
    script = 'echo 1 > /proc/sys/user/max_user_namespaces; exec unshare --user --map-user=1000 -- "$@"'
    outer = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    if subprocess.run((*outer, "true"), capture_output=True, check=False).returncode:
        pytest.skip("this machine does not nest user namespaces")
    done = lzero(
        *outer,
        *COMMAND,
        "eval",
        "engine.kind=scripted",
        "engine.policy=expert",
        "eval.num_tasks=1",
        "run.dir=run",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    warning, _, error = done.stderr.partition("\n")
    assert "Without control groups" in warning  # this user has none
    message = one_message(error)
    assert "forbids user namespaces" in message
    assert "sysctl" in message
    assert not (tmp_path / "run").exists()


# The model


def test_a_missing_model_directory(complaint: Complaint) -> None:
    assert "model 'nowhere': no such directory" in complaint("train", "model.path=nowhere", "run.dir=run")
    assert "hf download Qwen/Qwen3-0.6B" in complaint("eval", "model.path=Qwen/Qwen3-0.6B", "run.dir=run")
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_model_file_cut_in_half(complaint: Complaint, model: Path, name: str, command: str) -> None:
    cut_in_half(model / name)
    message = complaint(command, f"model.path={model}", "run.dir=run")
    assert f"{model / name} is" in message
    assert "truncated" in message
    assert not Path("run").exists()


def test_a_tokenizer_without_chat_template(complaint: Complaint, model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    assert "the tokenizer has no chat template" in complaint("train", f"model.path={model}", "run.dir=run")
    assert not Path("run").exists()


# Tasks


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"question": "c?", "answers": []}', "field `answers` is empty: give at least one gold answer"),
        ('{"question": "c?", "answer": [" "]}', "field `answer` holds an empty answer"),
        ('{"question": "c?", "answer": {"text": "d"}}', "field `answer` holds an object"),
        ('{"question": 3.5, "answer": null}', "field `answer` is empty"),
        ('{"answer": "d"}', "has no field `question`. It has `answer`."),
        ('{"question": "c?", "answer": "d", "hops": "two"}', "field `hops` is 'two'"),
        ('{"question": "c?", "answer": "d", "passages": [{"title": "t"}]}', "field `passages[0]` holds nothing"),
        ('{"question": "c?", "ans', "is not JSON in UTF-8"),
    ],
)
def test_a_bad_row_is_told_with_its_file_line_and_field(complaint: Complaint, row: str, problem: str) -> None:
    Path("tasks.jsonl").write_text(f'{{"question": "a?", "answer": "b"}}\n\n{row}\n')
    for key in ("tasks.train", "tasks.eval"):
        message = complaint("train", f"{key}=tasks.jsonl", "run.dir=run")
        assert message.startswith(f"lzero: {key}: line 3 of tasks.jsonl")
        assert problem in message
    assert problem in complaint("check", "tasks.train=tasks.jsonl")
    assert not Path("run").exists()


def test_a_task_file_that_is_missing_or_no_parquet(complaint: Complaint) -> None:
    assert "missing.jsonl" in complaint("train", "tasks.train=missing.jsonl", "run.dir=run")
    Path("tasks.parquet").write_text("not Parquet")
    assert "not a whole Parquet file" in complaint("eval", "tasks.eval=tasks.parquet", "run.dir=run")


# The configuration


def test_an_unknown_key_suggests_the_nearest(complaint: Complaint) -> None:
    assert complaint("train", "algo.kl_coeff=1") == "lzero: unknown key 'algo.kl_coeff'; did you mean 'algo.kl_coef'?\n"
    Path("recipe.toml").write_text("[algo]\nkl_coff = 0.1\n")
    assert "did you mean 'algo.kl_coef'?" in complaint("train", "recipe.toml")


def test_broken_toml_is_told_with_its_place(complaint: Complaint) -> None:
    Path("recipe.toml").write_text("[algo]\nkl_coef = = 1\n")
    message = complaint("train", "recipe.toml")
    assert "recipe.toml is not valid TOML" in message
    assert "line 2" in message


def test_a_value_of_the_wrong_type_names_its_key(complaint: Complaint) -> None:
    assert "train.updates = 'many'" in complaint("train", "train.updates=many")


def test_settings_that_cannot_work_together_are_refused_before_anything_is_started(complaint: Complaint) -> None:
    message = complaint("train", "train.epochs=2", "model.path=missing", "run.dir=run")
    assert message.startswith(
        'lzero: algo.loss = "policy_gradient" is correct only for the policy that sampled, but train.epochs = 2'
    )
    assert "a batch needs at least two episodes" in complaint(
        "train", "rollout.tasks_per_update=1", "rollout.episodes_per_task=1"
    )
    for setting, problem in (
        ("engine.transfer=nccl", "needs the trainer on a GPU"),
        ("rollout.temperature=3", "temperature"),
    ):
        assert problem in complaint("train", "engine.kind=vllm", setting, "model.path=missing", "run.dir=run")
    assert not Path("run").exists()


# The run directory


def test_an_existing_run_directory_is_left_alone(complaint: Complaint) -> None:
    Path("run").mkdir()
    Path("run/mine.txt").write_text("do not touch")
    for command in ("train", "eval"):
        assert "the run directory run exists" in complaint(command, "model.path=nowhere", "run.dir=run")
    assert [file.name for file in Path("run").iterdir()] == ["mine.txt"]


def test_a_directory_that_is_no_run_cannot_be_resumed(complaint: Complaint) -> None:
    Path("run").mkdir()
    for name in ("run", "nowhere"):
        assert f"{name} is not a run directory" in complaint("train", "--resume", name)


# The disk


def lzero(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


FULL_DISK = f"""
mount -t tmpfs -o size=160k tmpfs disk
{AS_A_USER} "$@"
code=$?
cp -a disk/run .
exit $code
"""


@pytest.mark.sandbox
def test_a_full_disk_stops_a_run_which_goes_on_once_there_is_room(
    tiny_run: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for the records of the first update, and for half of its checkpoint."""
    (tmp_path / "disk").mkdir()
    shell = (*IN_A_MOUNT_NAMESPACE, "--mount", "--propagation", "private", "sh", "-c")
    if lzero(*shell, f"mount -t tmpfs tmpfs disk && {AS_A_USER} true", cwd=tmp_path).returncode:
        pytest.skip("this machine mounts nothing for us")
    done = lzero(*shell, FULL_DISK, "sh", *COMMAND, "train", *tiny_run, "run.dir=disk/run", cwd=tmp_path)
    assert done.returncode == 1
    message = one_message(done.stderr)
    assert "cannot write the checkpoint disk/run/checkpoints/update-000001" in message
    assert "No space left on device" in message
    monkeypatch.chdir(tmp_path)
    assert exit_code("train", "--resume", "run") == 0


def test_a_full_disk_loses_lines_of_the_log_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    (run.path / "run.log").symlink_to("/dev/full")
    with run.logged():
        logging.getLogger("lzero.somewhere").info("a line")
    assert capsys.readouterr().err == ""


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
