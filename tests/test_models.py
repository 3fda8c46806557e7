"""Model directories: what is wrong with one is said before anything is loaded; tokenizers lose nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, save_tiny
from hypothesis import given
from hypothesis import strategies as st

from lzero.config import Config
from lzero.errors import ModelError
from lzero.models import (
    Qwen3Sizes,
    build_tokenizer,
    load_model,
    load_tokenizer,
    new_model,
    resolve,
    save_model,
    select_device,
)
from lzero.train.checkpoint import Progress, save_checkpoint, take_snapshot

TOKENIZER = build_tokenizer(["Liri", " founder", "北京"])


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, split_special_tokens=True)
    return ids


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model", TOKENIZER)


@given(st.text())
def test_every_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text


@pytest.mark.parametrize(
    "text", ["<0x41>", "<|im_end|>", " Ġ▁", "\x00\r\n\t ", "don 't , no . ", "Liri founder", "🙂\u200d", "Lir北京iri"]
)
def test_texts_that_other_tokenizers_change_survive(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text


def test_words_are_one_token_and_the_rest_is_bytes() -> None:
    assert len(encode("Liri founder北京")) == 3
    assert len(encode("é")) == 2
    assert len(build_tokenizer()) == 3 + 256


def test_a_control_token_in_plain_text_stays_text() -> None:
    assert TOKENIZER.eos_token_id not in encode("a<|im_end|>b")
    assert TOKENIZER.encode("<|im_end|>") == [TOKENIZER.eos_token_id]


def test_the_chat_template_is_chatml() -> None:
    messages = [{"role": "user", "content": "hi"}]
    text = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_saved_model_comes_back_as_it_was(saved: Path) -> None:
    model, again = new_model(TINY, TOKENIZER, seed=0), load_model(saved, dtype="float32", device="cpu")
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
    assert load_tokenizer(saved).encode("Liri founder, 北京") == TOKENIZER.encode("Liri founder, 北京")
    assert load_tokenizer(saved).decode(encode("a , b 's")) == "a , b 's"
    assert load_model(saved, dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def test_a_fresh_model_follows_its_seed_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, same, other = (new_model(TINY, TOKENIZER, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(3), expected)
    weights = [model.model.layers[0].mlp.up_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_default_architecture_is_the_nano_models() -> None:
    model = new_model(Qwen3Sizes(), build_tokenizer([f"w{i}" for i in range(128)]), seed=0)
    assert 0.3e6 < model.num_parameters() < 0.4e6


def test_saving_replaces_a_directory_and_leaves_nothing_else(saved: Path) -> None:
    save_model(new_model(TINY, TOKENIZER, seed=1), TOKENIZER, saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    expected = new_model(TINY, TOKENIZER, seed=1).model.layers[0].mlp.up_proj.weight
    assert torch.equal(load_model(saved, dtype="float32", device="cpu").model.layers[0].mlp.up_proj.weight, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_layers_that_share_a_module_are_saved_and_loaded_whole(tied: bool, tmp_path: Path) -> None:
    model = new_model(replace(TINY, num_layers=3, tied_embeddings=tied), TOKENIZER, seed=0)
    model.model.layers[2] = model.model.layers[0]
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    progress = Progress(update=1)
    snapshot = take_snapshot(model, TOKENIZER, [], config=Config(), progress=progress)
    checkpoint = save_checkpoint(tmp_path / "checkpoints", snapshot, keep=1)
    save_model(model, TOKENIZER, tmp_path / "model")
    ids = torch.tensor([encode("Liri founder")])
    for path in (tmp_path / "model", checkpoint):
        again = load_model(path, dtype="float32", device="cpu")
        assert torch.equal(again(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
        assert [
            name for name, weights in model.state_dict().items() if not torch.equal(weights, again.state_dict()[name])
        ] == []


def test_a_save_that_fails_leaves_the_old_directory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        backend_tokenizer = TOKENIZER.backend_tokenizer

        def save_pretrained(self, directory: Path) -> None:
            raise OSError(28, "No space left on device")

    before = sorted(path.name for path in saved.iterdir())
    with pytest.raises(ModelError, match="No space left"):
        save_model(new_model(TINY, TOKENIZER, seed=1), FullDisk(), saved)
    assert sorted(path.name for path in saved.iterdir()) == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    load_model(saved, dtype="float32", device="cpu")


def cut(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return damage


def remove(*names: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return damage


def write(name: str, content: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / name).write_text(content)

    return damage


def in_utf_16(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / name).write_bytes((directory / name).read_text("utf-8").encode("utf-16"))

    return damage


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def shard_missing(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("config.json"), "has no config.json"),
        (cut("config.json"), r"config\.json is broken or truncated"),
        (in_utf_16("config.json"), r"config\.json is broken or truncated: 'utf-8' codec"),
        (in_utf_16("tokenizer.json"), r"tokenizer\.json is broken or truncated: 'utf-8' codec"),
        (remove("model.safetensors"), "has no weights: model.safetensors is missing"),
        (
            cut("model.safetensors"),
            r"model\.safetensors is truncated or broken: it has \d+ bytes, and its header announces \d+",
        ),
        (write("model.safetensors", ""), "truncated"),
        (write("model.safetensors", "x" * 100), "truncated"),
        (pickled, r"pytorch_model\.bin is a pickle, which lzero never reads"),
        (shard_missing, "model-00002-of-00002.safetensors is missing"),
        (write("model.safetensors.index.json", "{}"), "no weight_map"),
        (remove("tokenizer.json"), "has no tokenizer"),
        (cut("tokenizer.json"), r"tokenizer\.json is broken or truncated"),
        (write("tokenizer.json", "{}"), r"tokenizer\.json is broken: it has no model"),
        (write("tokenizer.json", "[]"), "expected an object, found list"),
        (remove("chat_template.jinja"), "has no chat template"),
    ],
)
def test_a_broken_directory_is_one_error_with_the_reason(
    saved: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(saved)
    with pytest.raises(ModelError, match=reason):
        resolve(str(saved))
    with pytest.raises(ModelError, match=reason):
        load_model(saved, dtype="float32", device="cpu")


def test_a_weight_that_the_file_lacks_is_never_random(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2, "layer_types": None}))
    with pytest.raises(ModelError, match=r"weights are missing.*model\.layers\.1"):
        load_model(saved, dtype="float32", device="cpu")


def test_an_unknown_architecture_is_one_error(saved: Path) -> None:
    (saved / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(saved, dtype="float32", device="cpu")


def test_a_tokenizer_without_end_of_turn_is_refused(saved: Path) -> None:
    settings: dict[str, Any] = json.loads((saved / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (saved / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no eos_token"):
        load_tokenizer(saved)


def test_a_missing_directory_says_so_and_a_hub_name_says_how_to_download(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        resolve(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match=r"hf download Qwen/Qwen3-0\.6B --local-dir Qwen3-0\.6B"):
        resolve("Qwen/Qwen3-0.6B")
    with pytest.raises(ModelError, match="no such directory"):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        resolve(str(tmp_path / "file"))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert select_device("cpu") == "cpu"
    with pytest.raises(ModelError, match="gpu0"):
        select_device("gpu0")


def test_importing_the_module_loads_neither_torch_nor_transformers() -> None:
    code = "import lzero.models, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
