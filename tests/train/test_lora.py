"""LoRA: gradients, the reference, what leaves the trainer and what comes back to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY, make_run, make_sample, save_tiny
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from lzero.algo.batches import collate, unscored
from lzero.algo.layout import Layout
from lzero.algo.loss import make_loss_fn
from lzero.config import AlgoConfig, Config, load_config
from lzero.engine.vllm.kind import check_server
from lzero.engine.vllm.kind import complaint as vllm_complaint
from lzero.engine.vllm.program import command
from lzero.errors import ConfigError, EngineError, StoreError
from lzero.models import load_model
from lzero.train.checkpoint import Progress, save_checkpoint, take_snapshot
from lzero.train.checks import check_settings, inert_settings
from lzero.train.export import export
from lzero.train.lora import adapt, adapted_layers, check_lora, merged_weights, without_adapter
from lzero.train.ranks.starting import opened_trainer
from lzero.train.score import sample_logprobs
from lzero.train.trainable import recompute_activations
from lzero.train.trainer import Trainer
from lzero.train.transfer import ModelWeights, open_transfer
from lzero.train.update import update_policy
from lzero.types import Sample

pytestmark = pytest.mark.integration
IDS = (3, 9, 4, 1, 5, 9, 2, 6)
SAMPLES = [
    make_sample(
        (-1, -1, 0, 0, 0, -1, 1, 1), name=f"episode/{number}", token_ids=tuple((each + number) % 40 for each in IDS)
    )
    for number in range(3)
]
LAYOUT = Layout(max_tokens=20)
SIZES = replace(TINY, num_layers=2)


def config_of(*settings: str) -> Config:
    return load_config(overrides=["lora.rank=4", "model.device=cpu", *settings])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("lora") / "base", sizes=SIZES)


def double_model() -> Any:
    """GPT-2 computes in the type of its weights throughout, and keeps them transposed."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=40, n_positions=64, attn_implementation="sdpa")
    return GPT2LMHeadModel(config).double().eval()


def moved(model: Any) -> Any:
    """Give an adapter values that change its model."""
    torch.manual_seed(1)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(std=0.2)
    return model


def adapted(*settings: str, model: Any = None) -> Any:
    model = double_model() if model is None else model
    adapt(model, config_of(*settings))
    return moved(model)


def merged(model: Any, into: Any) -> Any:
    into.load_state_dict(dict(merged_weights(model.state_dict().items(), model)))
    return into


def logprobs(model: Any, samples: Sequence[Sample] = SAMPLES) -> Tensor:
    return torch.tensor(sample_logprobs(model, samples, LAYOUT), dtype=torch.float64)


def gradients(model: Any) -> dict[str, Tensor]:
    """Return the gradient of an update, from a step of plain gradient descent with learning rate 1."""
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in learning.items()}
    rows = [unscored(sample, advantage=0.7 - number) for number, sample in enumerate(SAMPLES)]
    update_policy(
        model,
        [torch.optim.SGD(learning.values(), lr=1.0)],
        collate(rows, LAYOUT),
        loss_fn=make_loss_fn(AlgoConfig(kl_coef=0.0)),
        grad_clip=1e9,
    )
    return {name: before[name] - weight.detach() for name, weight in learning.items()}


def test_a_new_adapter_changes_nothing_and_is_all_that_learns() -> None:
    plain, model = double_model(), double_model()
    adapt(model, config_of())
    assert torch.equal(logprobs(model), logprobs(plain))
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(learning) == 2 * 2 * 4, "A and B of the four linear layers in each of two layers"
    assert all("lora_" in name for name in learning)
    other = double_model()
    adapt(other, config_of())
    assert all(torch.equal(one, another) for one, another in zip(model.parameters(), other.parameters(), strict=True))


def test_merged_weights_compute_what_base_and_adapter_do() -> None:
    model = adapted()
    assert torch.dist(logprobs(model), logprobs(double_model())) > 0.1
    assert torch.dist(logprobs(model), logprobs(merged(model, double_model()))) < 1e-12


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradient_of_an_adapter_is_that_of_the_merged_weights_by_the_chain_rule(checkpointing: bool) -> None:
    model = adapted()
    full = gradients(merged(model, double_model()))
    if checkpointing:
        recompute_activations(model)
    layers = {
        name: (layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone())
        for name, layer in adapted_layers(model).items()
    }
    found = gradients(model)
    for name, (down, up) in layers.items():
        of_weight = full[f"{name}.weight"].T * (32 / 4)  # GPT-2's weights are transposed
        torch.testing.assert_close(found[f"{name}.lora_B.default.weight"], of_weight @ down.T, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found[f"{name}.lora_A.default.weight"], up.T @ of_weight, rtol=1e-9, atol=1e-12)


def test_the_reference_is_the_model_with_its_adapter_off(model_dir: Path) -> None:
    trainer, _ = Trainer.build(config_of(f"model.path={model_dir}", "algo.importance_cap=2"))
    moved(trainer.model)
    scores = trainer.score(SAMPLES)
    base = load_model(model_dir, dtype="float32", device="cpu")
    assert torch.equal(torch.tensor(scores.reference_logprobs).double(), logprobs(base))
    assert torch.equal(torch.tensor(scores.old_logprobs).double(), logprobs(trainer.model))
    with without_adapter(trainer.model):
        assert torch.equal(logprobs(trainer.model), logprobs(base))
    assert not torch.equal(logprobs(trainer.model), logprobs(base))


def test_bfloat16_weights_have_adapters_in_float32(model_dir: Path) -> None:
    model = adapted(model=load_model(model_dir, dtype="bfloat16", device="cpu"))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    gradients(model)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    whole = dict(merged_weights(model.state_dict().items(), model))
    assert {tensor.dtype for tensor in whole.values()} == {torch.bfloat16}
    assert whole.keys() == load_model(model_dir, dtype="bfloat16", device="cpu").state_dict().keys()


def test_targets_and_frozen_layers_bound_where_adapters_are(model_dir: Path) -> None:
    model = adapted(
        'lora.targets=["q_proj"]', "train.frozen_layers=1", model=load_model(model_dir, dtype="float32", device="cpu")
    )
    assert list(adapted_layers(model)) == ["model.layers.1.self_attn.q_proj"]


def test_a_run_resumes_from_base_and_adapter_bit_by_bit_and_its_checkpoint_is_a_model(
    tmp_path: Path, model_dir: Path
) -> None:
    config = config_of(f"model.path={model_dir}", "train.lr=0.05")
    trainer, _ = Trainer.build(config)

    def update(trainer: Trainer, number: int) -> None:
        rows = [unscored(sample, advantage=0.7 - place) for place, sample in enumerate(SAMPLES)]
        trainer.update(rows, update=number)

    for number in range(2):
        update(trainer, number)
    snapshot = take_snapshot(
        trainer.model, trainer.tokenizer, trainer.optimizers, config=config, progress=Progress(update=2)
    )
    before = logprobs(trainer.model)
    update(trainer, 2)
    assert torch.dist(logprobs(trainer.model), before) > 0.01
    checkpoint = save_checkpoint(tmp_path, snapshot, keep=1)
    assert torch.dist(logprobs(load_model(checkpoint, dtype="float32", device="cpu")), before) < 1e-4

    resumed, progress = Trainer.build(config, checkpoint=checkpoint)
    assert progress.update == 2
    assert torch.equal(logprobs(resumed.model), before)
    update(resumed, 2)
    for (name, one), other in zip(trainer.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name

    from peft import PeftModel

    base = load_model(model_dir, dtype="float32", device="cpu")
    by_peft = PeftModel.from_pretrained(base, checkpoint / "adapter").base_model.model.eval()
    assert torch.equal(logprobs(by_peft), before)

    run = make_run(tmp_path / "run")
    checkpoint.rename(run.checkpoints / checkpoint.name)
    checkpoint = run.checkpoints / checkpoint.name
    export(run.path, tmp_path / "model")
    export(run.path, tmp_path / "adapter", adapter=True)
    assert not (tmp_path / "model" / "adapter").exists()
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }

    narrow = config_of(f"model.path={model_dir}", "lora.rank=2")
    with pytest.raises(
        StoreError, match=r"down_proj.lora_A.weight has shape \(4, 24\) there and \(2, 24\) in the model"
    ):
        Trainer.build(narrow, checkpoint=checkpoint)
    (checkpoint / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match=r"adapter_model.safetensors is truncated"):
        Trainer.build(config, checkpoint=checkpoint)


async def test_an_adapter_learns_the_same_with_weights_on_the_host(model_dir: Path) -> None:
    settings = (f"model.path={model_dir}", "train.lr=0.05", "algo.importance_cap=2")
    alone, _ = Trainer.build(config_of(*settings))
    async with opened_trainer(config_of(*settings, "train.offload=true"), checkpoint=None) as (trainer, _):
        for each in (alone, trainer):
            for number in range(2):
                rows = [unscored(sample, advantage=0.7 - place) for place, sample in enumerate(SAMPLES)]
                each.update(rows, update=number)
        found, right = (dict(each.weights().adapter()) for each in (trainer, alone))
        scores, expected = (vars(each.score(SAMPLES)) for each in (trainer, alone))
    assert len(found) == 2 * 2 * 7
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
    for name in ("reference_logprobs", "old_logprobs"):
        torch.testing.assert_close(torch.tensor(scores[name]), torch.tensor(expected[name]), rtol=0, atol=1e-5)


class Servers:
    """Servers that were started for adapters, or not, and keep what they are sent."""

    shared_directory = None

    def __init__(self, *, takes_adapters: bool) -> None:
        self.takes_adapters = takes_adapters
        self.got: dict[Path | str, dict[str, Tensor]] = {}

    async def load_adapter(self, directory: Path, *, version: int) -> list[Path]:
        self.got[directory] = load_file(directory / "adapter_model.safetensors")
        assert json.loads((directory / "adapter_config.json").read_text())["r"] == 4
        return []

    async def update(self, update: Mapping[str, Any], *, version: int) -> None:
        self.got[f"version {version}"] = load_file(update["path"])


async def test_servers_get_the_adapter_under_a_new_directory_each_time_or_merged_weights(model_dir: Path) -> None:
    model = adapted(model=load_model(model_dir, dtype="float32", device="cpu"))
    adapters, whole = Servers(takes_adapters=True), Servers(takes_adapters=False)
    for servers in (adapters, whole):
        transfer = open_transfer(servers, model)
        for version in (1, 2):
            await transfer.send(ModelWeights(model), version=version)
        await transfer.close()
    assert not any(isinstance(place, Path) and place.exists() for place in adapters.got)
    first, second = adapters.got.values()
    assert len(first) == 2 * 2 * 7
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(
        first["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"],
        model.model.layers[1].mlp.up_proj.lora_B["default"].weight,
    )
    sent = whole.got["version 2"]
    assert sent.keys() == {name for name, _ in load_model(model_dir, dtype="float32", device="cpu").named_parameters()}
    with without_adapter(model):
        assert not torch.equal(
            sent["model.layers.0.mlp.up_proj.weight"], model.model.layers[0].mlp.up_proj.base_layer.weight
        )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            ['lora.targets=["w_pack"]'],
            "lora.targets: .* has no linear layer 'w_pack' .* it has down_proj, gate_proj, k_proj",
        ),
        (['lora.targets=["lm_head"]'], "has no linear layer 'lm_head' inside its layers"),
        (["lora.rank=9"], "lora.rank = 9 is more than the rank of .*k_proj, which has 8 × 16 weights"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_loaded(
    settings: list[str], problem: str, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lzero.train.trainer.load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=problem):
        Trainer.build(config_of(f"model.path={model_dir}", *settings))


def test_the_share_of_the_parameters_is_what_adapters_have(model_dir: Path) -> None:
    names, share = check_lora(config_of(f"model.path={model_dir}"))
    model = adapted(model=load_model(model_dir, dtype="float32", device="cpu"))
    added = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert share == added / (sum(weight.numel() for weight in model.parameters()) - added)
    assert set(names) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_rates_that_are_wrong_for_adapters_are_noted(model_dir: Path) -> None:
    def notes(*settings: str) -> str:
        return "; ".join(inert_settings(load_config(overrides=[f"model.path={model_dir}", *settings])))

    assert "an adapter needs about ten times the rate of all weights" in notes("lora.rank=4", "train.lr=1e-6")
    assert "is a rate for a model as small as the nano" in notes("lora.rank=4")
    assert "with lora.rank" not in notes("lora.rank=4", "train.lr=5e-5")
    assert "lora.alpha = 16 has no effect with lora.rank = 0" in notes("lora.alpha=16")


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"lora.rank = 4 needs peft: pip install 'lzero\[lora\]'"):
        check_settings(config_of("train.optimizer=adamw-8bit"))


def test_vllm_servers_are_started_for_as_many_adapters_as_the_lag_needs(model_dir: Path) -> None:
    def config(*settings: str) -> Config:
        base = [f"model.path={model_dir}", "engine.kind=vllm", "engine.transfer=adapter"]
        return load_config(overrides=[*base, *settings])

    words = command(config("lora.rank=9", "rollout.max_lag=1"), Path("s"))
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--max-loras") + 1] == "3"
    task: Any = None
    assert "lora.rank is 0" in vllm_complaint(config(), task)
    assert "more than the 512" in vllm_complaint(config("lora.rank=600"), task)
    model = {
        "logprobs_mode": "processed_logprobs",
        "dtype": "torch.float32",
        "generation_config": "vllm",
        "max_model_len": 9999,
    }
    for lora, problem in (
        (None, "it takes no adapters"),
        ({"max_loras": 1, "max_lora_rank": 16}, "its max_loras is 1, less than 2"),
    ):
        with pytest.raises(EngineError, match=problem):
            check_server("vLLM", {"model_config": model, "lora_config": lora}, config("lora.rank=9"))
    check_server(
        "vLLM", {"model_config": model, "lora_config": {"max_loras": 2, "max_lora_rank": 16}}, config("lora.rank=9")
    )
