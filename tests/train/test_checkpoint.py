import asyncio
import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from adamw import make_adamw
from builders import TINY

from lzero.config import Config, TrainConfig
from lzero.errors import LzeroError, ModelError, StoreError
from lzero.models import Qwen3Sizes, build_tokenizer, load_model, load_tokenizer, new_model
from lzero.train import checkpoint
from lzero.train.checkpoint import (
    Progress,
    Snapshot,
    best_checkpoint,
    checkpoints,
    newest_checkpoint,
    read_manifest,
    restore_optimizers,
    save_checkpoint,
    take_snapshot,
)
from lzero.train.optimizers import make_optimizers, set_rate
from lzero.train.saver import Saver

pytestmark = pytest.mark.integration
TOKENIZER = build_tokenizer()


def trained(num_steps: int) -> tuple[Any, torch.optim.Optimizer]:
    model = new_model(TINY, TOKENIZER, seed=0)
    optimizer = make_adamw(model, lr=1e-2, weight_decay=0.01)
    for number in range(num_steps):
        step(model, optimizer, number)
    return model, optimizer


def step(model: Any, optimizer: torch.optim.Optimizer, number: int, *others: torch.optim.Optimizer) -> None:
    ids = torch.arange(8).unsqueeze(0) + number
    loss = model(input_ids=ids, labels=ids).loss
    for each in (optimizer, *others):
        each.zero_grad()
    torch.autograd.backward(loss)
    for each in (optimizer, *others):
        each.step()


def save(directory: Path, update: int, *, keep: int = 2, score: float | None = None) -> Path:
    model, optimizer = trained(update)
    progress = Progress(update=update, stream={"next_task": 10 * update})
    snapshot = take_snapshot(model, TOKENIZER, [optimizer], config=Config(), progress=progress, score=score)
    return save_checkpoint(directory, snapshot, keep=keep, keep_best=score is not None)


def test_training_goes_on_from_a_checkpoint_bit_by_bit(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = save(tmp_path, 3)
    drawn = torch.rand(4)
    model = load_model(path, dtype="float32", device="cpu")
    optimizer = make_adamw(model, lr=1e-2, weight_decay=0.01)
    restore_optimizers(path, model, [optimizer])
    assert torch.equal(torch.rand(4), drawn)
    for number in (3, 4):
        step(model, optimizer, number)
    for name, tensor in trained(5)[0].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert read_manifest(path).progress == Progress(update=3, stream={"next_task": 30})


def test_training_in_bfloat16_goes_on_bit_by_bit_too(tmp_path: Path) -> None:
    def steps(model: Any, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            step(model, optimizer, number)

    model = load_model(save(tmp_path / "initial", 0), dtype="bfloat16", device="cpu")
    optimizer = make_adamw(model, lr=1e-4, weight_decay=0.01)
    steps(model, optimizer, range(3))
    snapshot = take_snapshot(model, TOKENIZER, [optimizer], config=Config(), progress=Progress(update=3))
    path = save_checkpoint(tmp_path, snapshot, keep=1)
    steps(model, optimizer, range(3, 30))
    resumed = load_model(path, dtype="bfloat16", device="cpu")
    other = make_adamw(resumed, lr=1e-4, weight_decay=0.01)
    restore_optimizers(path, resumed, [other])
    steps(resumed, other, range(3, 30))
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        TrainConfig(optimizer="muon", lr=1e-2),
        TrainConfig(optimizer="muon", lr=1e-2, offload_optimizer=True),
        TrainConfig(optimizer="adamw-8bit", lr=1e-2),
    ],
    ids=["muon", "offloaded", "8bit"],
)
def test_training_by_other_optimizers_goes_on_bit_by_bit(tmp_path: Path, settings: TrainConfig) -> None:
    if settings.optimizer == "adamw-8bit":
        pytest.importorskip("torchao")

    def steps(model: Any, optimizers: list[torch.optim.Optimizer], numbers: range) -> None:
        with torch.compiler.set_stance("force_eager"):
            for number in numbers:
                set_rate(optimizers, 1e-3 * (number + 1))
                step(model, optimizers[0], number, *optimizers[1:])

    model = new_model(dataclasses.replace(TINY, mlp_size=128), TOKENIZER, seed=0)
    optimizers = make_optimizers(model, settings)
    steps(model, optimizers, range(2))
    snapshot = take_snapshot(model, TOKENIZER, optimizers, config=Config(), progress=Progress(update=2))
    path = save_checkpoint(tmp_path, snapshot, keep=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps(model, optimizers, range(2, 4))
    resumed = load_model(path, dtype="float32", device="cpu")
    others = make_optimizers(resumed, settings)
    restore_optimizers(path, resumed, others)
    steps(resumed, others, range(2, 4))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
        assert not torch.equal(tensor, before[name]), name


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
    with pytest.raises(StoreError, match="no complete checkpoint") as caught:
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


def test_a_checkpoint_that_gets_its_score_later_is_whole_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, 1, keep=1)
    seen: list[tuple[Path | None, Path | None]] = []

    def replaced(source: Path, target: Path) -> Path:
        before = newest_checkpoint(tmp_path)
        renamed = replace(source, target)
        seen.append((before, newest_checkpoint(tmp_path)))
        return renamed

    replace = Path.replace
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "rename", replaced)
    save(tmp_path, 1, keep=1, score=0.5)
    assert seen
    assert set(seen) == {(path, path)}
    assert read_manifest(path).score == 0.5


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    wider = new_model(Qwen3Sizes(hidden_size=32, num_layers=1, num_heads=2, head_dim=8), TOKENIZER, seed=0)
    with pytest.raises(StoreError, match="has shape"):
        restore_optimizers(path, wider, [make_adamw(wider, lr=1e-2, weight_decay=0.0)])


def test_moments_are_named_and_those_of_a_weight_that_is_not_trained_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert "0.model.norm.weight.exp_avg" in safetensors.torch.load_file(path / "trainer.safetensors")
    model, _ = trained(0)
    model.model.norm.requires_grad_(False)
    with pytest.raises(StoreError, match=r"moments of model\.norm\.weight, which this run does not train"):
        restore_optimizers(path, model, [make_adamw(model, lr=1e-2, weight_decay=0.0)])


def test_a_checkpoint_that_names_moments_by_their_place_resumes(tmp_path: Path) -> None:
    path = save(tmp_path, 2)
    model, optimizer = trained(2)
    places = {id(weight): place for place, weight in enumerate(w for g in optimizer.param_groups for w in g["params"])}
    names = {name: places[id(weight)] for name, weight in model.named_parameters()}
    tensors = {}
    for name, tensor in safetensors.torch.load_file(path / "trainer.safetensors").items():
        parameter, _, slot = name.removeprefix("0.").rpartition(".")
        tensors[f"0.{names[parameter]}.{slot}" if parameter else name] = tensor
    safetensors.torch.save_file(tensors, path / "trainer.safetensors")
    resumed, _ = trained(0)
    other = make_adamw(resumed, lr=1e-2, weight_decay=0.01)
    restore_optimizers(path, resumed, [other])
    for place, slots in optimizer.state_dict()["state"].items():
        for slot, tensor in slots.items():
            assert torch.equal(other.state_dict()["state"][place][slot], tensor)


def test_a_checkpoint_whose_tensors_are_garbage_is_one_clear_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    model, optimizer = trained(0)
    for name in ("model.safetensors", "trainer.safetensors"):
        file = path / name
        file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(path, dtype="float32", device="cpu")
    with pytest.raises(LzeroError, match=r"trainer\.safetensors"):
        restore_optimizers(path, model, [optimizer])


def test_the_best_by_held_out_score_stays_beside_the_newest(tmp_path: Path) -> None:
    left = []
    for update, score in enumerate((0.2, 0.6, 0.6, 0.1, 0.7, 0.3), start=1):
        save(tmp_path, update, keep=1, score=score)
        left.append([int(path.name.removeprefix("update-")) for path in checkpoints(tmp_path)])
    assert left == [[1], [2], [3, 2], [4, 2], [5], [6, 5]]
    assert best_checkpoint(tmp_path) == tmp_path / "update-000005"
    cut_in_half(tmp_path / "update-000005" / "model.safetensors")
    assert best_checkpoint(tmp_path) == tmp_path / "update-000006"


def test_training_that_goes_on_changes_nothing_of_a_snapshot(tmp_path: Path) -> None:
    model, optimizer = trained(2)
    assert model.config.tie_word_embeddings
    snapshot = take_snapshot(model, TOKENIZER, [optimizer], config=Config(), progress=Progress(update=2))
    step(model, optimizer, 2)
    torch.rand(3)
    late = save_checkpoint(tmp_path / "late", snapshot, keep=1)
    torch.manual_seed(0)
    other, moments = trained(2)
    weights = load_model(late, dtype="float32", device="cpu").state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())
    again = make_adamw(other, lr=1e-2, weight_decay=0.01)
    restore_optimizers(late, other, [again])
    for index, slots in moments.state_dict()["state"].items():
        for slot, tensor in slots.items():
            assert torch.equal(again.state_dict()["state"][index][slot], tensor)
    assert len((late / "model.safetensors").read_bytes()) < 1.1 * sum(4 * p.numel() for p in model.parameters()) + 4096


class Gate:
    """A disk that blocks until it is released, or is full."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.entered, self.may_go_on = threading.Event(), threading.Event()

    def save_file(self, tensors: dict[str, torch.Tensor], file: Path) -> None:
        self.entered.set()
        assert self.may_go_on.wait(timeout=30)
        if self.full:
            raise OSError(28, "No space left on device")
        safetensors.torch.save_file(tensors, file)


def snapshot_of(update: int) -> Snapshot:
    model, optimizer = trained(0)
    return take_snapshot(model, TOKENIZER, [optimizer], config=Config(), progress=Progress(update=update))


async def test_a_run_goes_on_while_its_checkpoint_is_written_and_the_next_one_waits_for_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    monkeypatch.setattr(checkpoint, "save_file", gate.save_file)
    async with Saver(tmp_path, keep=2, keep_best=False) as saver:
        await saver.save(lambda: snapshot_of(1))
        await asyncio.to_thread(gate.entered.wait, 30)
        saver.check()
        assert checkpoints(tmp_path) == []
        second = asyncio.create_task(saver.save(lambda: snapshot_of(2)))
        done, _ = await asyncio.wait([second], timeout=0.2)
        assert not done
        gate.may_go_on.set()
        await second
    assert [path.name for path in checkpoints(tmp_path)] == ["update-000002", "update-000001"]
    assert newest_checkpoint(tmp_path) == saver.newest


async def test_a_checkpoint_that_cannot_be_written_is_told_at_the_next_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(full=True)
    gate.may_go_on.set()
    monkeypatch.setattr(checkpoint, "save_file", gate.save_file)
    for updates in ((1,), (1, 2)):
        with pytest.raises(StoreError, match=r"update-000001: .*No space left"):
            await save_all(tmp_path, *updates)
    with pytest.raises(KeyError):  # the run's own end is the one that is told
        await save_all(tmp_path, 1, then=KeyError())
    assert list(tmp_path.iterdir()) == []


async def test_a_run_that_resumes_removes_what_a_kill_in_the_middle_of_a_save_left(tmp_path: Path) -> None:
    for update in (1, 2, 3):
        save(tmp_path, update, keep=3)
    (tmp_path / ".update-000004").mkdir()
    await save_all(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-000002", "update-000003"]


async def save_all(directory: Path, *updates: int, then: Exception | None = None) -> None:
    """Run a saver that writes these checkpoints, and then ends with `then`."""
    async with Saver(directory, keep=2, keep_best=False) as saver:
        for update in updates:
            await saver.save(partial(snapshot_of, update))
        if then:
            raise then
