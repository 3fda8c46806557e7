"""`lzero export`: what other programs are given."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import exit_code
from transformers import AutoModelForCausalLM, AutoTokenizer

from lzero.config import load_config
from lzero.models import load_model, load_tokenizer
from lzero.store import RunDirectory
from lzero.train.checkpoint import Progress, save_checkpoint, take_snapshot

pytestmark = pytest.mark.integration
SCORES = {1: 0.25, 2: 0.75, 3: 0.5}


def run_of(model_dir: Path, directory: Path) -> Path:
    """Make a run of three checkpoints, the second of which is the best."""
    config = load_config(overrides=[f"model.path={model_dir}", f"run.dir={directory}"])
    run = RunDirectory.create(config)
    model, tokenizer = load_model(model_dir, dtype="float32", device="cpu"), load_tokenizer(model_dir)
    for update, score in SCORES.items():
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.5)
        progress = Progress(update=update)
        snapshot = take_snapshot(model, tokenizer, [], config=config, progress=progress, score=score)
        save_checkpoint(run.checkpoints, snapshot, keep=3)
    return run.path


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(tiny_model, tmp_path_factory.mktemp("runs") / "run")


def export(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command, and return exit code and errors."""
    return exit_code("export", *map(str, arguments)), capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "update"), [((), 3), (("--checkpoint", "best"), 2), (("--checkpoint", "update-000001"), 1)]
)
def test_transformers_loads_the_checkpoint_that_was_meant(
    run: Path, tmp_path: Path, options: tuple[str, ...], update: int, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "model"
    assert export(run, target, *options, capsys=capsys)[0] == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    checkpoint = run / "checkpoints" / f"update-{update:06d}"
    own = load_model(checkpoint, dtype="float32", device="cpu")
    messages = [{"role": "user", "content": "Where is Fura?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.all_special_tokens == load_tokenizer(checkpoint).all_special_tokens
    assert ids.tolist() == [load_tokenizer(checkpoint)(text).input_ids]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, own(ids).logits)
    assert not list(target.glob("trainer.*"))
    assert {file.stat().st_mode & 0o777 for file in target.iterdir()} == {0o644}


def test_what_transformers_5_renamed_is_there_by_its_earlier_name_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "model", capsys=capsys)[0] == 0
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["rope_theta"], config["torch_dtype"]) == (100.0, "float32")
    settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<|im_start|>"]
    assert "extra_special_tokens" not in settings


def test_scaled_positions_are_told_both_ways_and_mean_the_same(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled = shutil.copytree(tiny_model, tmp_path / "scaled")
    config = json.loads((scaled / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    config |= {"max_position_embeddings": 128, "rope_parameters": {**scaling, "rope_theta": 100.0}}
    (scaled / "config.json").write_text(json.dumps(config))
    run = run_of(scaled, tmp_path / "run")
    assert export(run, tmp_path / "model", capsys=capsys)[0] == 0
    assert json.loads((tmp_path / "model" / "config.json").read_text())["rope_scaling"].items() >= scaling.items()
    ids = torch.arange(100).unsqueeze(0)
    models = [
        load_model(path, dtype="float32", device="cpu")
        for path in (run / "checkpoints/update-000003", tmp_path / "model")
    ]
    with torch.no_grad():
        assert torch.equal(models[0](ids).logits, models[1](ids).logits)


def test_a_directory_that_holds_something_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        code, errors = export(run, target, capsys=capsys)
        assert (code, "is not an empty directory" in errors) == (1, True)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert export(run, tmp_path / "empty", capsys=capsys)[0] == 0


def test_what_is_not_there_or_not_whole_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model"
    code, errors = export(run, target, "--checkpoint", "update-000007", capsys=capsys)
    assert (code, "has no checkpoint update-000007; it has update-000003, update-000002" in errors) == (1, True)
    code, errors = export(tmp_path, target, capsys=capsys)
    assert (code, "is not a run directory" in errors) == (1, True)
    code, errors = export(run, target, "--adapter", capsys=capsys)
    assert (code, "has no adapter, because lora.rank was 0" in errors) == (1, True)
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "checkpoints" / "update-000003" / "model.safetensors").write_bytes(b"")
    code, errors = export(broken, target, "--checkpoint", "update-000003", capsys=capsys)
    assert (code, "is truncated" in errors) == (1, True)
    assert not target.exists()
