"""Models of strangers: directories, checkpoints and tokenizers open no file elsewhere, and break no reader."""

import base64
import json
import re
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from builders import HIDDEN, make_run
from cases import attack
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lzero import model_files, models
from lzero.agent import chat_template
from lzero.agent.renderer import Renderer
from lzero.config import Config, make_config
from lzero.engine.vllm.kind import stop_ids
from lzero.errors import ModelError, StoreError
from lzero.model_files import check_tokenizer
from lzero.models import ASSETS, TURN_END, build_tokenizer, load_tokenizer, resolve
from lzero.plan.architecture import architecture_of
from lzero.rollout.budgets import fit_budgets
from lzero.train.checkpoint import Manifest, Progress, read_manifest
from lzero.train.export import export


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS / "nano", tmp_path / "model"))


def name_shard(model: Path, secret: Path, name: str) -> None:
    index = {"weight_map": {"a": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def link(name: str) -> Callable[[Path, Path], None]:
    def make(model: Path, secret: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(secret)

    return make


MODELS: dict[str, Callable[[Path, Path], object]] = {
    "shard above": lambda model, secret: name_shard(model, secret, "../secret"),
    "shard by path": lambda model, secret: name_shard(model, secret, str(secret)),
    **{
        f"link {name}": link(name)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "x")
    },
    "adapter": lambda model, secret: (model / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(secret.parent)})
    ),
}


@attack(92)
@pytest.mark.parametrize("change", MODELS.values(), ids=MODELS.keys())
def test_a_model_names_no_file_elsewhere(change: Callable[[Path, Path], object], model: Path, secret: Path) -> None:
    change(model, secret)
    with pytest.raises(ModelError) as caught:
        resolve(str(model))
    assert HIDDEN not in str(caught.value)


@attack(92)
@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": {"": "kernels-community/flash-attn"}},
        {"text_config": {"_experts_implementation": "kernels-community/moe"}},
    ],
)
def test_a_model_names_no_code_of_a_hub(settings: dict[str, object], model: Path) -> None:
    """With the package `kernels`, transformers fetches and runs it, whatever `trust_remote_code` says."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(ModelError, match="code from a hub"):
        resolve(str(model))


def test_a_snapshot_of_the_hub_links_to_its_own_store(model: Path, tmp_path: Path) -> None:
    snapshot, store = tmp_path / "models--a--b" / "snapshots" / "1f", tmp_path / "models--a--b" / "blobs"
    snapshot.parent.mkdir(parents=True)
    model.rename(store)
    snapshot.mkdir()
    for file in store.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert resolve(str(snapshot)) == snapshot
    (tmp_path / "mine").symlink_to(snapshot)
    assert load_tokenizer(tmp_path / "mine").eos_token


@attack(92)
@pytest.mark.parametrize("name", ["../secret", "secret", "sub/../../secret"])
def test_a_checkpoint_names_no_file_elsewhere(name: str, secret: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "sub").mkdir(parents=True)
    (checkpoint / "secret").symlink_to(secret)
    manifest = Manifest(progress=Progress(), score=None, config={}, files={name: len(HIDDEN)})
    (checkpoint / "trainer.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(StoreError, match="not in the checkpoint's directory"):
        read_manifest(checkpoint)


@attack(93)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", '{"rope_parameters": [", "]}', '{"rope_parameters": "rope_theta"}']
)
def test_a_checkpoint_that_breaks_its_export_is_a_typed_error(file: str, text: str, tmp_path: Path) -> None:
    """Or is exported: not all of its settings are read."""
    run = make_run(tmp_path / "run")
    checkpoint = run.checkpoints / "update-000001"
    checkpoint.mkdir()
    texts = {"config.json": "{}", "tokenizer_config.json": "{}", file: text}
    for name, content in texts.items():
        (checkpoint / name).write_text(content)
    sizes = {name: len(content) for name, content in texts.items()}
    manifest = Manifest(progress=Progress(), score=None, config={}, files=sizes)
    (checkpoint / "trainer.json").write_bytes(msgspec.json.encode(manifest))
    with suppress(ModelError):
        export(run.path, tmp_path / "model")
        assert text.startswith("{")


@attack(93)
@pytest.mark.parametrize(
    "header", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":[]}', b'{"a":{"data_offsets":[0]}}', b"\xff"]
)
def test_a_header_of_weights_that_breaks_readers_is_a_typed_error(header: bytes, model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match="not a safetensors file"):
        resolve(str(model))


@attack(93)
def test_a_model_of_layers_without_number_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    with pytest.raises(ModelError, match="not of one model"):
        resolve(str(model))


SMALL = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 10}
ENDLESS: dict[str, dict[str, object]] = {
    "layers in an object": {"model_type": "gemma3", "text_config": SMALL | {"num_hidden_layers": 10**9}},
    "layers by another name": {
        "model_type": "bart",
        "d_model": 8,
        "decoder_attention_heads": 1,
        "decoder_layers": 10**9,
    },
    "a list that is expanded": {"model_type": "gpt_neo", "attention_types": [[["global", "local"], 10**10]]},
    "labels": {"model_type": "llama", "num_labels": 10**9},
    "labels of an unknown type": {"model_type": "none", "num_labels": 10**9},
}


@attack(93)
@pytest.mark.parametrize("settings", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_model_that_takes_forever_to_build_is_a_model_error(
    settings: dict[str, object], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "BUILD_S", 3.0)
    (model / "config.json").write_text(json.dumps(settings))
    if settings["model_type"] != "none":
        with pytest.raises(ModelError, match=r"takes more than .* to build"):
            models.load_model(model, dtype="float32", device="cpu")
    if {"attention_types", "num_labels"} & settings.keys():
        with pytest.raises(ModelError, match=r"takes more than .* to build"):
            load_tokenizer(model)


@attack(93)
def test_layers_that_the_weights_have_too_take_no_time_without_bound(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "BUILD_S", 3.0)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 100_000, "layer_types": None, "model_type": "llama"})
    )
    tensors = {str(number): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)}
    header = json.dumps(tensors).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelError, match=r"takes more than .* to build"):
        models.empty_model(model)


@attack(93)
def test_more_weights_than_the_files_can_hold_get_no_memory(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 1_000_000}))
    with pytest.raises(ModelError, match=r"config.json describes 96,\d+,\d+ weights, and .* not of one model"):
        models.load_model(model, dtype="float32", device="cpu")


@attack(93)
@pytest.mark.parametrize("settings", [{"model_type": "none"}, SMALL | {"model_type": "bart", "d_model": 7}])
def test_what_fails_under_limits_is_not_tried_without_them(settings: dict[str, object], model: Path) -> None:
    (model / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="the model cannot be loaded: "):
        models.check_buildable(model)


def test_the_tokenizer_of_an_unknown_type_of_model_is_loaded(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "none"}')
    assert load_tokenizer(model).eos_token


def test_imports_count_as_no_time_of_building(model: Path) -> None:
    with suppress(ModelError):
        (model / "config.json").write_text('{"model_type": "codegen"}')
        models.check_buildable(model)
    assert "transformers.models.codegen.modeling_codegen" in sys.modules


@attack(93)
@pytest.mark.parametrize(
    ("name", "key"), [("config.json", "configuration_files"), ("tokenizer_config.json", "fast_tokenizer_files")]
)
def test_no_other_file_replaces_one_that_was_checked(name: str, key: str, model: Path) -> None:
    values = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(values | {key: [name.replace(".json", ".4.0.0.json")]}))
    with pytest.raises(ModelError, match=key):
        load_tokenizer(model)


@attack(93)
@pytest.mark.parametrize(
    "name", ["generation_config.json", "vocab.json", "added_tokens.json", "special_tokens_map.json"]
)
def test_each_json_file_has_a_bound_on_its_values(name: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "BYTES_OF_A_VALUE", 1 << 14)
    (model / name).write_text(json.dumps({"a": [{}] * 20_000}))
    with pytest.raises(ModelError, match=f"{name} is broken or truncated: .* values"):
        resolve(str(model))


@attack(93)
def test_ids_of_ends_that_are_none_are_a_model_error(model: Path) -> None:
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": ["words"]}))
    with pytest.raises(ModelError, match="its ids of ends cannot be read"):
        stop_ids(make_config({"model": {"path": str(model)}}), load_tokenizer(model))


@attack(93)
@pytest.mark.parametrize("key", ["text_config", "hidden_size", "num_hidden_layers", "vocab_size"])
@pytest.mark.parametrize("value", [5, "words", [[1, 2]], True, 10**400], ids=str)
def test_a_model_of_sizes_that_none_has_is_a_model_error(key: str, value: object, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {key: value}))
    if key == "text_config" or value != 5:
        with pytest.raises(ModelError, match=f"config.json has {key} = "):
            architecture_of(str(model))


@attack(93)
@pytest.mark.parametrize("tokens", [-1, 0, "all", 1e300, 10**30, None, True])
def test_a_checkpoint_asks_for_no_budget_beyond_its_model(tokens: object, model: Path) -> None:
    (model / "trainer.json").write_text(
        json.dumps({"config": {"agent": {"max_tokens": tokens, "response_tokens": tokens}}})
    )
    agent = fit_budgets(
        Config().model_copy(update={"model": Config().model.model_copy(update={"path": str(model)})})
    ).agent
    assert isinstance(agent.max_tokens, int)
    assert 0 < agent.max_tokens <= 4_096
    assert 0 < agent.response_tokens <= 4_096


BASE: dict[str, object] = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
}
WORDS: dict[str, object] = {"type": "WordLevel", "vocab": {"a": 0, TURN_END: 1}, "unk_token": "a"}
CHARSMAP = base64.b64encode(bytes(4) + b"x" * 2_000).decode()
BACKTRACKING: dict[str, object] = {
    "type": "Split",
    "pattern": {"Regex": "( +)+$"},
    "behavior": "Isolated",
    "invert": False,
}


@attack(94)
@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"pre_tokenizer": BACKTRACKING | {"pattern": {"Regex": "("}}},
        {"model": {"type": "Unigram", "unk_id": 5, "vocab": [["a", -1.0]]}},
        {"model": WORDS | {"unk_token": "none"}},
        {"model": WORDS | {"vocab": 7}, "added_tokens": 7},
    ],
    ids=["panics", "broken pattern", "broken vocabulary", "knows no word", "no vocabulary"],
)
def test_a_tokenizer_that_panics_or_fails_is_a_model_error(part: dict[str, object], model: Path) -> None:
    (model / "tokenizer.json").write_text(json.dumps(BASE | {"model": WORDS} | part))
    with pytest.raises(ModelError):
        Renderer(load_tokenizer(model))


DOUBLING: dict[str, object] = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
UNTYPED: dict[str, object] = {"pattern": {"Regex": "a*"}, "content": "a" * 50}


@attack(94)
@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 30}}, "1.07e+09 times as long"),
        ({"normalizer": {"normalizers": [{"normalizers": [UNTYPED] * 2}]}}, "2.6e+03 times as long"),
        ({"decoder": {"type": "Sequence", "decoders": [DOUBLING] * 30}}, "1.07e+09 times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}}, "2e+03 times as long"),
        (
            {"normalizer": {"normalizers": [DOUBLING] * 10 + [{"type": "Precompiled", "precompiled_charsmap": ""}]}},
            "1.02e+03 times as long",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 101}}, "writes 101 characters before each text"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}] * 65}}, "more than 64 parts"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 10}},
            "1.02e+03 times as long",
        ),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}}, "1000000000, more"),
        ({"model": WORDS | {"vocab": {"a": 0, "a" * 10_001: 1}}}, "longest token has 10,001 characters"),
        ({"model": {"type": "Unigram", "vocab": [["a" * 10_001, 0.0]]}}, "longest token has 10,001 characters"),
        ({"added_tokens": [{"id": 9, "content": "a" * 10_001}]}, "longest token has 10,001 characters"),
    ],
)
def test_a_tokenizer_that_makes_a_text_huge_or_takes_forever_is_a_model_error(
    part: dict[str, object], why: str, model: Path
) -> None:
    """The library takes the memory of a text of 30 doublings, and ends the process; WordPiece took minutes for a word of 16 kB."""
    (model / "tokenizer.json").write_text(json.dumps(BASE | {"model": WORDS} | part))
    with pytest.raises(ModelError, match=re.escape(why)):
        load_tokenizer(model)


USUAL: list[dict[str, object]] = [
    {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel"}},
    {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }
    },
    {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}},
    {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
]


@pytest.mark.parametrize("part", USUAL, ids=["Qwen", "Llama", "XLM", "BERT"])
def test_tokenizers_as_they_are_in_use_are_read(part: dict[str, object], model: Path) -> None:
    (model / "tokenizer.json").write_text(json.dumps(BASE | {"model": WORDS} | part))
    check_tokenizer(model)


@attack(94)
@pytest.mark.parametrize(
    "operation",
    [
        "'x' * 10**11",
        "'%0999999999d' % 1",
        "messages[0].content * 10**9",
        "(range(99999) | list) * 10**6",
        "'x' | center(10**10)",
        "messages | length ** (10 ** (10 ** 10))",
        "(messages | length + 9) ** (10 ** 9)",
    ],
)
def test_a_template_with_one_huge_operation_is_a_model_error(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_S", 1.0)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = f"{{% set x = {operation} %}}{tokenizer.chat_template}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"the chat template fails: (Memory|Timeout|Overflow|Recursion)Error"):
        Renderer(tokenizer)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (64 << 10)


@attack(94)
def test_a_pattern_that_gives_up_on_a_text_is_a_model_error() -> None:
    tokenizer = build_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [BACKTRACKING, state["pre_tokenizer"]]}
    hostile = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=TURN_END,
        additional_special_tokens=["<|im_start|>"],
        chat_template=tokenizer.chat_template,
    )
    renderer = Renderer(hostile)
    with pytest.raises(ModelError, match="cannot encode"):
        renderer.start(None, " " * 40 + "!")
