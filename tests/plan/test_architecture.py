"""Sizes of models: parameters, keys and values, and activations, as models have them."""

import json
import math
from pathlib import Path

import pytest

from lzero.errors import ModelError
from lzero.models import ASSETS
from lzero.plan.architecture import KNOWN, architecture_of

PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-4B": 4_022_468_096,
    "Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen2.5-32B-Instruct": 32_763_876_352,
    "SmolLM2-135M-Instruct": 134_515_008,
}


def test_known_models_have_the_published_number_of_parameters() -> None:
    assert {name: architecture_of(f"models/{name}").parameters for name in PUBLISHED} == PUBLISHED


def test_the_sizes_of_a_directory_count_every_weight_of_its_files() -> None:
    with (ASSETS / "nano" / "model.safetensors").open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    header.pop("__metadata__", None)
    assert architecture_of("nano").parameters == sum(math.prod(tensor["shape"]) for tensor in header.values())


def test_keys_and_values_of_qwen3_take_112_kib_a_token() -> None:
    assert KNOWN["qwen3-0.6b"].kv_bytes(2) == 2 * 28 * 8 * 128 * 2 == 112 * 1024


def test_a_model_that_a_plan_does_not_know_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no directory with a config.json.*Qwen3-4B"):
        architecture_of("somewhere/Unknown-1B")
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128}
    for settings, why in (
        ({**sizes, "n_routed_experts": 8, "vocab_size": 100}, "n_routed_experts"),
        (sizes, "vocab_size = None"),
        ({**sizes, "vocab_size": "many"}, "vocab_size = 'many'"),
        ({**sizes, "vocab_size": 100, "num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        with pytest.raises(ModelError, match=why):
            architecture_of(str(tmp_path))
