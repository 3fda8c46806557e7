"""The local engine samples from exactly the model's policy, or raises ModelError: tiny models of many architectures."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lzero.engine.local.cache import Forward
from lzero.engine.local.probe import check_policy
from lzero.errors import ModelError
from lzero.threads import computing_alone

pytestmark = pytest.mark.integration
VOCABULARY = 48
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 32}
PHI3_LONG = {"sliding_window": None, "original_max_position_embeddings": 64, "rope_parameters": LONG_ROPE}
GPT_NEO = {
    "attention_types": [[["global", "local"], 1]],
    "num_layers": 2,
    "num_heads": 4,
    "window_size": 40,
    "max_position_embeddings": 100,
}
MAMBA = {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "expand": 2}


def tiny(kind: str, **settings: Any) -> Any:
    """Return a model with random weights, large enough for its layers to matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**SIZES, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2)
    return model


def largest_gap(model: Any, forward: Forward, length: int) -> float:
    """Return the largest gap of log-probabilities at the last tokens, between the engine's passes and a plain one."""
    ids = np.random.default_rng(1).integers(3, VOCABULARY, length)
    with torch.inference_mode():
        plain = torch.log_softmax(model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0], dim=-1)
        gaps, start = [], 0
        for end in (length // 2, length - 2, length - 1, length):
            rows = None if end == start + 1 else np.zeros(1, dtype=np.int64)
            logits = forward(ids[None, start:end], np.arange(start, end)[None], rows=rows, kv_length=end)
            gaps.append((torch.log_softmax(logits[0], dim=-1) - plain[end - 1]).abs().max().item())
            start = end
    return max(gaps)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("llama", {"rope_parameters": YARN}),
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 100}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 100}),
        ("starcoder2", {"sliding_window": 100}),
        ("mixtral", {"sliding_window": 100}),
        ("phi3", {"sliding_window": 100}),
        ("phi3", PHI3_LONG | {"original_max_position_embeddings": 100, "max_position_embeddings": 200}),
        ("gemma2", {"head_dim": 8, "sliding_window": 100}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 16}),
        ("gpt2", {"max_position_embeddings": 100}),
    ],
    ids=str,
)
def test_a_model_that_is_served_gives_what_a_plain_pass_gives(kind: str, settings: dict[str, Any]) -> None:
    model = tiny(kind, **settings)
    with computing_alone():
        forward = Forward(model, num_slots=1, max_tokens=100)
        check_policy(forward)
        assert largest_gap(model, forward, 100) < 1e-4


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("mistral", {"sliding_window": 16}, "look back 16 tokens only .*: lower agent.max_tokens from 100 to 16"),
        ("starcoder2", {"sliding_window": 16}, "look back 16 tokens"),
        ("mixtral", {"sliding_window": 16}, "look back 16 tokens"),
        ("phi3", {"sliding_window": 16}, "look back 16 tokens"),
        ("gemma2", {"head_dim": 8, "sliding_window": 16}, "look back 16 tokens"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, "look back 16 tokens"),
        ("llama4_text", {"attention_chunk_size": 16, "head_dim": 8}, "look back 16 tokens"),
        ("gpt_neo", GPT_NEO, "other probabilities than in one pass"),
        ("llama", {"rope_parameters": DYNAMIC}, r"scales its positions .*first trained with \(64\)"),
        ("phi3", PHI3_LONG | {"max_position_embeddings": 256}, r"scales its positions .*first trained with \(64\)"),
        ("gpt2", {}, "has 64 positions: lower agent.max_tokens"),
        ("bert", {"is_decoder": False, "max_position_embeddings": 100}, "cannot serve"),
        ("bloom", {"n_head": 4, "n_layer": 2}, "cannot serve"),
        ("mamba2", MAMBA, "keep more than keys and values"),
    ],
    ids=str,
)
def test_a_model_that_would_be_sampled_from_otherwise_is_refused(
    kind: str, settings: dict[str, Any], reason: str
) -> None:
    model = tiny(kind, **settings)
    with computing_alone(), pytest.raises(ModelError, match=reason):
        check_policy(Forward(model, num_slots=1, max_tokens=100))
