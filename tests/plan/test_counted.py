"""Every key that a plan counts changes it; every other one that is set is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lzero.config import load_config
from lzero.plan import COUNTED, make_plan, uncounted
from lzero.plan.architecture import architecture_of
from lzero.plan.devices import GPUS
from lzero.plan.placement import configured
from lzero.plan.workload import assumed

BASE = [
    "engine.kind=vllm",
    "model.path=Qwen3-0.6B",
    "agent.max_tokens=4096",
    "train.ranks=4",
    "agent.response_tokens=1024",
]
CHANGES: dict[str, tuple[list[str], list[str]]] = {
    "agent.cell_s": (["agent.cell_s=0.01"], []),
    "agent.tools": (['agent.tools=["web_search"]'], []),
    "agent.prompt": (["agent.prompt=full"], []),
    "algo.importance_cap": (["algo.importance_cap=2"], []),
    "algo.kl_coef": (["algo.kl_coef=0"], []),
    "algo.kl_in": (["algo.kl_in=reward"], []),
    "algo.loss": (["algo.loss=ppo"], []),
    "critic.epochs": (["critic.epochs=2"], ["critic.kind=head", "algo.estimator=gae"]),
    "critic.kind": (["critic.kind=model"], []),
    "engine.kind": (["engine.kind=local"], ["train.ranks=1"]),
    "engine.urls": (['engine.urls=["http://a:1", "http://b:1"]'], []),
    "lora.rank": (["lora.rank=16"], []),
    "lora.targets": (['lora.targets=["q_proj"]'], ["lora.rank=16"]),
    "model.dtype": (["model.dtype=bfloat16"], []),
    "model.path": (["model.path=Qwen3-4B"], []),
    "rollout.drop_uniform": (["rollout.drop_uniform=1"], []),
    "rollout.filter": (["rollout.filter=none"], []),
    "train.attention": (["train.attention=mask"], []),
    "train.optimizer": (["train.optimizer=muon"], []),
    "train.packing": (["train.packing=padded"], []),
    "train.reshard": (["train.reshard=false"], []),
    "train.offload": (["train.offload=true"], []),
    "train.offload_optimizer": (["train.offload_optimizer=true"], []),
    "train.gradient_checkpointing": (["train.gradient_checkpointing=true"], []),
}
"""Key → what changes it, and what else is set; other keys are doubled."""
DOUBLED = {
    "agent.max_steps": 12, "agent.max_tokens": 16384, "agent.response_tokens": 2048, "agent.output_chars": 800,
    "engine.replicas": 2, "engine.devices_per_replica": 2, "rollout.tasks_per_update": 128, "rollout.episodes_per_task": 8,
    "rollout.concurrency": 64, "rollout.max_lag": 1, "train.updates": 24, "train.minibatches": 2, "train.epochs": 2,
    "train.micro_batch_tokens": 16384, "train.frozen_layers": 2, "train.ranks": 8, "train.sequence_ranks": 2,
}  # fmt: skip


def planned(*overrides: str) -> str:
    config = load_config(None, [*BASE, *overrides])
    model = architecture_of(config.model.path)
    return repr(make_plan(config, model, assumed(config), GPUS["h100"], placement=configured(config), devices=64))


@pytest.mark.parametrize("key", [f"{section}.{key}" for section, keys in COUNTED.items() for key in keys])
def test_a_counted_key_changes_the_plan(key: str) -> None:
    change, others = CHANGES.get(key) or ([f"{key}={DOUBLED[key]}"], [])
    assert planned(*others) != planned(*others, *change)


def test_keys_that_do_not_change_the_plan_are_named() -> None:
    config = load_config(
        None, [*BASE, "train.lr=1e-6", "rollout.temperature=0.5", "lora.rank=4", 'lora.targets=["qkv"]']
    )
    found = list(uncounted(config, architecture_of(config.model.path), GPUS["h100"]))
    assert found == ["rollout.temperature", "train.lr", "lora.targets: qkv"]


def test_the_device_counts_where_it_is_measured() -> None:
    config = load_config(None, ["model.device=cpu"])
    named, measured = (
        list(uncounted(config, architecture_of("nano"), replace(GPUS["h100"], is_measured=is_measured)))
        for is_measured in (False, True)
    )
    assert (named, measured) == (["model.device"], [])


def test_experts_cost_memory_and_only_the_active_ones_cost_time(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 100,
        "intermediate_size": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    dense = architecture_of(str(tmp_path))
    (tmp_path / "config.json").write_text(
        json.dumps({**sizes, "num_experts": 8, "num_experts_per_tok": 1}), encoding="utf-8"
    )
    experts = architecture_of(str(tmp_path))
    router = 2 * 64 * 8
    assert experts.parameters - dense.parameters == 2 * 7 * 3 * 64 * 32 + router
    assert experts.token_operations(context=0) - dense.token_operations(context=0) == 2 * router
    assert experts.read_parameters(1) - dense.parameters == pytest.approx(router)
    assert experts.read_parameters(1000) == pytest.approx(experts.parameters)
