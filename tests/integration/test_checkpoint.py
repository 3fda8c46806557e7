from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lzero.config import Config
from lzero.errors import LzeroError, ModelError, StoreError
from lzero.models import Architecture, build_tokenizer, load_model, load_tokenizer, new_model
from lzero.train import checkpoint
from lzero.train.checkpoint import (
    Progress,
    checkpoints,
    newest_checkpoint,
    read_manifest,
    restore_optimizers,
    save_checkpoint,
    take_snapshot,
)
from lzero.train.update import make_adamw

TINY = Architecture(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_size=24)
TOKENIZER = build_tokenizer()


def trained(num_steps: int) -> tuple[Any, torch.optim.Optimizer]:
    model = new_model(TINY, TOKENIZER, seed=0)
    optimizer = make_adamw(model, lr=1e-2, weight_decay=0.01)
    for number in range(num_steps):
        step(model, optimizer, number)
    return model, optimizer


def step(model: Any, optimizer: torch.optim.Optimizer, number: int) -> None:
    ids = torch.arange(8).unsqueeze(0) + number
    loss = model(input_ids=ids, labels=ids).loss
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def save(directory: Path, update: int, *, keep: int = 2) -> Path:
    model, optimizer = trained(update)
    progress = Progress(update=update, collector={"next_task": 10 * update})
    snapshot = take_snapshot(model, TOKENIZER, [optimizer], config=Config(), progress=progress)
    return save_checkpoint(directory, snapshot, keep=keep)


def test_training_goes_on_from_a_checkpoint_bit_by_bit(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = save(tmp_path, 3)
    drawn = torch.rand(4)
    model = load_model(path, dtype="float32", device="cpu")
    optimizer = make_adamw(model, lr=1e-2, weight_decay=0.01)
    restore_optimizers(path, [optimizer])
    assert torch.equal(torch.rand(4), drawn)
    for number in (3, 4):
        step(model, optimizer, number)
    for name, tensor in trained(5)[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert read_manifest(path).progress == Progress(update=3, collector={"next_task": 30})


def test_a_checkpoint_is_a_model_directory_without_pickles(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert load_tokenizer(path).get_vocab() == TOKENIZER.get_vocab()
    assert {file.suffix for file in path.iterdir()} <= {".json", ".safetensors", ".jinja"}


def test_a_tokenizer_with_several_chat_templates_is_saved_whole(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ messages }}"}
    model, optimizer = trained(1)
    snapshot = take_snapshot(model, tokenizer, [optimizer], config=Config(), progress=Progress(update=1))
    path = save_checkpoint(tmp_path, snapshot, keep=2)
    assert read_manifest(path).progress == Progress(update=1)
    assert load_tokenizer(path).chat_template == tokenizer.chat_template
    extra = path / "additional_chat_templates" / "tool_use.jinja"
    extra.unlink()
    with pytest.raises(StoreError, match=str(extra)):
        read_manifest(path)


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path, update, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["update-000003", "update-000002"]
    assert newest_checkpoint(tmp_path) == tmp_path / "update-000003"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-000002", "update-000003"]


def test_a_directory_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.safetensors", "trainer.json", "config.json"])
@pytest.mark.parametrize("damage", [cut_in_half, Path.unlink])
def test_a_broken_checkpoint_names_the_file_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    broken = save(tmp_path, 2) / name
    damage(broken)
    with pytest.raises(StoreError, match=str(broken)):
        read_manifest(broken.parent)
    assert newest_checkpoint(tmp_path) == tmp_path / "update-000001"
    assert str(broken) in caplog.text


def test_when_all_checkpoints_are_broken_each_file_is_named(tmp_path: Path) -> None:
    files = [save(tmp_path, update) / "model.safetensors" for update in (1, 2)]
    for file in files:
        cut_in_half(file)
    with pytest.raises(StoreError, match="no whole checkpoint") as caught:
        newest_checkpoint(tmp_path)
    assert all(str(file) in str(caught.value) for file in files)


def test_a_save_that_fails_leaves_the_earlier_ones_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def full_disk(tensors: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(StoreError, match=r"update-000002.*No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["update-000001"]
    assert newest_checkpoint(tmp_path) == tmp_path / "update-000001"


def test_what_a_killed_run_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    for name in (".update-000001", ".update-000007.old", "..update-000007-x1y2", ".mine"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) is None
    path = save(tmp_path, 1)
    assert sorted(found.name for found in tmp_path.iterdir()) == [".mine", path.name]


def test_saving_the_same_update_again_replaces_it(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "model.safetensors").unlink()
    assert save(tmp_path, 1) == path
    assert read_manifest(path).progress.update == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    wider = new_model(Architecture(hidden_size=32, num_layers=1, num_heads=2, head_dim=8), TOKENIZER, seed=0)
    with pytest.raises(StoreError, match="has shape"):
        restore_optimizers(path, [make_adamw(wider, lr=1e-2, weight_decay=0.0)])


def test_a_checkpoint_whose_tensors_are_garbage_is_one_clear_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name in ("model.safetensors", "trainer.safetensors"):
        file = path / name
        file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(path, dtype="float32", device="cpu")
    with pytest.raises(LzeroError, match=r"trainer\.safetensors"):
        restore_optimizers(path, [trained(0)[1]])
